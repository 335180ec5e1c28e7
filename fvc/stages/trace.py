"""Walk from a verdict to its model, run, folds and data, and to the commands that rebuild it."""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fvc.errors import FvcError
from fvc.evidence.locked import kept_logit
from fvc.files import sha256_of_file, write_json
from fvc.fold_videos import part_of
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX
from fvc.report.provenance import Verdict, as_text
from fvc.serving.outputs import READABLE, Answer, answers_in
from fvc.serving.settings import Settings
from fvc.tracking import registry
from fvc.tracking.finished import read_cross_validation
from fvc.tracking.lineage import Lineage, lineage_of_fold, lineage_of_model, named_version
from fvc.tracking.store import connect, repository_root

DIGEST = re.compile(r"[0-9a-f]{6,64}")
"""A SHA-256, or how one begins."""

STANDINGS = {
    "train": "trained this network, so the verdict shows what was learned by heart",
    "validation": "chose when this network's training ended, and its threshold",
    "test": "tested this network, which never saw it",
    "locked": "is in the locked test, which this network never saw",
}
"""What a video of the corpus is to a network, by its part in the network's fold."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The videos of the working copy and their division."""

    videos: pl.DataFrame
    """The FOLDS table with the `sha256` of each video."""
    folds_sha256: str

    @classmethod
    def read(cls, index: Path, folds: Path) -> "Corpus":
        """Read the tables of the stages `index` and `split`."""
        table = FOLDS.read(folds)
        known = INDEX.read(index).select("video_id", "sha256")
        return cls(table.join(known, on="video_id"), folds_sha256(table))

    def beginning_with(self, digest: str) -> list[dict[str, Any]]:
        """The videos whose SHA-256 begins so."""
        return self.videos.filter(pl.col("sha256").str.starts_with(digest)).to_dicts()


def standing_of(sha256: str | None, lineage: Lineage, corpus: Corpus | None) -> str:
    """What a video is to the network that judged it, in words."""
    if sha256 is None:
        return "unknown: it was not read"
    if corpus is None:
        return "unknown: 'dvc repro split' has not run here"
    found = corpus.beginning_with(sha256)
    if not found:
        return "none of its videos has these bytes; a copy of this one may still be there"
    names = " and ".join(str(row["video_id"]) for row in found)
    if corpus.folds_sha256 != lineage.folds_sha256:
        return f"{names}; the division here is another one than the network was trained with"
    return f"{names} {STANDINGS[part_of(found[0], lineage.fold)]}"


def trace_answers(
    answers: Sequence[Answer], source: Path, corpus: Corpus | None
) -> list[tuple[Lineage, list[Verdict]]]:
    """Each model that answered, in order, with its verdicts.

    Raises:
        FvcError: An answer names no model, or one that is not in the store.
    """
    by_model: dict[str, list[Answer]] = {}
    for answer in answers:
        if not answer["model_version"]:
            cause = "names no model_version: the model was not loaded from MLflow's store"
            raise FvcError(source, cause, "Ask one that was loaded as models:/... or runs:/...")
        by_model.setdefault(answer["model_version"], []).append(answer)
    client, traced = connect(), []
    for model, own in by_model.items():
        lineage = lineage_of_model(client, model)
        traced.append((lineage, [_verdict(answer, lineage, corpus) for answer in own]))
    return traced


def _verdict(answer: Answer, lineage: Lineage, corpus: Corpus | None) -> Verdict:
    sha256 = answer["video_sha256"]
    return Verdict(
        name=answer.get("file") or answer.get("name") or "video",
        sha256=sha256 or "",
        said=answer["verdict"] or f"no verdict ({answer['error']})",
        probability_fake=answer["probability_fake"],
        threshold=answer.get("threshold"),
        standing=standing_of(sha256, lineage, corpus),
    )


