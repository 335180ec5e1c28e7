"""The model on its way into the registry and out of it."""

import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import copy2
from tempfile import TemporaryDirectory
from typing import Any, cast

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from mlflow.tracking import MlflowClient

from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.networks import ARCHITECTURES, DESCRIPTION, read_description
from fvc.networks.ensemble import files_of
from fvc.serving.answering import Answerer
from fvc.serving.model import SIGNATURE, VideoVerdict
from fvc.serving.settings import Settings

PACKAGE = Path(__file__).parents[1]
REQUIREMENTS = (
    *("mlflow", "torch", "torchvision", "numpy", "pandas", "av", "jaxtyping", "safetensors"),
    *("scipy", "pyyaml", "pydantic", "psutil", "polars", "matplotlib", "pillow"),
)
"""What a served model imports, whatever its network is."""


def ask(model: PyFuncModel, video: bytes) -> dict[str, Any]:
    """What a loaded model answers to one video; see `Answerer.answer`."""
    [answered] = cast(list[dict[str, Any]], model.predict(pd.DataFrame({"video": [video]})))
    return answered


def log_model(
    name: str,
    network: Path,
    settings: Settings,
    extras: Sequence[Path],
    *,
    run_id: str,
    tags: Mapping[str, str],
) -> str:
    """Store a model with the run that it came out of, as a new version of `name`.

    Args:
        name: Of the registered model.
        network: The folder that `save_network` filled, or that of an ensemble.
        settings: What the model needs besides its weights.
        extras: Files kept with the version.
        run_id: The run, finished or not.
        tags: Of the model and the version; the version is never without them.

    Returns:
        The number of the version.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "network"
        folder.mkdir()
        for path in files_of(network):
            (folder / path).parent.mkdir(exist_ok=True)
            copy2(network / path, folder / path)
        for source in extras:
            copy2(source, folder / source.name)
        settings.write(folder)
        # pyfunc.log_model would reopen the run and change when it ended.
        info = Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=_begin_model(name, run_id, tags),
            registered_model_name=name,
            tags=dict(tags),
            python_model=str(PACKAGE / "serving" / "served_model.py"),
            artifacts={"network": str(folder)},
            code_paths=[str(PACKAGE)],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"video": [example_video()]}),
            pip_requirements=requirements_of(network),
        )
    return str(info.registered_model_version)


def requirements_of(network: Path) -> list[str]:
    """What a model of the network in a folder has to install, each in the version that is here."""
    folders = [network / path.parent for path in files_of(network) if path.name == DESCRIPTION]
    models = [read_description(folder)[0] for folder in folders]
    own = {package for each in models for package in ARCHITECTURES[each.network].requirements}
    return [f"{package}=={version(package)}" for package in (*REQUIREMENTS, *sorted(own))]


def _begin_model(name: str, run_id: str, tags: Mapping[str, str]) -> str:
    """Make an empty logged model in the experiment of its run, and give its id.

    Left to itself, MLflow takes the experiment `Default`, whose files lie in
    whatever folder the store was first opened from. What a stopped attempt with
    the same tags left there is deleted.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    same = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    for left in client.search_logged_models([run.info.experiment_id], same):
        client.delete_logged_model(left.model_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags=dict(tags),
        params=dict(run.data.params),
    )
    return model.model_id


def example_video() -> bytes:
    """A second of a moving gradient: the input example that MLflow keeps with the model."""
    column = np.arange(64, dtype=np.uint8)
    still = np.broadcast_to((4 * column)[None, :, None], (64, 64, 3))
    buffer = io.BytesIO()
    encode(buffer, [np.roll(still, 4 * step, axis=1) for step in range(16)], fps=16)
    return buffer.getvalue()


def load_model(uri: str) -> PyFuncModel:
    """Load a model by any URI that MLflow knows, `models:/fvc@champion` for one.

    Raises:
        FvcError: There is none.
    """
    try:
        return mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        cause = f"cannot be loaded ({' '.join(str(error).split())})"
        raise FvcError(uri, cause, "Run 'dvc repro', or name another with --model") from error


def load_answerer(uri: str) -> Answerer:
    """Load what answers behind a model, by any URI that MLflow knows.

    Raises:
        FvcError: There is none, or it is not one of ours.
    """
    try:
        own = load_model(uri).unwrap_python_model()  # type: ignore[no-untyped-call]
        return cast(VideoVerdict, own).answerer
    except (MlflowException, AttributeError) as error:
        raise FvcError(uri, "is no model of fvc", "Name one that 'dvc repro' registered") from error
