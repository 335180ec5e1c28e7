"""The work of the pool in the process of the test: workers cannot be watched."""

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TypeVar

import pytest

from fvc.clip_files import Job

Item = TypeVar("Item")


def run_here(
    function: Callable[[Item], object], items: Iterable[Item], **_: object
) -> Iterator[tuple[Item, object]]:
    """In place of `run_isolated`, one item after the other."""
    for item in items:
        yield item, function(item)


def watched(monkeypatch: pytest.MonkeyPatch, stage: ModuleType) -> list[str]:
    """The ids of the videos that a stage handles from now on, which it does here."""
    names: list[str] = []

    def run_watched(
        function: Callable[[Job], object], jobs: list[Job], **_: object
    ) -> Iterator[tuple[Job, object]]:
        names.extend(job.target.stem for job in jobs)
        return run_here(function, jobs)

    monkeypatch.setattr(stage, "run_isolated", run_watched)
    return names
