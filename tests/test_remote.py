"""A DVC remote on S3: what one clone has made, another has without making it again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clones import Clone, clone_of, make_small
from shared_server import STORE, object_store
from source_tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BUCKET = "fvc-remote"
FOUND_BY_INPUT = ("index", "split", "export_folds", "train", "evaluate", "register")
"""Stages that DVC's run cache knows: those whose outputs it removes before it runs them."""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("s3"), BUCKET) as address:
        yield address


@pytest.fixture(scope="module")
def first(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The pipeline has run in it once, and all that came out is in the remote."""
    clone = clone_of(ROOT, tmp_path_factory.mktemp("first") / "fvc")
    make_small(clone)
    clone.must("dvc", "repro")
    clone.must("dvc", "remote", "add", "--default", "lab", f"s3://{BUCKET}/dvc")
    clone.must("dvc", "remote", "modify", "lab", "endpointurl", endpoint)
    clone.must("git", "commit", "--quiet", "--all", "--message", "A corpus and a remote")
    pushed = clone.must("dvc", "push", "--run-cache", **STORE)
    assert "pushed" in pushed
    return clone


def another(first: Clone, folder: Path) -> Clone:
    return clone_of(first.folder, folder / "fvc")


def outputs(clone: Clone) -> dict[str, bytes]:
    work = clone.folder / "work"
    tops = ("models", "evaluation", "clips", "registered.json", "folds.parquet")
    files = [path for top in tops for path in ((work / top).rglob("*"), [work / top])]
    return {
        str(path.relative_to(work)): path.read_bytes()
        for paths in files
        for path in paths
        if path.is_file()
    }


def test_a_second_clone_has_all_without_making_it(first: Clone, tmp_path: Path) -> None:
    second = another(first, tmp_path)
    second.must("dvc", "pull", **STORE)
    said = second.must("dvc", "repro")
    assert "Data and pipelines are up to date" in said
    assert " took " not in said, "a stage has run"
    assert outputs(second) == outputs(first)


def test_what_another_machine_has_run_is_not_run_again(first: Clone, tmp_path: Path) -> None:
    """Even where dvc.lock does not tell of it: results are found by what went into them."""
    second = another(first, tmp_path)
    second.must("dvc", "pull", "--run-cache", **STORE)
    lock = second.folder / "dvc.lock"
    known = yaml.safe_load(lock.read_text(encoding="utf-8"))
    for stage in [name for name in known["stages"] if name.split("@")[0] in FOUND_BY_INPUT]:
        del known["stages"][stage]
    lock.write_text(yaml.safe_dump(known), encoding="utf-8")
    said = second.must("dvc", "repro")
    assert said.count("is cached - skipping run") >= len(FOUND_BY_INPUT)
    assert " took " not in said, "a stage has run"
    assert outputs(second) == outputs(first)
