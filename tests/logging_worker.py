"""Log many metrics in a run of the store that the environment names, in a process of its own."""

import sys
import time
from pathlib import Path

from fvc.tracking import waiting
from fvc.tracking.store import connect, experiment_id

SERIES = 10


def main(number: int, epochs: int, pause_s: float, patience_s: float) -> None:
    """Say the run's id, log SERIES metrics an epoch, and a checkpoint at the end."""
    waiting.PATIENCE_S = patience_s
    client = connect()
    run_id = client.create_run(experiment_id(client)).info.run_id
    print(run_id, flush=True)  # noqa: T201
    checkpoint = Path(f"checkpoint-{number}.pt")
    with waiting.waiting_run(client, run_id) as run:
        history = []
        for epoch in range(epochs):
            series = {f"s{series}": number + epoch + series / 10 for series in range(SERIES)}
            history.append({"epoch": epoch, **series})
            run.log_history(history)
            time.sleep(pause_s)
        checkpoint.write_bytes(bytes([number]) * 2**20)
        run.log_file(checkpoint)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
