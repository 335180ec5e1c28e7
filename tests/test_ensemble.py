"""An ensemble: its answer, its place in the registry, and who may be in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finishing import PARAMS, finished, logits_of
from mlflow.tracking import MlflowClient
from registering import Corpus, one_layer
from torch import nn

from fvc.config import Params
from fvc.errors import FvcError
from fvc.evidence import locked
from fvc.networks import build_network, save_network
from fvc.networks.ensemble import Ensemble, describe_ensemble, files_of, load_any
from fvc.predict import clip_logits, video_logit
from fvc.serving.answering import Answerer, Wishes
from fvc.serving.packaging import ask, example_video, load_answerer, load_model
from fvc.serving.settings import Settings
from fvc.stages import ensemble
from fvc.tracking import registry
from fvc.tracking.lineage import lineage_of_model


@pytest.fixture(autouse=True)
def _one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvc.networks.build_features", one_layer)


def network_in(folder: Path, seed: int, params: Params = PARAMS) -> Path:
    """A folder with a network of random weights."""
    torch.manual_seed(seed)
    network = build_network(params.model, params.clips)
    nn.init.normal_(network.classifier.weight)
    save_network(network, folder, params.model, params.clips)
    return folder


def trained(root: Path, name: str, seed: int, temperature: float, params: Params = PARAMS) -> str:
    """A finished cross-validation of two folds, with networks."""
    folders = [
        network_in(root / "networks" / name / str(fold), seed + fold, params) for fold in (0, 1)
    ]
    files = [sorted(folder.iterdir()) for folder in folders]
    logits = logits_of(4.0, seed)
    return finished(root, name, logits, temperature=temperature, params=params, networks=files)


@pytest.fixture
def two(store: MlflowClient, tmp_path: Path) -> list[str]:
    del store
    return [trained(tmp_path, "one", 10, 2.0), trained(tmp_path, "other", 20, 0.5)]


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (3, 4, 3, 16, 16), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ensemble of two networks, of which the second is twice as sure as it should be."""
    for number in (0, 1):
        network_in(tmp_path / "ensemble" / str(number), number)
    describe_ensemble(tmp_path / "ensemble", [("0", 1.0), ("1", 2.0)])
    return tmp_path / "ensemble"


def test_its_logit_is_the_mean_of_calibrated_ones(folder: Path, pixels: torch.Tensor) -> None:
    one, other = (clip_logits(load_any(folder / name), pixels).double() for name in "01")
    found = clip_logits(load_any(folder), pixels)
    torch.testing.assert_close(found, (one + other / 2) / 2)
    mean = (video_logit(one) + video_logit(other) / 2) / 2
    assert video_logit(found) == pytest.approx(mean, abs=1e-9), "clips and members do not commute"


def test_members_look_at_clips_as_each_was_trained_to(folder: Path, pixels: torch.Tensor) -> None:
    together = load_any(folder)
    assert isinstance(together, Ensemble)
    together.parts[1].mean.fill_(0.9)
    changed = clip_logits(together, pixels)
    assert not torch.allclose(changed, clip_logits(load_any(folder), pixels))
    alone = [clip_logits(part, pixels).double() for part in together.parts]
    torch.testing.assert_close(changed, (alone[0] + alone[1] / 2) / 2)


def test_members_of_other_clips_do_not_fit(folder: Path) -> None:
    clips = replace(PARAMS.clips, num_frames=8)
    network_in(folder / "1", 1, replace(PARAMS, clips=clips))
    with pytest.raises(ValueError, match="the same clips"):
        load_any(folder)


def test_only_what_is_named_goes_with_it(folder: Path) -> None:
    assert {path.as_posix() for path in files_of(folder)} == {
        "ensemble.json",
        *(
            f"{number}/{name}"
            for number in "01"
            for name in ("network.json", "weights.safetensors")
        ),
    }


