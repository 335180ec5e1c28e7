import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, overload

import psutil
import pytest
from items import fail, refuse, square

from fvc.errors import FvcError
from fvc.pool import Failure, run_isolated
from fvc.video import OutOfMemoryError, VideoError


def square_or_crash(number: int) -> int:
    if number == 5:
        os.abort()
    if number == 9:
        ctypes.string_at(0)
    if number == 12:
        os._exit(3)
    time.sleep(0.01)
    return number * number


def hang(number: int) -> int:
    # In native code, where Python's signal handlers do not run.
    if number == 1:
        ctypes.CDLL(None).sleep(60)
    return number


def crash(number: int) -> int:
    os._exit(number)


def end_from_outside(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def end_first_from_outside(item: tuple[int, Path]) -> int:
    number, mark = item
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_in_a_way_that_cannot_be_sent(number: int) -> int:
    class LocalError(Exception):
        pass

    raise LocalError(f"no inverse of {number}")


def leave(number: int) -> int:
    sys.exit(f"no inverse of {number}")


def allocate_without_end(number: int) -> int:
    hoard = []
    while number == 1:
        hoard.append(bytearray(2**20))
    return number


def allocate_in_native_code(number: int) -> int:
    allocate = ctypes.CDLL(None, use_errno=True).malloc
    allocate.restype = ctypes.c_void_p
    allocate.argtypes = [ctypes.c_size_t]
    refused = allocate(2**30) is None
    return number + refused * 100


def open_too_much(number: int) -> int:
    if number == 1:
        raise OutOfMemoryError
    return number


def loaded_modules(_: int) -> list[str]:
    return sorted(sys.modules)


def large(number: int) -> bytes:
    return bytes(3_000_000) + bytes([number])


def test_every_item_gets_its_result() -> None:
    results = dict(run_isolated(square, range(30), timeout_s=60.0, description="test"))
    assert results == {number: number * number for number in range(30)}


def test_no_items_give_nothing() -> None:
    assert list(run_isolated(square, [], timeout_s=60.0, description="test")) == []


def test_large_results_arrive_whole() -> None:
    results = dict(run_isolated(large, range(6), timeout_s=60.0, description="test"))
    assert results == {number: large(number) for number in range(6)}


def test_of_many_items_only_those_that_crash_are_lost() -> None:
    results = dict(run_isolated(square_or_crash, range(20), timeout_s=60.0, description="test"))
    crashed = {number for number, result in results.items() if isinstance(result, Failure)}
    assert crashed == {5, 9, 12}
    assert results[5] == Failure("crashed", f"its process ended with code -{signal.SIGABRT}")
    assert len(results) == 20, "an item got no result"


def test_where_every_item_crashes_each_has_its_own_end() -> None:
    results = dict(run_isolated(crash, range(1, 7), timeout_s=60.0, description="test"))
    ends = {number: f"its process ended with code {number}" for number in range(1, 7)}
    assert results == {number: Failure("crashed", detail) for number, detail in ends.items()}


def test_an_item_whose_worker_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    items = [(number, tmp_path / "been_here") for number in range(3)]
    results = run_isolated(end_first_from_outside, items, timeout_s=60.0, description="test")
    assert sorted(number for (number, _), _ in results) == [0, 1, 2]
    assert (tmp_path / "been_here").exists()
    lost = dict(run_isolated(end_from_outside, range(3), timeout_s=60.0, description="test"))
    assert lost == {0: 0, 1: Failure("crashed", "ended from outside twice (-9)"), 2: 2}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is allocated")
@pytest.mark.parametrize("function", [allocate_without_end, open_too_much])
def test_what_takes_too_much_memory_costs_its_item_alone(function: Any) -> None:
    results = dict(
        run_isolated(function, range(6), timeout_s=60.0, description="test", max_memory_mib=200)
    )
    assert results[1] == Failure("crashed", "found no more memory within 200 MiB")
    assert [results[number] for number in (0, 2, 3, 4, 5)] == [0, 2, 3, 4, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is allocated")
def test_native_code_gets_no_more_memory_either() -> None:
    results = dict(
        run_isolated(
            allocate_in_native_code, [1], timeout_s=60.0, description="test", max_memory_mib=200
        )
    )
    assert results == {1: 101}, "the limit holds for Python alone"
    free = dict(run_isolated(allocate_in_native_code, [1], timeout_s=60.0, description="test"))
    assert free == {1: 1}


def test_what_takes_too_long_is_ended_even_in_native_code() -> None:
    started = time.monotonic()
    results = dict(run_isolated(hang, range(4), timeout_s=1.0, description="test"))
    assert results[1] == Failure("timeout", "took longer than 1 s")
    assert [results[number] for number in (0, 2, 3)] == [0, 2, 3]
    assert time.monotonic() - started < 30


def test_known_errors_are_results() -> None:
    results = dict(run_isolated(refuse, range(3), timeout_s=60.0, description="test"))
    missing, truncated = results[1], results[2]
    assert isinstance(missing, FvcError)
    assert str(missing) == "clip.pt: is missing. Run 'dvc repro clips'."
    assert isinstance(truncated, VideoError)
    assert (truncated.reason, truncated.detail) == ("truncated", "no header")


def test_unknown_errors_end_the_run() -> None:
    with pytest.raises(ZeroDivisionError, match="no inverse of 0") as raised:
        list(run_isolated(fail, [0], timeout_s=60.0, description="test"))
    assert "raised on 0" in "".join(raised.value.__notes__), "nobody learns on which item"


@pytest.mark.parametrize("function", [fail_in_a_way_that_cannot_be_sent, leave])
def test_nothing_that_python_raises_passes_for_a_crash(function: Any) -> None:
    with pytest.raises(RuntimeError, match="no inverse of 0"):
        list(run_isolated(function, [0], timeout_s=60.0, description="test"))


class Counted(Sequence[int]):
    """The numbers below a thousand, and how many of them were asked for."""

    def __init__(self) -> None:
        self.asked_for = 0

    def __len__(self) -> int:
        return 1000

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        self.asked_for += 1
        return range(1000)[place]


def test_items_wait_until_results_are_fetched() -> None:
    items = Counted()
    results = run_isolated(square, items, timeout_s=60.0, description="test")
    with closing(results):  # type: ignore[type-var]  # it is a generator
        next(results)
        assert multiprocessing.active_children()
        time.sleep(0.5)
        assert items.asked_for < 5 * len(os.sched_getaffinity(0)), "results pile up in memory"
    assert not multiprocessing.active_children(), "a worker outlives the run"


@pytest.mark.parametrize("module", ["fvc.video", "fvc.transforms"])
def test_what_workers_run_imports_neither_torch_nor_tables(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "mlflow", "polars"} & set(done.stdout.split())


def test_workers_do_not_import_torch() -> None:
    ((_, modules),) = run_isolated(loaded_modules, [0], timeout_s=60.0, description="test")
    assert isinstance(modules, list)
    # The module of the function is imported, and this one imports the decoder.
    assert "fvc.video" in modules
    assert not {"torch", "mlflow", "polars"} & set(modules)


PARENT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_pool
from fvc.pool import run_isolated

if __name__ == "__main__":
    for item, result in run_isolated(test_pool.hang, range(2), timeout_s=60.0, description="test"):
        print(item, flush=True)
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == b"0"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "a worker outlives its parent"
