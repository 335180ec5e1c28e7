"""The workers of Dask in place of this machine's: the same results, and what happens to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from dask_cluster import dask_cluster
from items import (
    Unfit,
    crash_or_square,
    fail,
    lose_a_worker_once,
    lose_the_worker,
    lose_workers_together,
    refuse,
    size_of,
    square,
    time_out,
    write_pid,
)

from fvc.errors import FvcError
from fvc.pool import ENGINE, cluster, run_isolated, schedulers
from fvc.pool.isolation import Failure
from fvc.video import VideoError


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), num_workers=2) as address:
        yield address


@pytest.fixture
def _on_dask(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE, scheduler)


on_dask = pytest.mark.usefixtures("_on_dask")


def run(function: Any, items: Any, timeout_s: float = 60.0) -> dict[Any, Any]:
    return dict(run_isolated(function, items, timeout_s=timeout_s, description="test"))


@on_dask
def test_results_and_failures_are_those_of_this_machine() -> None:
    results = run(crash_or_square, range(12), timeout_s=2.0)
    assert results.pop(5) == Failure("crashed", f"its process ended with code -{signal.SIGABRT}")
    assert results.pop(7) == Failure("timeout", "took longer than 2 s")
    assert results == {number: number * number for number in range(12) if number not in (5, 7)}
    assert run(square, []) == {}
    errors = run(refuse, range(3))
    assert (errors[0], str(errors[1])) == (0, "clip.pt: is missing. Run 'dvc repro clips'.")
    assert isinstance(errors[2], VideoError)


@on_dask
def test_an_unknown_error_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError, match="no inverse of 0") as raised:
        run(fail, [0])
    assert "raised on 0" in "".join(raised.value.__notes__), "nobody learns on which item"


@on_dask
def test_a_timeout_of_the_function_is_no_slow_worker() -> None:
    with pytest.raises(TimeoutError, match="no answer for 0"):
        run(time_out, [0])


@on_dask
def test_what_a_leaving_worker_was_sent_is_done_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = cluster._Run.refresh

    def see_one_that_has_gone(self: "cluster._Run[int]") -> None:
        refresh(self)
        if not self.sent:
            self.workers["tcp://127.0.0.1:9"] = 1

    monkeypatch.setattr(cluster, "REFRESH_S", 0.2)
    monkeypatch.setattr(cluster, "ORPHANED_S", 0.1)
    monkeypatch.setattr(cluster._Run, "refresh", see_one_that_has_gone)
    assert run(square, range(6)) == {number: number * number for number in range(6)}


@on_dask
def test_a_worker_on_which_nothing_starts_gets_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(Unfit(tmp_path / "mark"), range(6)) == {number: number**2 for number in range(6)}
    assert "gets nothing more: a worker ended with code 3 before" in caplog.text


@on_dask
def test_where_nothing_starts_anywhere_the_run_ends() -> None:
    with pytest.raises(RuntimeError, match="a worker ended with code 3 before it had anything"):
        run(Unfit(), range(6))


@on_dask
def test_paths_are_relative_to_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video").write_bytes(b"four")
    monkeypatch.chdir(tmp_path)
    assert run(size_of, [Path("video")]) == {Path("video"): 4}
    assert [path.name for path in tmp_path.iterdir()] == ["video"], "something is left behind"


@pytest.mark.slow
@on_dask
def test_an_item_that_takes_two_workers_down_is_rejected_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "TOGETHER_S", 2.0)
    results = run(lose_the_worker, range(24))
    assert results.pop(3) == Failure("crashed", "2 workers were lost with it")
    assert results == {number: number for number in range(24) if number != 3}


@pytest.mark.slow
@on_dask
def test_an_item_is_not_blamed_for_workers_that_are_lost_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TOGETHER_S", 3.0)
    items = [(number, tmp_path) for number in range(6)]
    assert run(lose_workers_together, items) == {item: item[0] for item in items}
    assert len(list(tmp_path.iterdir())) == 4, "each was to lose two workers"


@pytest.mark.slow
@on_dask
def test_what_a_lost_worker_had_is_done_by_another(tmp_path: Path) -> None:
    items = [(number, tmp_path / "mark") for number in range(12)]
    assert run(lose_a_worker_once, items) == {item: item[0] for item in items}


@pytest.mark.slow
@on_dask
def test_whoever_stops_frees_the_workers(tmp_path: Path) -> None:
    items = [(number, tmp_path) for number in range(4)]
    results = run_isolated(write_pid, items, timeout_s=90.0, description="test")
    with closing(results):  # type: ignore[type-var]  # it is a generator
        assert next(results) == (items[0], 0)
        busy = [wait_for_pid(tmp_path / f"{number}.pid") for number in (1, 2)]
    _, alive = psutil.wait_procs(busy, timeout=10)
    assert not alive, "a worker goes on for nobody"


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import items
from fvc.errors import FvcError
from fvc.pool import run_isolated

if __name__ == "__main__":
    pids = [(number, Path.cwd()) for number in (1, 2)]
    try:
        list(run_isolated(items.write_pid, pids, timeout_s=90.0, description="test"))
    except FvcError as error:
        sys.exit(f"error: {{error}}")
"""


