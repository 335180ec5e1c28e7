"""From a network to its evidence: sections `model`, `train`, `evaluate` and `serving`."""

from dataclasses import dataclass
from typing import Literal

from fvc.config.networks import TAKES
from fvc.config.section import Section, require

Imbalance = Literal["balanced_batches", "class_weights", "weighted_sampler", "none"]
Criterion = Literal["macro_f1", "balanced_accuracy", "equal_error_rate", "mcc", "half"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """Which network is trained."""

    network: str
    """The backbone, by its name in conf/model/; docs/networks.md has them."""
    pretrained: str
    """`published`: the weights that go with the network, of Kinetics-400 for most; `none`; or the
    path of a weights file, or of a folder that `transformers` saved."""
    head: Literal["inception", "linear"]
    """What follows the backbone: an Inception block, or the last layer alone."""
    head_channels: int
    """Channels that the Inception block gives, a quarter from each branch; not read by linear."""
    dropout: float
    """Share of features dropped before the last layer."""

    def __post_init__(self) -> None:
        known = ", ".join(TAKES)
        require(self.network in TAKES, f"network is '{self.network}', not one of {known}")
        require(
            self.head_channels > 0 and self.head_channels % 4 == 0,
            f"head_channels is {self.head_channels}, no multiple of 4",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}, not in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Section):
    """How one network is fitted on one fold."""

    loss: Literal["bce", "focal", "class_balanced"]
    """Binary cross-entropy; focal loss; or cross-entropy weighted by the effective number of
    examples of each class."""
    focal_gamma: float
    """How much less clips count that are right already; read by the focal loss alone."""
    class_balanced_beta: float
    """In [0, 1): 0 weighs classes alike, near 1 by inverse frequency; read by class_balanced."""
    imbalance: Imbalance
    """How the smaller class is made up for: as many of each class in every batch, inverse
    frequency as weight in the loss, drawing with replacement by weight, or not at all."""
    label_smoothing: float
    """In [0, 1): labels lie half of this within 0 and 1."""
    mixup_alpha: float
    """Clips and labels are mixed in pairs, the share drawn from Beta(alpha, alpha); 0: never."""
    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    """The highest one, which the warm-up ends with."""
    backbone_rate_factor: float
    """The learning rate of all but the head, as a share of `learning_rate`."""
    weight_decay: float
    gradient_clip_norm: float
    """Gradients are scaled down to this norm."""
    schedule: Literal["constant", "cosine", "step"]
    """How the learning rate changes after the warm-up."""
    warmup_epochs: float
    """The learning rate rises linearly over so many epochs, or a part of one; 0: not at all."""
    step_epochs: int
    """Epochs between two steps down; read by schedule step."""
    step_factor: float
    """What each step multiplies the learning rate with; read by schedule step."""
    ema_decay: float
    """Validation and the kept weights are an exponential moving average of those trained, of
    this decay per optimizer step; 0: they are those trained."""
    fine_tuning: Literal["full", "frozen", "gradual"]
    """What trains: everything; the head alone; or the head, and more of the backbone in time."""
    unfreeze_epochs: tuple[int, ...]
    """The epochs, counted from 0, at which the last stage of the backbone, the one before it, ...
    begin to train; stages beyond the list never do. Read by fine_tuning gradual."""
    frozen_batch_norm_below: int
    """Where fewer clips than this pass through the network at once, batch normalisation uses the
    statistics it was loaded with and keeps them; 0: never."""
    batch_size: int
    """Clips in a batch."""
    epochs: int
    """Passes over the training clips at most; over those of the larger class where the classes are
    made equal in number."""
    patience: int
    """Epochs without a better validation score before training stops."""
    best_by: Literal["validation/loss", "validation/roc_auc", "validation/macro_f1"]
    """The series that chooses the epoch whose weights are kept."""
    mixed_precision: bool
    """Compute in bfloat16 where that is safe."""
    compile: bool
    """Let torch.compile make the forward and backward pass faster; the first steps wait for it."""

    def __post_init__(self) -> None:
        positive = ("learning_rate", "backbone_rate_factor", "gradient_clip_norm", "step_factor")
        for name in positive:
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, not above 0")
        for name in ("batch_size", "epochs", "patience", "step_epochs"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, below 1")
        not_negative = ("weight_decay", "focal_gamma", "mixup_alpha", "warmup_epochs")
        for name in (*not_negative, "frozen_batch_norm_below"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, below 0")
        for name in ("class_balanced_beta", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}, not in [0, 1)")
        require(
            self.warmup_epochs < self.epochs,
            f"warmup_epochs is {self.warmup_epochs}, not below epochs, {self.epochs}",
        )
        ascending = sorted(self.unfreeze_epochs) == list(self.unfreeze_epochs)
        listed = list(self.unfreeze_epochs)
        require(ascending and min(listed, default=0) >= 0, f"unfreeze_epochs {listed} must ascend")
        require(
            self.loss != "class_balanced" or self.imbalance == "none",
            f"loss class_balanced and imbalance {self.imbalance} correct twice: set "
            "train.imbalance to none, or train.loss to another",
        )


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
class EngineConfig(Section):
    """How a training is kept alive: it decides what a stop costs, and never what is learnt."""

    checkpoint_minutes: float
    """A checkpoint is written within an epoch where the last one is older; at its end always."""
    collect_every: int
    """Optimizer steps between two collections of unused memory; 0: at the ends of epochs alone."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_minutes", "collect_every"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, below 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Section):
    """How the evidence is weighed."""

    bootstrap_samples: int
    """Resamples of the groups behind every interval."""
    confidence: float
    """Coverage of every interval, in (0, 1)."""
    ece_bins: int
    """Bins of equal mass of the expected calibration error."""
    threshold_criterion: Criterion
    """By what the threshold between real and fake is chosen on validation. `macro_f1`: the mean of
    both classes' F1. `balanced_accuracy`: the mean of both classes' recall (Youden's index names
    the same threshold). `equal_error_rate`: as many real videos called fake as fakes called real,
    in shares. `mcc`: Matthews' correlation. `half`: none is chosen, it is 0.5."""
    target_error_rate: float
    """Largest share of wrong verdicts on validation that the abstention band leaves."""
    robustness_videos: int
    """Test videos of each fold that are scored again after perturbations; 0: none."""

    def __post_init__(self) -> None:
        require(self.bootstrap_samples >= 100, "bootstrap_samples is below 100")
        require(self.ece_bins >= 2, f"ece_bins is {self.ece_bins}, below 2")
        require(self.robustness_videos >= 0, "robustness_videos is below 0")
        for name in ("confidence", "target_error_rate"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is {value}, not between 0 and 1")
