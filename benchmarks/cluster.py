"""What Dask costs beside the local pool, on the same cores.

    python benchmarks/cluster.py [--tasks 400] [--rounds 3]

The scheduler and a worker for each core run on this machine, as they would elsewhere. Tasks that
sleep for 50 ms show what is added to each of them: the wall time from the first result to the
last, for each worker and task, less the sleep. Tasks that compute for about as long show how
many are done in a second. The two pools take turns, and the best round of each counts, as
others' work can only make one slower. Fails where Dask adds more than 5 ms to a task, or does
less than 90% of what the local pool does.
"""

import hashlib
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

# The package need not be installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed import LocalCluster
from measuring import print_table, surroundings, verdict

from fvc.pool import ENGINE, LOCAL, run_isolated

TASK_S = 0.05
MOST_MS = 5.0
LEAST = 0.9

# Found by name in any process, and nothing but computing.
compute = partial(hashlib.pbkdf2_hmac, "sha256", b"password", b"salt")


def tasks_per_s(engine: str, function: Callable[..., object], items: Sequence[object]) -> float:
    """How many results come in a second once the first one is there."""
    os.environ[ENGINE] = engine
    started, last = 0.0, 0.0
    for _, result in run_isolated(function, items, timeout_s=60.0, description=engine):
        if isinstance(result, Exception):
            raise result
        last = time.monotonic()
        started = started or last
    return (len(items) - 1) / (last - started)


def rounds_of_work() -> int:
    """So many rounds of hashing take as long as a task should."""
    rounds = 10_000
    started = time.process_time()
    compute(rounds)
    return int(rounds * TASK_S / (time.process_time() - started))


def main() -> int:
    """Measure, print, and give 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=400, help="of each kind, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    num_cores = len(os.sched_getaffinity(0))
    kinds: dict[str, tuple[Callable[..., object], object]] = {
        "sleeps": (time.sleep, TASK_S),
        "computes": (compute, rounds_of_work()),
    }
    with LocalCluster(n_workers=num_cores, threads_per_worker=1, dashboard_address=None) as cluster:
        engines = {"local pool": LOCAL, "Dask": cluster.scheduler_address}
        best = dict.fromkeys(((kind, name) for kind in kinds for name in engines), 0.0)
        for _ in range(args.rounds):
            for kind, (function, item) in kinds.items():
                for name, engine in engines.items():
                    speed = tasks_per_s(engine, function, [item] * args.tasks)
                    best[kind, name] = max(best[kind, name], speed)
    print(f"{surroundings(['distributed'])}; {num_cores} cores\n")
    added_ms = {name: (num_cores / best["sleeps", name] - TASK_S) * 1000 for name in engines}
    rows = [(name, f"{added_ms[name]:.2f}", f"{best['computes', name]:.1f}") for name in engines]
    print_table(("", "added to a task of 50 ms, ms", "computing tasks per s"), rows)
    ratio = best["computes", "Dask"] / best["computes", "local pool"]
    kept = verdict(
        {
            "Dask adds to a task of 50 ms, in ms": (-added_ms["Dask"], -MOST_MS),
            "throughput of Dask, of the local pool's": (ratio, LEAST),
        }
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
