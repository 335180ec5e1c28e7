import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from settings import TRAINED, clips_config, model_config
from torch import Tensor, nn

from fvc.networks import build_network
from fvc.precision import (
    PaddedConv3d,
    Precision,
    choose_precision,
    make_bf16_safe,
    tune_cuda,
)

CONF = Path(__file__).parents[1] / "conf"
CPU = torch.device("cpu")
Layers = dict[str, tuple[nn.Conv3d, torch.Size]]

# Small pictures: the fault depends on the number of frames alone.
SIDES_PX = {8: 64}
SMALL_SIDE_PX = 32


def configured_frames() -> list[int]:
    composed = [CONF / "config.yaml", *sorted(CONF.glob("scale/*.yaml"))]
    sections = [yaml.safe_load(path.read_text())["clips"] for path in composed]
    return sorted({each["num_frames"] for each in sections if "num_frames" in each})


def convolutions(name: str, num_frames: int) -> Layers:
    """Every convolution of a network as trained, with the shape that it is given for one clip."""
    side_px = SIDES_PX.get(num_frames, SMALL_SIDE_PX)
    clips = clips_config(1, num_frames, side_px)
    model = replace(model_config(), network=name, head_channels=512, dropout=0.0)
    with torch.device("meta"):
        network = build_network(model, clips)
        make_bf16_safe(network)
        layers: Layers = {}

        def remember(layer_name: str) -> Callable[[nn.Conv3d, tuple[Tensor], Tensor], None]:
            def hook(layer: nn.Conv3d, given: tuple[Tensor], _: Tensor) -> None:
                layers[layer_name] = layer, given[0].shape

            return hook

        for layer_name, layer in network.named_modules():
            if isinstance(layer, nn.Conv3d):
                layer.register_forward_hook(remember(layer_name))
        network.features(torch.zeros(1, 3, num_frames, side_px, side_px))
    return layers


def weight_gradient(layer: nn.Conv3d, given: Tensor, dtype: torch.dtype) -> Tensor:
    layer.zero_grad()
    with Precision(CPU, dtype).autocast():
        result = layer(given).float()
    noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    (result * noise).sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad.clone()


def gradient_error(layer: nn.Conv3d, shape: torch.Size) -> float:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = weight_gradient(layer, given, torch.float32)
    return float((weight_gradient(layer, given, torch.bfloat16) - exact).norm() / exact.norm())


@pytest.mark.parametrize("num_frames", configured_frames())
@pytest.mark.parametrize("name", TRAINED)
def test_every_layer_has_the_gradient_of_float32(name: str, num_frames: int) -> None:
    layers = convolutions(name, num_frames)
    errors = {}
    for layer_name, (layer, shape) in layers.items():
        real = layer.to_empty(device="cpu")
        nn.init.normal_(real.weight, std=0.05)
        errors[layer_name] = gradient_error(real, shape)
    assert len(errors) >= 20
    wrong = {layer_name: error for layer_name, error in errors.items() if not error < 0.02}
    assert not wrong, f"bfloat16 trains these layers with wrong gradients: {wrong}"


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("num_frames", configured_frames())
def test_the_depth_that_bfloat16_gets_wrong_occurs(name: str, num_frames: int) -> None:
    depths = {
        shape[2] for layer, shape in convolutions(name, num_frames).values() if layer.padding[0]
    }
    assert 2 in depths, "the comparison of gradients above no longer meets the fault"


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 1), (3, 2), (5, 1), (7, 1)])
def test_any_kernel_and_depth_are_safe(kernel: int, stride: int, depth: int) -> None:
    padding = (kernel // 2, 0, 0)
    layer = nn.Conv3d(8, 8, (kernel, 1, 1), (stride, 1, 1), padding, bias=False)
    make_bf16_safe(layer)
    assert gradient_error(layer, torch.Size((2, 8, depth, 4, 4))) < 0.02


@pytest.mark.parametrize(
    ("kernel", "stride", "shape"),
    [
        (3, 2, (4, 1, 16)),
        (3, 2, (3, 1, 2)),
        (3, 2, (1, 2, 1)),
        (3, 2, (2, 16, 1)),
        (3, 2, (16, 16, 1)),
        (3, 1, (2, 1, 1)),
        (7, 2, (8, 1, 16)),
        (7, 2, (8, 2, 16)),
    ],
)
def test_pictures_narrower_than_the_kernel_are_safe(
    kernel: int, stride: int, shape: tuple[int, int, int]
) -> None:
    """They occur where a long thin video keeps its aspect ratio."""
    layer = nn.Conv3d(
        *(16, 16, (3, kernel, kernel)),
        stride=(1 if kernel == 7 else stride, stride, stride),
        padding=(1, kernel // 2, kernel // 2),
        bias=False,
    )
    make_bf16_safe(layer)
    assert gradient_error(layer, torch.Size((1, 16, *shape))) < 0.02


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_remedy_changes_no_result(depth: int) -> None:
    plain = nn.Conv3d(4, 4, 3, padding=1)
    safe = copy.deepcopy(plain)
    make_bf16_safe(safe)
    assert isinstance(safe, PaddedConv3d)
    assert list(safe.state_dict()) == list(plain.state_dict())
    for sides in ((8, 8), (8, 1), (2, 8)):
        clips = torch.randn(2, 4, depth, *sides)
        assert torch.equal(safe(clips), plain(clips))
        with Precision(CPU, torch.bfloat16).autocast():
            torch.testing.assert_close(safe(clips), plain(clips), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("padding_mode", ["replicate", "circular"])
def test_other_padding_modes_are_kept(padding_mode: str) -> None:
    plain = nn.Conv3d(4, 4, 3, padding=1, padding_mode=padding_mode)  # type: ignore[arg-type]
    safe = copy.deepcopy(plain)
    make_bf16_safe(safe)
    clips = torch.randn(2, 4, 2, 8, 8)
    with Precision(CPU, torch.bfloat16).autocast():
        assert torch.equal(safe(clips), plain(clips))


def test_a_layer_with_its_own_forward_pass_is_left_alone() -> None:
    class Doubled(nn.Conv3d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer = Doubled(3, 3, 1)
    make_bf16_safe(layer)
    assert type(layer) is Doubled


def test_without_mixing_everything_is_float32() -> None:
    precision = choose_precision(mixed=False)
    assert precision.dtype == torch.float32
    with precision.autocast():
        product = torch.ones(2, 2, device=precision.device) @ torch.ones(
            2, 2, device=precision.device
        )
    assert product.dtype == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_a_cpu_uses_bfloat16_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision(mixed=True) == Precision(CPU, dtype)


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_uses_float16(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)  # noqa: ARG005
    assert choose_precision(mixed=True) == Precision(torch.device("cuda"), dtype)


def test_only_float16_is_scaled() -> None:
    formats = (torch.float32, torch.bfloat16, torch.float16)
    assert [Precision(CPU, dtype).scaler().is_enabled() for dtype in formats] == [
        False,
        False,
        True,
    ]


def test_what_holds_for_the_whole_process_is_set_for_a_gpu() -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    try:
        cudnn.allow_tf32 = products.allow_tf32 = True
        tune_cuda(fixed_size=True)
        assert cudnn.benchmark
        assert not cudnn.allow_tf32
        assert not products.allow_tf32
        tune_cuda(fixed_size=False)
        assert not cudnn.benchmark, "nearly every batch of native clips would be timed anew"
    finally:
        cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before