@pytest.mark.slow
def test_a_scheduler_that_goes_is_one_clear_line(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent)))
    with ExitStack() as stack:
        running = stack.enter_context(dask_cluster(tmp_path, num_workers=1))
        parent = subprocess.Popen(
            [sys.executable, script],
            cwd=tmp_path,
            env={**os.environ, ENGINE: running},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_pid(tmp_path / "1.pid")
        stack.close()
        _, said = parent.communicate(timeout=90)
    assert parent.returncode == 1, said
    assert "error: Dask's scheduler: has gone, and with it what was running. Start it" in said, said
    assert "Traceback" not in said


@pytest.mark.slow
@on_dask
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_frees_the_workers(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, stderr=subprocess.PIPE) as parent:
        busy = [wait_for_pid(tmp_path / f"{item}.pid") for item in (1, 2)]
        parent.send_signal(number)
        parent.wait(30)
    _, alive = psutil.wait_procs(busy, timeout=10)
    assert not alive, "a worker goes on for nobody"
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob(".fvc-*")), "it did not tidy up"


def wait_for_pid(path: Path) -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(int(path.read_text()))


@on_dask
def test_a_worker_that_does_not_see_the_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(SimpleNamespace):
        def __enter__(self) -> "Elsewhere":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(cluster, "NamedTemporaryFile", lambda **_: Elsewhere(name="/no/such"))
    with pytest.raises(FvcError, match=r"^worker tcp.* does not see the files of .* shared"):
        run(square, range(3))


def test_no_scheduler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "CONNECT_S", 0.2)
    monkeypatch.setenv(ENGINE, "tcp://127.0.0.1:9")
    with pytest.raises(FvcError, match=r"^tcp://127.0.0.1:9: no scheduler answers .*unset FVC"):
        run(square, range(3))


@pytest.mark.parametrize("engine", ["kubernetes", "tcp://127.0.0.1", "tcp://"])
def test_an_unknown_engine_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv(ENGINE, engine)
    with pytest.raises(FvcError, match=rf"^FVC_CLUSTER: is '{engine}', which is neither"):
        run(square, range(3))


def test_tls_needs_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE, "tls://127.0.0.1:8786")
    with pytest.raises(FvcError, match=r"asks for TLS, .* has no distributed.comm.tls.ca-file"):
        run(square, range(3))


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    for module in ("fvc.pool.cluster", "fvc.pool.schedulers"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv(ENGINE, "slurm")
    with pytest.raises(FvcError, match=r"dask is not installed\. Run 'make setup', which has"):
        run(square, range(3))


def test_slurm_needs_to_know_how_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE, "slurm")
    with pytest.raises(FvcError, match=r"fvc.jobs, the number of jobs, is None"):
        run(square, range(3))


def test_chunks_take_seconds_and_are_shared_towards_the_end() -> None:
    stock = cluster._Stock(iter(range(1000)), 1000)
    sizes = []
    while chunk := stock.take(4, with_suspects=True):
        sizes.append(len(chunk.items))
        stock.num_done, stock.busy_s = (
            stock.num_done + len(chunk.items),
            stock.busy_s + 0.05 * len(chunk.items),
        )
    assert sizes[0] == 1, "how long an item takes is not known before"
    assert sizes[1] == 40
    assert sizes[-4:] == [1, 1, 1, 1], "a worker has much to do while others have nothing"
    assert sum(sizes) == 1000
