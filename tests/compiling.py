"""Trains a network compiled and as it is, in a process of its own: `compiling.py DEVICE DTYPE`.

torch.compile cannot read functions in which jaxtyping checks shapes, as it does in the tests.
Writes the largest differences; a known error is written to stderr, as `fvc` does.
"""

import copy
import json
import sys
from collections.abc import Callable

import torch
from settings import clips_config, train_config
from torch import Tensor, nn

from fvc.errors import FvcError
from fvc.networks import ClipClassifier
from fvc.precision import Precision, compiled, make_bf16_safe


def network_without_chance() -> ClipClassifier:
    """Its second convolution is one that bfloat16 gets wrong on a CPU."""
    torch.manual_seed(0)
    features = nn.Sequential(
        *(nn.Conv3d(3, 8, 3, (4, 2, 2), padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()),
        *(nn.Conv3d(8, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()),
    )
    network = ClipClassifier(features, channels=8, dropout=0.0, clips=clips_config(1, 8, 32))
    make_bf16_safe(network)
    return network


def trained_once(
    network: ClipClassifier, forward: Callable[..., Tensor], clips: Tensor, precision: Precision
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of clips, and the gradients of a loss."""
    network.zero_grad()
    with precision.autocast():
        logits = forward(clips, None)
    targets = torch.arange(len(clips), dtype=torch.float32, device=clips.device) % 2
    nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), targets).backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in network.named_parameters()}
    return logits.detach(), {name: each for name, each in gradients.items() if each is not None}


def differences(precision: Precision) -> dict[str, object]:
    """How far the two are apart, and whether the weights are called the same."""
    plain = network_without_chance().to(precision.device)
    network = copy.deepcopy(plain)
    forward = compiled(network, train_config(compile=True))
    logit_error, errors = 0.0, dict.fromkeys((name for name, _ in plain.named_parameters()), 0.0)
    # The last batch of an epoch is smaller, and so are its parts where memory ran out.
    for size in (4, 3):
        clips = torch.randn(size, 3, 8, 32, 32, device=precision.device)
        logits, gradients = trained_once(network, forward, clips, precision)
        expected_logits, expected = trained_once(plain, plain, clips, precision)
        logit_error = max(logit_error, float((logits - expected_logits).abs().max()))
        for name, value in expected.items():
            error = float((gradients[name] - value).norm() / value.norm())
            errors[name] = max(errors[name], error)
    breaks = torch._dynamo.utils.counters["graph_break"]
    return {
        "is_another_callable": forward is not network,
        "graph_breaks": sum(breaks.values()),
        "logit_error": logit_error,
        "gradient_errors": errors,
        "names_are_equal": list(network.state_dict()) == list(plain.state_dict()),
    }


if __name__ == "__main__":
    precision = Precision(torch.device(sys.argv[1]), getattr(torch, sys.argv[2]))
    try:
        sys.stdout.write(json.dumps(differences(precision)))
    except FvcError as error:
        sys.exit(str(error))
