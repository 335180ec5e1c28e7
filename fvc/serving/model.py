"""MLflow's view of the model: a table of videos in, one answer for each row out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from fvc.networks.ensemble import load_any
from fvc.serving.answering import Answerer, Wishes
from fvc.serving.settings import Settings

VERSION_FILE = "registered_model_meta"
"""What MLflow writes into the folder of a registered version when it fetches it."""

BYTES = (bytes, bytearray, memoryview)

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.binary, "video"),
            ColSpec(DataType.string, "name", required=False),
        ]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.string, "name", required=False),
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
            ColSpec(DataType.string, "model_version", required=False),
            ColSpec(DataType.string, "video_sha256", required=False),
            ColSpec(DataType.string, "overlay_png", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("clips", DataType.integer, None),
            ParamSpec("threshold", DataType.double, None),
            ParamSpec("explain", DataType.boolean, False),
        ]
    ),
)


class VideoVerdict(PythonModel):
    """What `mlflow models serve` calls; `Answerer` does the work."""

    answerer: Answerer

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and settings, no pickle among them, and start the processes that decode."""
        folder = Path(context.artifacts["network"])
        network = load_any(folder)
        network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.answerer = Answerer(network, Settings.read(folder), version_in(folder.parents[1]))

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Score each row's `video`; one that cannot be scored costs only its own row.

        Raises:
            MlflowException: A parameter is out of range; a server answers with status 400.
        """
        del context
        try:
            wishes = Wishes(**(params or {}))
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        answers = self._answers(list(model_input["video"]), wishes)
        if "name" in model_input:
            names = [None if pd.isna(name) else str(name) for name in model_input["name"]]
            answers = [
                {"name": name, **answer} for name, answer in zip(names, answers, strict=True)
            ]
        return answers

    def _answers(self, rows: Sequence[object], wishes: Wishes) -> list[dict[str, Any]]:
        """An answer for each row, also for those that hold no bytes: MLflow lets them through."""
        videos = [bytes(row) for row in rows if isinstance(row, BYTES)]
        scored = iter(self.answerer.answers(videos, wishes))
        return [
            next(scored)
            if isinstance(row, BYTES)
            else self.answerer.refusal(
                f"not_bytes: {type(row).__name__}, not the bytes of a file", wishes
            )
            for row in rows
        ]


def version_in(model: Path) -> str | None:
    """Which registered version a model's folder holds: `fvc/3`.

    Of one that was not loaded as a version it is the id of the logged model, `m-...`, where
    it has one.
    """
    told = model / VERSION_FILE
    content = yaml.safe_load(told.read_text(encoding="utf-8")) if told.is_file() else {}
    if content.get("model_version") is None:
        return Model.load(model).model_id
    return f"{content['model_name']}/{content['model_version']}"
