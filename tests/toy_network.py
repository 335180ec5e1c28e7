"""Train a fold of a network that was just added, register it, and ask it; run inside a copy."""

import json
import sys
from io import BytesIO
from pathlib import Path

import mlflow
import torch
from outcomes import CALIBRATION
from settings import serving_config
from shelf import compose
from test_train import Corpus

from fvc.networks import load_network
from fvc.predict import clip_logits, video_logit
from fvc.serving.packaging import ask, example_video, load_model, log_model
from fvc.serving.settings import Settings
from fvc.tracking.store import connect, find_runs
from fvc.video import read_clips


def main(root: Path) -> None:
    """Everything by its name alone: the configuration is composed as `dvc exp run` does."""
    params = compose(Path("params.yaml"), "model=toy")
    corpus = Corpus(root)
    assert corpus.params.model == params.model
    model = corpus.train(0)
    client = connect()
    [run] = find_runs(client, {"fvc.network": "toy", "fvc.fold": "0"})
    settings = Settings(
        clips=corpus.params.clips, calibration=CALIBRATION, limits=serving_config(max_mib=5.0)
    )
    number = log_model(
        "fvc", model, settings, [], run_id=run.info.run_id, tags={"fvc.network": "toy"}
    )
    answer = ask(load_model(f"models:/fvc/{number}"), example_video())
    pixels = read_clips(BytesIO(example_video()), corpus.params.clips).pixels
    logits = clip_logits(load_network(model), torch.from_numpy(pixels))
    expected = CALIBRATION.probability(video_logit(logits))
    told = {"error": answer["error"], "served": answer["probability_fake"], "expected": expected}
    sys.stdout.write(f"{json.dumps(told)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    mlflow.set_tracking_uri(f"sqlite:///{Path('mlflow.db').resolve()}")
    main(Path(sys.argv[1]))
