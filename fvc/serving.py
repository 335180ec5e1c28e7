"""The served model: the bytes of a video in, a verdict out."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copy2
from tempfile import TemporaryDirectory
from typing import Any, cast

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, PythonModel, PythonModelContext
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

from fvc.config import ClipsConfig
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration
from fvc.files import read_json, write_json
from fvc.networks import DESCRIPTION, WEIGHTS, ClipClassifier, load_network
from fvc.predict import clip_logits, video_logit
from fvc.video import Clips, VideoError, read_clips

SETTINGS = "serving.json"
PACKAGE = Path(__file__).parent
REQUIREMENTS = (
    *("mlflow", "torch", "torchvision", "numpy", "pandas", "av", "jaxtyping", "safetensors"),
    *("scipy", "pyyaml"),
)
"""What the served model imports."""
MIB = 2**20

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "video")]),
    outputs=Schema(
        [
            ColSpec(DataType.double, "probability_fake", required=False),
            ColSpec(DataType.string, "verdict", required=False),
            ColSpec(DataType.double, "threshold"),
            ColSpec(
                Array(
                    Object(
                        [
                            Property("start_s", DataType.double),
                            Property("end_s", DataType.double),
                            Property("probability_fake", DataType.double),
                        ]
                    )
                ),
                "clips",
            ),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a model needs besides its weights."""

    clips: ClipsConfig
    """How the network was trained to see a video."""
    calibration: Calibration
    max_mib: float
    """A larger video is answered with an error."""

    def write(self, folder: Path) -> None:
        """Put the settings beside the network's files."""
        value = asdict(self) | {"calibration": self.calibration.as_dict()}
        write_json(folder / SETTINGS, value)

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """What `write` wrote."""
        value = read_json(folder / SETTINGS, "register")
        return cls(
            clips=ClipsConfig(**value["clips"]),
            calibration=Calibration.from_dict(value["calibration"]),
            max_mib=value["max_mib"],
        )


class VideoVerdict(PythonModel):
    """MLflow's view of the model; `answer` does the work."""

    network: ClipClassifier
    settings: Settings

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and settings; no pickle is involved."""
        folder = Path(context.artifacts["network"])
        self.network = load_network(folder)
        self.settings = Settings.read(folder)

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Score each row's `video`; one that cannot be scored costs only its own row."""
        del context, params
        return [answer(self.network, self.settings, bytes(row)) for row in model_input["video"]]


def decode(video: bytes, settings: Settings) -> Clips:
    """Turn the bytes of a video into the clips that training would have seen.

    Raises:
        VideoError: It is too large, or cannot be decoded.
    """
    if len(video) > settings.max_mib * MIB:
        detail = f"{len(video) / MIB:.1f} MiB, above {settings.max_mib:.1f}"
        raise VideoError("too_large", detail)
    return read_clips(io.BytesIO(video), settings.clips)


def answer(network: ClipClassifier, settings: Settings, video: bytes) -> dict[str, Any]:
    """Score the bytes of one video.

    Returns:
        `probability_fake` (calibrated, of the mean logit of all clips), `verdict`
        (`real`, `fake` or `uncertain`), `threshold` (the probability between real and fake,
        chosen on validation videos), `clips` (start and end in seconds from the first
        frame, and the probability of each), `error`; after an error the scores are None
        and the clips empty.
    """
    try:
        clips = decode(video, settings)
    except VideoError as error:
        return {
            "probability_fake": None,
            "verdict": None,
            "threshold": settings.calibration.threshold,
            "clips": [],
            "error": f"{error.reason}: {error.detail}",
        }
    logits = clip_logits(network, torch.from_numpy(clips.pixels))
    calibration = settings.calibration
    probability = calibration.probability(video_logit(logits))
    return {
        "probability_fake": probability,
        "verdict": calibration.verdict(probability),
        "threshold": calibration.threshold,
        "clips": [
            {
                "start_s": start_s,
                "end_s": end_s,
                "probability_fake": calibration.probability(float(logit)),
            }
            for (start_s, end_s), logit in zip(clips.spans_s, logits, strict=True)
        ],
        "error": None,
    }


def ask(model: PyFuncModel, video: bytes) -> dict[str, Any]:
    """What a loaded model answers to one video; see `answer`."""
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
    """Store a model with the run that trained it, as a new version of `name`.

    Args:
        name: Of the registered model.
        network: The folder that `save_network` filled.
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
        for source in (network / WEIGHTS, network / DESCRIPTION, *extras):
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
            python_model=str(PACKAGE / "served_model.py"),
            artifacts={"network": str(folder)},
            code_paths=[str(PACKAGE)],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"video": [example_video()]}),
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )
    return str(info.registered_model_version)


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
