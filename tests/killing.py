"""Train one fold, killed 20 times on the way, and once more undisturbed; tests compare the two.

Everything is imported once, and every attempt is a fork: an interpreter that
imports MLflow and torch takes longer than the whole training does.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from test_train import Corpus
from torch import nn

from fvc import networks
from fvc.config import ClipsConfig, ModelConfig

KILLS = 20
# A fast machine gets through most of an epoch before it is killed.
EPOCHS = 40
LONGEST_S = 120.0


def small_features(model: ModelConfig, _clips: ClipsConfig) -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, model.head_channels, 3, padding=1), nn.BatchNorm3d(512))


def train(root: Path, name: str) -> None:
    """With a checkpoint after every step, and everything that has a state."""
    networks.build_features = small_features  # type: ignore[assignment]
    corpus = Corpus(root)
    settings = replace(
        corpus.params.train,
        epochs=EPOCHS,
        patience=EPOCHS,
        batch_size=4,
        ema_decay=0.9,
        mixup_alpha=0.4,
    )
    engine = replace(corpus.params.engine, checkpoint_minutes=0.0)
    corpus.params = replace(corpus.params, train=settings, engine=engine)
    corpus.train(0, name)


def in_a_process(root: Path, name: str) -> int:
    child = os.fork()
    if not child:
        train(root, name)
        os._exit(0)
    return child


def kill_at_random(child: int, manifest: Path, chance: random.Random) -> bool:
    """Kill while it starts, while it trains, or while it writes; says whether it was alive."""
    before = manifest.stat().st_mtime_ns if manifest.exists() else 0
    until = time.monotonic() + (chance.uniform(0, 1) if chance.random() < 0.2 else LONGEST_S)
    while time.monotonic() < until and not os.waitid(
        os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        if manifest.exists() and manifest.stat().st_mtime_ns != before:
            time.sleep(chance.uniform(0, 0.03))
            break
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def main(root: Path, seed: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    manifest = root / "killed" / "checkpoints" / "0" / "checkpoints.json"
    for kill in range(KILLS):
        if not kill_at_random(in_a_process(root / "killed", "model"), manifest, chance):
            sys.exit(f"it ended before kill {kill + 1} of {KILLS}: nothing was shown")
    for name in ("killed", "whole"):
        if os.waitpid(in_a_process(root / name, "model"), 0)[1]:
            sys.exit(f"{name}: failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
