from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from outcomes import CALIBRATION
from small_networks import CLIPS, small_network
from source_tree import ROOT, as_folders, reach_of

from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence import rescoring
from fvc.evidence.perturbations import REENCODED, clips_of_versions, version_names
from fvc.evidence.rescoring import Rescored, Subject, rescore
from fvc.files import sha256_of_file
from fvc.networks import WEIGHTS
from fvc.pool import Failure
from fvc.predict import clip_logits, video_logit
from fvc.video import VideoError, read_clips

Versions = dict[str, UInt8[np.ndarray, "N T C H W"]]


class Corpus:
    """Two folds with networks of their own, and two videos tested by each."""

    def __init__(self, root: Path) -> None:
        self.models, self.kept = root / "models", root / "kept"
        self.subjects = [self.subject(root / "videos", number) for number in range(4)]
        for fold in (0, 1):
            self.set_weights(fold, bytes([fold]))

    def subject(self, videos: Path, number: int) -> Subject:
        source = videos / f"v{number}.mp4"
        noise = np.random.default_rng(number).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
        encode(source, list(noise))
        return Subject(f"v{number}", source, sha256_of_file(source), number % 2)

    def set_weights(self, fold: int, content: bytes) -> None:
        folder = self.models / str(fold)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(content)

    def rescore(self) -> dict[str, Rescored]:
        return rescore(self.subjects, self.models, CLIPS, self.kept)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    def network_of(folder: Path) -> torch.nn.Module:
        return small_network(seed=int(folder.name)).eval()

    monkeypatch.setattr(rescoring, "load_network", network_of)
    return Corpus(tmp_path)


@pytest.fixture
def perturbed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the videos that were perturbed, one after the other in this process."""
    names: list[str] = []

    def run_here(
        function: Callable[[Path], Versions], items: Sequence[Path], **_: object
    ) -> Iterator[tuple[Path, Versions | VideoError]]:
        for item in items:
            names.append(item.stem)
            try:
                yield item, function(item)
            except VideoError as error:
                yield item, error

    monkeypatch.setattr(rescoring, "run_isolated", run_here)
    return names


def test_each_video_is_scored_by_the_network_of_its_fold(corpus: Corpus) -> None:
    found = corpus.rescore()
    assert list(found) == ["v0", "v1", "v2", "v3"]
    for subject in corpus.subjects:
        network = small_network(seed=subject.fold).eval()
        assert list(found[subject.video_id].logits) == version_names()
        for name, pixels in clips_of_versions(subject.source, CLIPS).items():
            expected = video_logit(clip_logits(network, torch.from_numpy(pixels)))
            assert found[subject.video_id].logits[name] == pytest.approx(expected, abs=1e-6)


def test_versions_of_several_shapes_are_scored() -> None:
    native = replace(CLIPS, fit="native", num_clips=2)
    network = small_network()
    network.clips = native
    generator = np.random.default_rng(0)
    sizes = {"wide": (16, 32), "wider": (12, 32), "as_wide": (16, 32)}
    versions = {
        name: generator.integers(0, 256, (2, 8, 3, *size), dtype=np.uint8)
        for name, size in sizes.items()
    }
    logits = rescoring.logits_of_versions(network, versions)
    assert list(logits) == list(versions)
    for name, pixels in versions.items():
        alone = video_logit(clip_logits(network, torch.from_numpy(pixels)))
        assert logits[name] == pytest.approx(alone, abs=1e-6)


def test_the_baseline_is_near_what_serving_answers(corpus: Corpus) -> None:
    subject = corpus.subjects[0]
    clips = read_clips(subject.source, CLIPS)
    served = video_logit(clip_logits(small_network(0), torch.from_numpy(clips.pixels)))
    logit = corpus.rescore()["v0"].logits[REENCODED]
    near = pytest.approx(CALIBRATION.probability(served), abs=0.01)
    assert CALIBRATION.probability(logit) == near


def test_what_was_scored_is_not_scored_again(corpus: Corpus, perturbed: list[str]) -> None:
    first = corpus.rescore()
    assert sorted(perturbed) == ["v0", "v1", "v2", "v3"]
    perturbed.clear()
    assert corpus.rescore() == first, "kept scores differ from fresh ones"
    assert perturbed == []


def test_other_weights_clips_or_videos_are_scored_anew(
    corpus: Corpus, perturbed: list[str], tmp_path: Path
) -> None:
    corpus.rescore()
    perturbed.clear()
    corpus.set_weights(1, b"trained again")
    corpus.rescore()
    assert perturbed == ["v1", "v3"]
    perturbed.clear()
    corpus.subjects[0] = corpus.subject(tmp_path / "videos", 8)
    corpus.rescore()
    assert perturbed == ["v8"]
    perturbed.clear()
    rescore(corpus.subjects, corpus.models, replace(CLIPS, num_clips=2), corpus.kept)
    assert len(perturbed) == 4


def test_a_killed_run_has_not_worked_in_vain(
    corpus: Corpus, perturbed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> float:
        if len(perturbed) == 3:
            raise KeyboardInterrupt
        return 0.25

    with monkeypatch.context() as patched:
        patched.setattr(rescoring, "video_logit", killed)
        with pytest.raises(KeyboardInterrupt):
            corpus.rescore()
    done, perturbed[:] = perturbed[:2], []
    found = corpus.rescore()
    assert sorted([*done, *perturbed]) == ["v0", "v1", "v2", "v3"]
    assert found[done[0]].logits[REENCODED] == 0.25


def test_a_bad_video_costs_only_itself_and_is_refused_once(
    corpus: Corpus, perturbed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.subjects[2].source.write_bytes(b"<html>not found</html>")
    found = corpus.rescore()
    assert found["v2"].logits == {}
    assert (found["v2"].failure or "").startswith("not_a_video")
    assert "v2: not_a_video" in capsys.readouterr().err
    assert [video_id for video_id in found if found[video_id].failure] == ["v2"]
    perturbed.clear()
    assert corpus.rescore() == found
    assert perturbed == []


def test_what_took_too_long_is_tried_again(
    corpus: Corpus, perturbed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(_: object, items: Sequence[Path], **__: object) -> list[tuple[Path, Failure]]:
        return [(item, Failure("timeout", "took longer than 1 s")) for item in items]

    with monkeypatch.context() as patched:
        patched.setattr(rescoring, "run_isolated", late)
        found = corpus.rescore()
    assert {each.failure for each in found.values()} == {"timeout: took longer than 1 s"}
    assert all(each.failure is None for each in corpus.rescore().values())
    assert len(perturbed) == 4


def test_a_missing_video_or_network_is_named(corpus: Corpus) -> None:
    (corpus.models / "1" / WEIGHTS).unlink()
    with pytest.raises(FvcError, match=r"models/1/weights.*is missing\. Run 'dvc repro -f -s tra"):
        corpus.rescore()
    corpus.subjects[3].source.unlink()
    with pytest.raises(FvcError, match=r"v3\.mp4: is missing\. Run 'dvc repro extract'"):
        corpus.rescore()


def test_kept_scores_are_bound_to_all_code_behind_them() -> None:
    package = ROOT / "fvc"
    roots = [package / "evidence/perturbations.py", package / "predict.py"]
    reached = {
        path.relative_to(package).as_posix() for source in roots for path in reach_of(source)
    }
    settings = {name for name in reached if name.startswith("config/")}
    own = as_folders(reached - settings, "networks") - {"errors.py", "files.py"}
    assert set(rescoring.CODE) == own
