"""What a training takes of its machine, sampled in a thread, as series `system/...` of its run."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from fvc.tracking.open_run import now_ms


class _Monitor(SystemMetricsMonitor):
    """MLflow's own, but for its loop, which ends for good when the store is away for a moment."""

    def __init__(self, run_id: str, log: Callable[[Mapping[str, float], int, int], object]) -> None:
        super().__init__(run_id, resume_logging=True)  # type: ignore[no-untyped-call]
        self._log = log

    def monitor(self) -> None:
        samples = 0
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()  # type: ignore[no-untyped-call]
            samples += 1
            if samples % self.samples_before_logging == 0:
                self.publish_metrics(self.aggregate_metrics())  # type: ignore[no-untyped-call]

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        self._log(named, self._logging_step, now_ms())
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()  # type: ignore[no-untyped-call]


@contextmanager
def measured(run_id: str, log: Callable[[Mapping[str, float], int, int], object]) -> Iterator[None]:
    """Measure the machine for the length of the block, unless MLflow's variable forbids it.

    Args:
        run_id: Of the run; its numbers go on where an earlier attempt ended.
        log: Called with what was measured, a step and the time in milliseconds.
    """
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("false", "0"):
        yield
        return
    monitor = _Monitor(run_id, log)
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        monitor.finish()  # type: ignore[no-untyped-call]
