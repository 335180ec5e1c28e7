"""From a network to its evidence: sections `model`, `train`, `evaluate` and `serving`."""

from dataclasses import dataclass
from typing import Literal

from fvc.config.section import Section, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """Which network is trained."""

    network: Literal["r3d_18"]
    pretrained: str
    """`kinetics400`, `none`, or the path of a weights file."""
    head_channels: int
    """Channels that the Inception block gives, a quarter from each branch."""
    dropout: float
    """Share of features dropped before the last layer."""

    def __post_init__(self) -> None:
        require(
            self.head_channels > 0 and self.head_channels % 4 == 0,
            f"head_channels is {self.head_channels}, no multiple of 4",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}, not in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Section):
    """How one network is fitted on one fold."""

    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    batch_size: int
    """Clips in a batch, half of them real and half fake."""
    epochs: int
    """Passes over the larger class at most."""
    patience: int
    """Epochs without a better validation score before training stops."""
    best_by: Literal["validation/loss", "validation/roc_auc", "validation/macro_f1"]
    """The series that chooses the epoch whose weights are kept."""
    mixed_precision: bool
    """Compute in bfloat16 where that is safe."""
    gradient_clip_norm: float
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gradient_clip_norm"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, not above 0")
        for name in ("batch_size", "epochs", "patience"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, below 1")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}, below 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig(Section):
    """How training clips reach the network: it decides how fast, and never what is learnt."""

    num_workers: int
    """Processes that make batches. They pay where versions are made on the fly; stored clips
    only have to be copied, and 0 is faster."""
    persistent_workers: bool
    """Keep the workers from one epoch to the next."""
    prefetch_factor: int
    """Batches that each worker makes in advance; not read without workers."""
    prefetch_batches: int
    """Batches that one thread makes in advance, 0 for no thread; not read with workers."""
    pin_memory: bool
    """Put batches where a GPU can fetch them while it computes; not read on a CPU."""
    cache: Literal["none", "ram", "device"]
    """Where all training clips are kept: in their files, mapped; copied to memory; or on the
    device that trains."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "prefetch_batches"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, below 0")
        require(self.prefetch_factor >= 1, f"prefetch_factor is {self.prefetch_factor}, below 1")
        workers = self.num_workers > 0
        require(workers or not self.persistent_workers, "persistent_workers needs num_workers > 0")
        reaches = self.cache != "device" or not workers
        require(reaches, "cache device needs num_workers 0: workers cannot reach the device")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Section):
    """How the evidence is weighed."""

    bootstrap_samples: int
    """Resamples of the groups behind every interval."""
    confidence: float
    """Coverage of every interval, in (0, 1)."""
    ece_bins: int
    """Bins of equal mass of the expected calibration error."""
    target_error_rate: float
    """Largest share of wrong verdicts on validation that the abstention band leaves."""

    def __post_init__(self) -> None:
        require(self.bootstrap_samples >= 100, "bootstrap_samples is below 100")
        require(self.ece_bins >= 2, f"ece_bins is {self.ece_bins}, below 2")
        for name in ("confidence", "target_error_rate"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is {value}, not between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig(Section):
    """What the served model accepts."""

    max_mib: float
    """Largest video, in MiB once base64 is undone."""

    def __post_init__(self) -> None:
        require(self.max_mib > 0, f"max_mib is {self.max_mib}, not above 0")
