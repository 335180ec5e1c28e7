"""Our SlowFast beside pytorchvideo's, which is no longer fit to depend on.

To run it: `uv pip install --python .venv -c requirements.txt -e '.[reference]'`, then
`pytest tests/test_slowfast_reference.py`.
"""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fvc.networks.counting import parameters
from fvc.networks.slowfast import CLASSIFIER, SLOWFAST_R50, SlowFast, from_pytorchvideo

NUM_FRAMES, SIDE_PX = 16, 40
POSITIONS = (SIDE_PX // 32 + 1,) * 2


@pytest.fixture(scope="module")
def reference() -> Any:
    """The model whose weights are published as SLOWFAST_8x8_R50, pooling smaller pictures."""
    with warnings.catch_warnings():
        # torch.jit.script, at its import.
        warnings.simplefilter("ignore", FutureWarning)
        library = pytest.importorskip(
            "pytorchvideo.models.slowfast", reason="pytorchvideo is absent: see the top of the file"
        )
    torch.manual_seed(0)
    network = library.create_slowfast(
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        head_pool_kernel_sizes=((NUM_FRAMES // 4, *POSITIONS), (NUM_FRAMES, *POSITIONS)),
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            # As after training: no two layers are alike.
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias, 0, 0.2)
            nn.init.normal_(layer.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2)
    return network.double()


@pytest.fixture
def ours(reference: Any) -> SlowFast:
    network = SlowFast().double()
    network.load_state_dict(from_pytorchvideo(reference.state_dict()))
    return network


def clips(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, NUM_FRAMES, SIDE_PX, SIDE_PX)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def pathways(given: Tensor) -> list[Tensor]:
    """As PackPathway of pytorchvideo's tutorials makes them."""
    chosen = torch.linspace(0, NUM_FRAMES - 1, NUM_FRAMES // 4).long()
    return [given[:, :, chosen], given]


def close(own: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(own, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_every_stage_computes_what_pytorchvideo_computes(
    reference: Any, ours: SlowFast, training: bool
) -> None:
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    reference.train(training)
    ours.train(training)
    theirs = pathways(clips())
    slow, fast = theirs
    with torch.no_grad():
        for stage, block in zip(ours, reference.blocks[:-2], strict=True):
            slow, fast = stage(slow, fast)
            theirs = block(list(theirs))
            close(slow, theirs[0])
            close(fast, theirs[1])
    statistics = from_pytorchvideo(reference.state_dict())
    for name, value in ours.state_dict().items():
        close(value, statistics[name])
    assert slow.std() > 0.1
    assert fast.std() > 0.1
    reference.load_state_dict(before)


def test_the_mean_of_the_features_is_classified_as_by_pytorchvideo(
    reference: Any, ours: SlowFast
) -> None:
    reference.eval()
    ours.eval()
    with torch.no_grad():
        logits = reference.blocks[-1].proj(ours(clips()).mean((2, 3, 4)))
        close(logits, reference(pathways(clips())))


def test_gradients_are_those_of_pytorchvideo(reference: Any, ours: SlowFast) -> None:
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    reference.train()
    ours.train()
    ours(clips()).mean((2, 3, 4)).pow(2).sum().backward()
    pooled: Any = pathways(clips())
    for block in reference.blocks[:-1]:
        pooled = block(pooled)
    pooled.flatten(1).pow(2).sum().backward()
    gradients = {name: each.grad for name, each in reference.named_parameters()}
    theirs = from_pytorchvideo(gradients)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-6, atol=1e-8)
    reference.load_state_dict(before)


def test_pytorchvideo_has_as_many_parameters(reference: Any) -> None:
    assert SLOWFAST_R50.published is not None
    assert SLOWFAST_R50.published.parameters == parameters(reference) - CLASSIFIER