def trace_video(
    row: Mapping[str, Any], model: str, corpus: Corpus
) -> tuple[Lineage, list[Verdict]]:
    """The verdict on a video of the corpus by a network that never saw it.

    That is the network of the fold that tests it, in the cross-validation that the model
    came out of; of the locked test, the model itself.

    Raises:
        FvcError: The model has no such verdict.
    """
    video_id = str(row["video_id"])
    missing = FvcError(
        video_id, f"was not scored when {model} was evaluated", "Name another --model"
    )
    client, threshold = connect(), None
    if row["part"] == "locked":
        version = named_version(client, model)
        lineage = lineage_of_model(client, f"{version.name}/{version.version}")
        with registry.stored(registry.number_of(version)) as folder:
            logit = kept_logit(folder, video_id, str(row["sha256"]))
            calibration = Settings.read(folder).calibration
        if logit is None:
            raise missing
        probability, threshold = calibration.probability(logit), calibration.threshold
        said: str = calibration.verdict(probability)
    else:
        run = read_cross_validation(client, model)
        scored = run.out_of_fold.filter(video_id=video_id).to_dicts()
        if not scored:
            raise missing
        lineage = lineage_of_fold(client, run.run_id, scored[0]["fold"])
        probability, said = scored[0]["probability_fake"], scored[0]["verdict"]
    verdict = Verdict(
        name=video_id,
        sha256=str(row["sha256"]),
        said=said,
        probability_fake=probability,
        threshold=threshold,
        standing=standing_of(str(row["sha256"]), lineage, corpus),
    )
    return lineage, [verdict]


def run(what: str, *, video: str, model: str, index: Path, folds: Path, json: Path | None) -> None:
    """Print where a verdict comes from, and write it where that is wanted.

    Args:
        what: A file of answers, a video, or the SHA-256 of one.
        video: How the SHA-256 of those answers begins that are wanted.
        model: Whose verdict on a video of the corpus is wanted.
        index: The INDEX table.
        folds: The FOLDS table.
        json: Where to write the same for programs.

    Raises:
        FvcError: There is no such answer or video, or MLflow's store lacks what leads on.
    """
    source = Path(what)
    corpus = Corpus.read(index, folds) if index.is_file() and folds.is_file() else None
    if source.suffix in READABLE:
        answers = [
            answer
            for answer in answers_in(source)
            if (answer["video_sha256"] or "").startswith(video)
        ]
        if not answers:
            cause = f"has no answer to a video whose SHA-256 begins with {video}"
            raise FvcError(source, cause, "Name one that it has")
        traced = trace_answers(answers, source, corpus)
    else:
        digest = sha256_of_file(source) if source.is_file() else what
        corpus = corpus or Corpus.read(index, folds)
        traced = [trace_video(row, model, corpus) for row in _rows(digest, corpus)]
    root = repository_root()
    sys.stdout.write("\n".join(as_text(verdicts, lineage, root) for lineage, verdicts in traced))
    if json is not None:
        told = [
            {"lineage": lineage.as_dict(), "verdicts": [verdict.as_dict() for verdict in verdicts]}
            for lineage, verdicts in traced
        ]
        write_json(json, told)


def _rows(digest: str, corpus: Corpus) -> list[dict[str, Any]]:
    if not DIGEST.fullmatch(digest):
        cause = "is neither a file nor a SHA-256"
        raise FvcError(digest, cause, "Name the answers, a video, or a video's SHA-256")
    found = corpus.beginning_with(digest)
    if not found:
        cause = "is the SHA-256 of no video in the corpus"
        raise FvcError(digest, cause, "Name the file with the answer; 'fvc predict' writes one")
    if len({row["sha256"] for row in found}) > 1:
        raise FvcError(digest, f"begins {len(found)} digests of the corpus", "Give more of it")
    return found


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc trace", description=__doc__)
    parser.add_argument(
        "what",
        metavar="ANSWERS|VIDEO|SHA256",
        help="read: answers of 'fvc predict' or a server (.json, .jsonl, .csv, .parquet); or a "
        "video of the corpus, as a file or by its SHA-256 or how that begins",
    )
    parser.add_argument("--video", default="", help="of the answers, those to this SHA-256")
    told = "whose verdict on a video of the corpus: models:/fvc/3"
    parser.add_argument("--model", default="models:/fvc@champion", help=told)
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--folds", type=Path, required=True, help="read: their division")
    parser.add_argument("--json", type=Path, help="written: the same for programs")
    args = vars(parser.parse_args(argv))
    run(args.pop("what"), **args)
