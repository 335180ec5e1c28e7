"""On which device, in which number format and how compiled a network is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fvc.config import TrainConfig
from fvc.errors import FvcError

# With neither, oneDNN converts to float32 and back, which is slower than float32 alone.
CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Precision:
    """A device, and the format in which convolutions and products are computed on it."""

    device: torch.device
    dtype: torch.dtype
    """float32 where nothing is mixed; else bfloat16 or float16, under autocast."""

    @property
    def name(self) -> str:
        """For logs: `cpu bfloat16`."""
        return f"{self.device.type} {str(self.dtype).removeprefix('torch.')}"

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last on a GPU, where it pays; on a CPU it gains nothing."""
        on_gpu = self.device.type == "cuda"
        return torch.channels_last_3d if on_gpu else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context for a forward pass; gradients are computed outside it."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if enabled else None, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler; it does nothing but for float16, whose exponents are short."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def choose_precision(mixed: bool) -> Precision:
    """Take the GPU where there is one, and bfloat16 where the hardware computes in it.

    Args:
        mixed: Whether a format below float32 may be used at all. A GPU without
            bfloat16 then uses float16, a CPU without it float32.
    """
    if not torch.cuda.is_available():
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in CPU_BFLOAT16)
        return Precision(torch.device("cpu"), torch.bfloat16 if mixed and native else torch.float32)
    if not mixed:
        return Precision(torch.device("cuda"), torch.float32)
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision(torch.device("cuda"), torch.bfloat16 if native else torch.float16)


def lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Give the weights of 3D convolutions a memory format, in place.

    `Module.to` would give it to all weights of four and five dimensions, and
    refuses a network that has both: there is no such format of four.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=memory_format)


def tune_cuda(fixed_size: bool) -> None:
    """Set what PyTorch keeps for the whole process about a GPU; without one nothing changes.

    cuDNN times its ways to compute each shape of a convolution once and keeps
    to the fastest. Where clips differ in size, nearly every batch would be of
    a new shape, and timed anew. The way that wins may differ from one run to
    the next, and with it the last bits of a result.

    TensorFloat32 is switched off. It has ten bits for the digits of a number,
    and what is left in float32 is what needs more: the last layer, everything
    that is scored, and all of it without mixed precision. What takes the time
    of a training is in bfloat16, which this does not slow down.

    Args:
        fixed_size: Whether all clips are of one size.
    """
    torch.backends.cudnn.benchmark = fixed_size
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def compiled(network: nn.Module, config: TrainConfig) -> Callable[..., Tensor]:
    """What computes a forward pass: the network itself, or what torch.compile makes of it.

    The weights, their names and the checkpoints stay the network's, and it can
    still be called itself. Compiled for a GPU, dropout may drop other features
    than it does otherwise, as reproducibly. The first calls in training and with
    another number of clips take a minute or more.

    Args:
        network: A `ClipClassifier`, or one inside DistributedDataParallel.
        config: Whether to compile.

    Returns:
        A function of the network's arguments. It raises FvcError where there
        is nothing to compile with.

    Raises:
        FvcError: The clips are of several sizes. The hooks that follow a mask
            through the layers, and the sizes, make a piece of code each, and
            after eight torch compiles no more.
    """
    if not config.compile:
        return network
    inner: Any = getattr(network, "module", network)
    if inner.clips.fit != "letterbox":
        cause = f"cannot be used with clips.fit {inner.clips.fit}, where clips differ in size"
        raise FvcError("train.compile", cause, "Set it to false, or clips.fit to letterbox")
    # Imported here: it takes a second, and few trainings need it.
    from torch._dynamo.exc import ShortenTraceback

    # What was compiled for other weights in training counts towards torch's limit.
    torch.compiler.reset()
    made = torch.compile(network)

    def forward(*arguments: Any) -> Tensor:
        try:
            return made(*arguments)
        except ShortenTraceback as error:
            reason = getattr(error, "inner_exception", error)
            if isinstance(reason, torch.OutOfMemoryError):
                raise reason from error
            cause = f"torch.compile failed ({str(reason).strip().splitlines()[0]})"
            remedy = "Install a C++ compiler (and Triton for a GPU), or set it to false"
            raise FvcError("train.compile", cause, remedy) from error

    return forward


class PaddedConv3d(nn.Conv3d):
    """A Conv3d that adds its zeros itself where bfloat16 on a CPU cannot.

    oneDNN returns wrong weight gradients (NaN, infinite, or off by their own
    size), and writes past its buffers, for a bfloat16 convolution in which
    every output frame needs padding: 3x3x3 or 3x1x1 over a depth of 2, 5x1x1
    over 2 to 4. It does the same where a height or width is shorter than the
    kernel, for some strides and sizes of the other sides: 3x3x3 with stride 2
    over 4 x 1 x 16. Nothing is raised. Seen with AVX512-BF16 on torch 2.13 and
    2.15. A depth that yields a single output frame is computed rightly, so the
    cheaper way is kept there. Forward passes and other formats are right.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own = self.padding
        added = self._added(input.shape[2:]) if _is_cpu_bfloat16(input) else (0, 0, 0)
        if isinstance(own, str) or not any(added):
            return super()._conv_forward(input, weight, bias)
        depth, height, width = added
        padded = functional.pad(input, (width, width, height, height, depth, depth))
        padding = [0 if done else side for side, done in zip(own, added, strict=True)]
        return functional.conv3d(
            padded, weight, bias, self.stride, padding, self.dilation, self.groups
        )

    def _added(self, sizes: torch.Size) -> Sequence[int]:
        """What has to be added to both ends of depth, height and width."""
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return (0, 0, 0)
        added = [0, 0, 0]
        for axis, (size, padding) in enumerate(zip(sizes, self.padding, strict=True)):
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            single_output = size + 2 * padding - span < self.stride[axis]
            if size < span and not (axis == 0 and single_output):
                added[axis] = padding
        return added


def _is_cpu_bfloat16(values: Tensor) -> bool:
    if values.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return values.dtype == torch.bfloat16


def make_bf16_safe(network: nn.Module) -> None:
    """Make every Conv3d in `network` a `PaddedConv3d`, in place.

    Weights, their names and all results but the wrong ones stay as they are.
    A layer with a forward pass of its own is left alone. Changing the class of
    a module is how torch.nn.utils.parametrize works, too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and _convolves_plainly(type(module)):
            module.__class__ = PaddedConv3d


def _convolves_plainly(kind: type[nn.Conv3d]) -> bool:
    plain = nn.Conv3d
    return kind.forward is plain.forward and kind._conv_forward is plain._conv_forward
