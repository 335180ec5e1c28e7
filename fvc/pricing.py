"""What the networks of finished cross-validations take: counted, timed, and as it was noted."""

from collections.abc import Sequence
from dataclasses import fields
from statistics import median

import yaml

from fvc.config import ClipsConfig, ModelConfig
from fvc.costs import Cost
from fvc.errors import FvcError
from fvc.report.shelf import Price
from fvc.tracking.finished import CrossValidation
from fvc.tracking.finished_folds import MEMORY, SPEED, finished_folds


def network_of(run: CrossValidation) -> tuple[ModelConfig, ClipsConfig]:
    """The network that a cross-validation trained, and the clips that it takes.

    Raises:
        FvcError: This code has no such network.
    """
    try:
        model, clips = (
            {field.name: yaml.safe_load(run.params[f"{section}.{field.name}"]) for field in known}
            for section, known in (("model", fields(ModelConfig)), ("clips", fields(ClipsConfig)))
        )
        return ModelConfig(**model), ClipsConfig(**clips)
    except (KeyError, ValueError) as error:
        cause = f"its network is of another version of this code ({error})"
        raise FvcError(run.name, cause, "Leave it out, or train it anew") from error


def price_of(run: CrossValidation, cost: Cost) -> Price:
    """What one member takes: counted and timed here, and as its training noted it."""
    folds = finished_folds(run).values()
    speeds, peaks = (
        [value for fold in folds for value in fold.series(name)] for name in (SPEED, MEMORY)
    )
    return Price(
        parameters=cost.parameters,
        gmacs=cost.gmacs,
        latency_ms=cost.latency_ms,
        clips_per_s=median(speeds) if speeds else None,
        memory_mib=max(peaks, default=cost.weights_mib),
        memory_is_peak=bool(peaks),
    )


def together_price(prices: Sequence[Price]) -> Price:
    """What members take that are trained and asked one after the other.

    Memory is that of the largest training, or of the weights of all.
    """
    seconds = [None if price.clips_per_s is None else 1 / price.clips_per_s for price in prices]
    known = [each for each in seconds if each is not None]
    peak = all(price.memory_is_peak for price in prices)
    memory = [price.memory_mib for price in prices]
    return Price(
        parameters=sum(price.parameters for price in prices),
        gmacs=sum(price.gmacs for price in prices),
        latency_ms=sum(price.latency_ms for price in prices),
        clips_per_s=1 / sum(known) if len(known) == len(prices) else None,
        memory_mib=max(memory) if peak else sum(memory),
        memory_is_peak=peak,
    )
