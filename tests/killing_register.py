"""Kill a registration and a rollback before each write to the registry, and start them again.

The store is real, and so are the kills; a process is a fork, as an interpreter that imports
MLflow and torch takes longer than all that it does here. This process opens the store with
nothing but sqlite3, so that a fork inherits no connection, and leaves polars alone, whose
threads would not be there in a fork.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mlflow.tracking import MlflowClient
from registering import Corpus, one_layer

from fvc import networks
from fvc.stages import register, rollback
from fvc.tracking.store import PARENT_VARIABLE

WRITES = (
    *("create_logged_model", "create_registered_model", "_create_model_version"),
    *("set_model_version_tag", "update_model_version", "set_registered_model_alias"),
    *("set_registered_model_tag", "delete_registered_model_tag"),
)
"""What changes the registry, of MLflow's client."""
TABLES = (
    "select name, version, key, value from model_version_tags",
    "select name, version, description from model_versions",
    "select name, alias, version from registered_model_aliases",
    "select name, key, value from registered_model_tags",
)
UNOPPOSED = {"challenger": "1", "champion": "1"}
WON = {"challenger": "2", "champion": "2", "previous": "1"}
REFUSED = {"challenger": "3", "champion": "2", "previous": "1"}
ROLLED_BACK = {"challenger": "2", "champion": "1", "previous": "2"}


class Registry:
    """A corpus, its store, and the states of it that are gone back to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "mlflow.db"

    def keep(self, name: str) -> None:
        """Remember this state."""
        shutil.copy(self.database, self.root / f"{name}.db")

    def go_back(self, name: str) -> None:
        """To a state, by its name."""
        shutil.copy(self.root / f"{name}.db", self.database)

    def aliases(self) -> dict[str, str]:
        """The version by alias."""
        rows = self.query("select alias, version from registered_model_aliases")
        return {alias: str(version) for alias, version in rows}

    def query(self, text: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.database) as connection:
            return sorted(connection.execute(text).fetchall(), key=repr)

    def content(self) -> list[list[tuple[Any, ...]]]:
        """Everything that a registration writes, without times."""
        return [self.query(text) for text in TABLES]

    def is_changing(self) -> bool:
        """Aliases are on the move."""
        return bool(self.query("select key from registered_model_tags where key='fvc.pending'"))


def before_each_write(happens: Callable[[], None]) -> None:
    """Let something happen before each write, that of the summary included.

    Of tags in a row, which differ in nothing that matters here, the first two count.
    """
    row: list[str] = []

    def watch(owner: Any, name: str) -> None:
        write = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            row.append(name)
            if row[-3:] != 3 * ["set_model_version_tag"]:
                happens()
            return write(*args, **kwargs)

        setattr(owner, name, watched)

    for name in WRITES:
        watch(MlflowClient, name)
    watch(register, "write_json")


def in_a_process(work: Callable[[], object], kill_at: int = 0) -> bool:
    """Do it in a fork; killed before its write number `kill_at`, says False if so."""
    child = os.fork()
    if not child:
        writes: list[None] = []

        def die() -> None:
            writes.append(None)
            if len(writes) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        before_each_write(die)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status not in (0, signal.SIGKILL):
        sys.exit(f"a process failed with status {status}")
    return status == 0


def expect(found: object, expected: object, harm: str) -> None:
    if found != expected:
        sys.exit(f"{harm}: {found} and not {expected}")


def kill_everywhere(
    place: Registry,
    start: str,
    work: Callable[[], object],
    then: Callable[[], object],
    aliases: dict[str, str],
    *,
    from_kill: int = 1,
    in_service: bool = True,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Kill the work before each of its writes; what is done then ends in the right state.

    Args:
        place: The corpus and its store.
        start: The state in which each attempt starts.
        work: What is killed.
        then: What is done after that, undisturbed.
        aliases: What it has to end in.
        from_kill: The first write before which it is killed.
        in_service: Whether there has to be a champion after each kill.
        until: After a kill, whether enough was seen.

    Returns:
        How many kills there were.
    """
    kill, content = from_kill, None
    while True:
        place.go_back(start)
        if in_a_process(work, kill):
            return kill - from_kill
        champion = place.aliases().get("champion")
        if in_service and champion not in ("1", "2"):
            sys.exit(f"no champion is in service after kill {kill}")
        if until():
            return kill - from_kill
        if not in_a_process(then):
            sys.exit("it was killed, and should not have been")
        expect(place.aliases(), aliases, f"after kill {kill} the aliases are wrong")
        expect(place.is_changing(), False, f"after kill {kill} a change is left over")
        content = content or place.content()
        expect(place.content(), content, f"kill {kill} is seen afterwards")
        kill += 1


def first_within(place: Registry, work: Callable[[], object]) -> int:
    """The first write before which a kill leaves aliases on the move."""
    kill = 1
    while True:
        place.go_back("registered")
        if in_a_process(work, kill):
            sys.exit("no kill leaves aliases on the move: nothing was shown")
        if place.is_changing():
            return kill
        kill += 1


def isolate(root: Path) -> None:
    """Work in a repository of its own, with a network that is soon trained."""
    torch.set_num_threads(1)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
    for name in ("MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "DVC_EXP_NAME", PARENT_VARIABLE):
        os.environ.pop(name, None)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    networks.build_features = one_layer  # type: ignore[assignment]
    (root / "dvc.yaml").write_text("stages: {}\n")
    os.chdir(root)


def main(root: Path) -> None:
    isolate(root)
    place, counts = Registry(root), {}

    def prepare(brightness: float, low: float) -> None:
        corpus = Corpus(root)
        corpus.add_evidence(low=low)
        corpus.add_network(0, brightness=0.001, ranks_validation=False)
        corpus.add_network(1, brightness=brightness, ranks_validation=True)
        corpus.track()

    def again() -> None:
        Corpus(root).only_register()

    def until_versions(number: int) -> Callable[[], bool]:
        return lambda: len(place.query("select version from model_versions")) == number

    in_a_process(lambda: prepare(0.001, 0.8))
    place.keep("empty")
    counts["first"] = kill_everywhere(place, "empty", again, again, UNOPPOSED, in_service=False)
    in_a_process(lambda: prepare(0.002, 0.8))
    place.keep("first")
    counts["before there is a version"] = kill_everywhere(
        place, "first", again, again, WON, until=until_versions(2)
    )
    place.keep("registered")
    counts["promotion"] = kill_everywhere(place, "registered", again, again, WON)
    place.keep("second")
    summary = (root / "registered.json").read_bytes()
    counts["promotion, then rolled back"] = kill_everywhere(
        place, "registered", again, rollback.run, ROLLED_BACK, from_kill=first_within(place, again)
    )
    counts["rollback"] = kill_everywhere(place, "second", rollback.run, rollback.run, ROLLED_BACK)
    place.keep("rolled back")
    # From its second write on, a rollback is decided, and the next registration finishes it.
    counts["rollback, then registered"] = kill_everywhere(
        place, "second", rollback.run, again, ROLLED_BACK, from_kill=2
    )
    counts["rollback of a rollback"] = kill_everywhere(
        place, "rolled back", rollback.run, rollback.run, WON
    )
    expect((root / "registered.json").read_bytes(), summary, "the summary has changed")
    place.go_back("second")
    in_a_process(lambda: prepare(0.003, 0.6))
    place.keep("third")
    counts["refusal"] = kill_everywhere(place, "third", again, again, REFUSED)
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
