"""A network that is made in a moment and, in a job that is told so, waits to be stopped.

Written after what fvc/networks/__init__.py has, in a copy of the repository.
"""

SOURCE = '''

class Waiting(nn.Module):
    """A layer that waits at one batch of a job's first start until SIGTERM comes.

    That it waits it says in the folder HELD, so that nothing depends on how fast anything is.
    """

    batches = 0

    def forward(self, values: Tensor) -> Tensor:
        import os
        import signal
        import threading
        from pathlib import Path

        self.batches += self.training
        is_restarted = "SLURM_RESTART_COUNT" in os.environ
        if self.training and self.batches == 3 and "HELD" in os.environ and not is_restarted:
            asked = threading.Event()
            former = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *args: (asked.set(), former(*args)))
            rank = os.environ.get("RANK", "0")
            Path(os.environ["HELD"], f"{os.environ['SLURM_ARRAY_TASK_ID']}.{rank}").touch()
            asked.wait()
            signal.signal(signal.SIGTERM, former)
        return values


def build_features(model: ModelConfig, clips: ClipsConfig) -> nn.Module:
    """The smallest backbone that has a state, and a head."""
    layers = [Waiting(), nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    return nn.Sequential(OrderedDict(backbone=backbone, head=nn.Conv3d(4, model.head_channels, 1)))
'''