def test_the_served_answer_is_the_one_in_process(
    two: list[str], store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    number = ensemble.run(PARAMS, two)
    assert ensemble.run(PARAMS, two) == number, "the same ensemble became two versions"
    video = example_video()
    model = load_model(f"models:/fvc/{number}")
    served = ask(model, video)
    with registry.stored(number) as stored:
        network, settings = load_any(stored), Settings.read(stored)
        kept = locked.kept_logit(stored, "youtube_00", "0" * 64)
    assert kept is None, "it was never shown a locked test"
    assert isinstance(network, Ensemble)
    assert network.temperatures == (2.0, 0.5)
    answerer = Answerer(network, settings, decoders=1)
    try:
        clips = torch.from_numpy(answerer.decoders.clips(video, settings.clips).pixels)
        mine = answerer.answer(video, Wishes(explain=True))
    finally:
        answerer.close()
    logits = [video_logit(clip_logits(part, clips)) for part in network.parts]
    expected = settings.calibration.probability((logits[0] / 2.0 + logits[1] / 0.5) / 2)
    assert served["probability_fake"] == pytest.approx(expected, abs=1e-9)
    assert mine["probability_fake"] == pytest.approx(expected, abs=1e-9)
    assert served["verdict"] == settings.calibration.verdict(expected)
    assert mine["overlay_png"], "nobody is shown where it looked"
    assert served["model_version"] == f"fvc/{number}"
    load_answerer(f"models:/fvc/{number}").close()
    assert "is challenger, not weighed" in capsys.readouterr().err
    version = store.get_model_version("fvc", number)
    card = version.description or ""
    assert "**not met the gate**" in card
    assert all(run in card for run in two)
    assert len(card) < 5000
    assert version.tags["fvc.members"].split() == two
    with pytest.raises(FvcError, match=f"is an ensemble of the runs {two[0]}"):
        lineage_of_model(store, f"fvc/{number}")


def test_who_serves_goes_on_serving(two: list[str], store: MlflowClient) -> None:
    store.create_registered_model("fvc")
    store.create_model_version("fvc", "file:///nowhere", run_id=two[0])
    store.set_registered_model_alias("fvc", "champion", "1")
    assert ensemble.run(PARAMS, two) == "2"
    aliases = store.get_registered_model("fvc").aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {
        "champion": "1",
        "challenger": "2",
    }
    assert registry.PENDING not in store.get_registered_model("fvc").tags


def test_members_that_see_other_clips_are_named(
    two: list[str], store: MlflowClient, tmp_path: Path
) -> None:
    wider = replace(PARAMS, clips=replace(PARAMS.clips, num_clips=2))
    trained(tmp_path, "wider", 30, 1.0, wider)
    with pytest.raises(FvcError, match=r"wider: sees other clips .* than one"):
        ensemble.run(PARAMS, [two[0], "wider"])
    assert registry.registered_model(store) is None, "half an ensemble is registered"


def test_one_network_is_no_ensemble(two: list[str]) -> None:
    with pytest.raises(FvcError, match="is no ensemble"):
        ensemble.run(PARAMS, two[:1])
    with pytest.raises(FvcError, match="is no ensemble"):
        ensemble.run(PARAMS, [two[0], two[0]])


@pytest.mark.usefixtures("store")
def test_one_that_a_person_put_into_service_is_met_on_the_locked_test(
    two: list[str], tmp_path: Path
) -> None:
    number = ensemble.run(PARAMS, two)
    MlflowClient().set_registered_model_alias("fvc", "champion", number)
    corpus = Corpus(tmp_path / "corpus")
    corpus.add_network(0, brightness=1.0, ranks_validation=True)
    corpus.add_network(1, brightness=1.0, ranks_validation=False)
    corpus.add_evidence()
    decided = corpus.register()
    assert decided["promotion"] == "won"
    assert any(f"version {number}" in reason for reason in decided["reasons"]), decided
