"""What holds for every network that `model.network` may name, at the smallest clips of use."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from outcomes import CALIBRATION
from settings import clips_config, model_config, serving_config, train_config
from shelf import TRAINED, compose, small_clips
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import update_bn
from torchvision.models import resnet18, video

from fvc.config import TAKES, ClipsConfig, ModelConfig
from fvc.errors import FvcError
from fvc.evidence.explain import MOST_ALIKE, Explained, grad_cam, randomisation_check
from fvc.networks import (
    ARCHITECTURES,
    DESCRIPTION,
    WEIGHTS,
    ClipClassifier,
    build_network,
    load_network,
    save_network,
)
from fvc.networks.counting import gmacs, parameters
from fvc.networks.explained import explained_layers
from fvc.networks.transformers_video import quiet_library
from fvc.precision import choose_precision, make_bf16_safe
from fvc.predict import clip_logits, video_logit
from fvc.serving.packaging import ask, example_video, load_model, log_model
from fvc.serving.settings import Settings
from fvc.training.fine_tuning import parameter_groups, set_trainable, stages_of
from fvc.video import read_clips

pytestmark = pytest.mark.usefixtures("one_thread")

LARGE = {"timesformer", "vivit_b", "videomae_b"}
"""They take seconds where the others take parts of one; the small VideoMAE is made as they are."""


def marked(names: Iterable[str]) -> list[Any]:
    """The names of networks, as parameters."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in names]


each_network = pytest.mark.parametrize("name", marked(ARCHITECTURES))
each_trained = pytest.mark.parametrize("name", marked(TRAINED))


def of_transformers(family: str, **changes: Any) -> nn.Module:
    """The package's own network, of the size that it has unless told otherwise."""
    with quiet_library() as library:
        settings = getattr(library, f"{family}Config")(**changes)
        return getattr(library, f"{family}ForVideoClassification")(settings)


NARROW = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
LIBRARY: dict[str, tuple[Callable[[], nn.Module], str, float]] = {
    "r3d_18": (video.r3d_18, "fc.", 33.2),
    "mc3_18": (video.mc3_18, "fc.", 11.5),
    "r2plus1d_18": (video.r2plus1d_18, "fc.", 31.3),
    "s3d": (video.s3d, "classifier.", 7.9),
    "mvit_v2_s": (video.mvit_v2_s, "head.", 34.2),
    "swin3d_t": (video.swin3d_t, "head.", 27.9),
    "timesformer": (partial(of_transformers, "Timesformer"), "classifier.", 121.3),
    "vivit_b": (partial(of_transformers, "Vivit"), "classifier.", 88.6),
    "videomae_s": (partial(of_transformers, "VideoMAE", **NARROW), "classifier.", 21.9),
    "videomae_b": (partial(of_transformers, "VideoMAE"), "classifier.", 86.2),
    "frame_r18": (resnet18, "fc.", 11.2),
}
"""The library's own network, its classification layer, and millions of parameters without it."""

LAYER_ERROR = 0.02
"""bfloat16 rounds to 8 binary digits, 0.2% on average. Gradients of a layer, sums of such products,
are 0.3% off, those of tables of positions inside attention up to 1.1%. What oneDNN gets wrong is
off by 90% and more, or no number."""

MORE_STEPS = dict.fromkeys(("timesformer", "vivit_b", "videomae_s", "videomae_b"), 24)
"""Without normalisation over clips, and from small weights, they begin more slowly."""

LEAST_PX = 16
"""No network is given smaller clips, as `clips` itself refuses them."""

LARGER_PX = {"s3d": 64}
"""Where 48 px would leave a single position to explain."""


def on_meta(name: str, clips: ClipsConfig) -> ClipClassifier:
    with torch.device("meta"):
        return build_network(model(name), clips)


def features_of(network: ClipClassifier) -> torch.Size:
    """The shape of what two clips give, on the device `meta`."""
    frames, side_px = network.clips.num_frames, network.clips.side_px
    channels = len(network.mean)
    clips = torch.empty(2, channels, frames, side_px, side_px, device="meta")
    return network.features(clips).shape


def model(name: str, head: str = "linear") -> ModelConfig:
    values: dict[str, Any] = {"network": name, "head": head}
    return replace(model_config(), **values)


def small_network(name: str, head: str = "linear") -> ClipClassifier:
    torch.manual_seed(0)
    return build_network(model(name, head), small_clips(name))


def some_pixels(clips: ClipsConfig, number: int = 4) -> Tensor:
    shape = (number, clips.num_frames, 3, clips.side_px, clips.side_px)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(60, 160, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_name_is_all_that_a_configuration_needs(name: str, tmp_path: Path) -> None:
    params = compose(tmp_path / "params.yaml", f"model={name}")
    assert params.model.network == name
    assert params.model.pretrained == "none", "the scale no longer says so"
    assert features_of(on_meta(name, params.clips))[:2] == (2, ARCHITECTURES[name].channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_registered_version_answers_as_in_process(
    name: str, tmp_path: Path, store: MlflowClient
) -> None:
    folder, clips = tmp_path / "network", small_clips(name)
    save_network(small_network(name), folder, model(name), clips)
    settings = Settings(clips=clips, calibration=CALIBRATION, limits=serving_config(max_mib=5.0))
    experiment = store.create_experiment("shelf", artifact_location=(tmp_path / "kept").as_uri())
    run_id = store.create_run(experiment).info.run_id
    version = log_model("fvc", folder, settings, [], run_id=run_id, tags={"fvc.network": name})
    answer = ask(load_model(f"models:/fvc/{version}"), example_video())
    pixels = torch.from_numpy(read_clips(BytesIO(example_video()), clips).pixels)
    logit = video_logit(clip_logits(load_network(folder), pixels))
    assert answer["error"] is None
    assert answer["probability_fake"] == pytest.approx(CALIBRATION.probability(logit), abs=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_takes_the_clips_of_the_largest_scale(name: str, tmp_path: Path) -> None:
    untrained = () if name in TRAINED else ("model.pretrained=none",)
    params = compose(tmp_path / "params.yaml", f"model={name}", "scale=full", *untrained)
    assert (params.clips.num_frames, params.clips.side_px) == (16, 224)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_size_and_cost_are_the_published_ones(name: str) -> None:
    architecture = ARCHITECTURES[name]
    published = architecture.published
    if published is None:
        pytest.skip("nobody has stated anything")
    clips = clips_config(1, published.num_frames, published.side_px)
    with torch.device("meta"):
        backbone = architecture.build(clips)
    assert parameters(backbone) == published.parameters
    found = gmacs(backbone, published.num_frames, published.side_px)
    assert found == pytest.approx(published.gmacs, rel=0.02)


@pytest.mark.parametrize("name", LIBRARY)
def test_size_is_that_of_the_library_without_its_classifier(name: str) -> None:
    library, classifier, millions = LIBRARY[name]
    with torch.device("meta"):
        whole = library()
    sizes = {key: value.numel() for key, value in whole.named_parameters()}
    assert any(key.startswith(classifier) for key in sizes)
    expected = sum(size for key, size in sizes.items() if not key.startswith(classifier))
    stated = ARCHITECTURES[name].published
    assert stated is not None
    # Some have a table with a row for each position.
    clips = clips_config(1, stated.num_frames, stated.side_px)
    with torch.device("meta"):
        backbone = ARCHITECTURES[name].build(clips)
    assert parameters(backbone) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_smallest_clips_are_taken_and_smaller_ones_refused(name: str) -> None:
    takes = TAKES[name]
    smallest = small_clips(name, frames=1, side_px=1)
    assert features_of(on_meta(name, smallest))[:2] == (2, ARCHITECTURES[name].channels)
    smaller = []
    if takes.side_px_from > LEAST_PX:
        smaller.append(replace(smallest, side_px=takes.side_px_from - 1))
    if takes.frames_from > 1:
        smaller.append(replace(smallest, num_frames=takes.frames_from - 1))
    if not takes.native:
        smaller.append(replace(smallest, fit="native"))
    for clips in smaller:
        with pytest.raises(FvcError, match=f"network {name}: cannot take clips"):
            on_meta(name, clips)


@pytest.mark.parametrize("name", ["s3d", "mvit_v2_s"])
def test_clips_of_the_default_network_are_refused_with_the_parameters(
    name: str, tmp_path: Path
) -> None:
    changes = ("clips.num_frames=8", "clips.side_px=64")
    with pytest.raises(FvcError, match=f"network {name} cannot take clips.num_frames 8: it takes"):
        compose(tmp_path / "params.yaml", f"model={name}", *changes)


@pytest.mark.parametrize(
    ("name", "frames", "side_px", "is_taken"),
    [
        ("s3d", 13, 224, True),
        ("s3d", 12, 224, False),
        ("s3d", 8, 64, False),
        ("mvit_v2_s", 16, 224, True),
        ("mvit_v2_s", 8, 224, False),
        ("mvit_v2_s", 8, 64, False),
    ],
)
def test_torchvision_takes_no_fewer_frames(
    name: str, frames: int, side_px: int, is_taken: bool
) -> None:
    with torch.device("meta"):
        whole = LIBRARY[name][0]()
    clip = torch.empty(1, 3, frames, side_px, side_px, device="meta")
    if is_taken:
        assert whole(clip).shape == (1, 400)
        return
    with pytest.raises(RuntimeError, match=r"smaller than kernel size|is invalid for input"):
        whole(clip)


def test_a_picture_that_s3d_would_pool_away_is_refused_for_that() -> None:
    with torch.device("meta"):
        backbone = ARCHITECTURES["s3d"].build(small_clips("s3d"))
    assert backbone.eval()(torch.empty(1, 3, 13, 17, 17, device="meta")).shape[2:] == (2, 1, 1)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        backbone(torch.empty(1, 3, 13, 16, 16, device="meta"))


@pytest.mark.parametrize("head", ["linear", "inception"])
@each_trained
def test_a_clip_becomes_one_logit_with_either_head(name: str, head: str) -> None:
    network = small_network(name, head).eval()
    with torch.inference_mode():
        logits = network(network.normalise(some_pixels(network.clips, 2)))
    assert logits.shape == (2, 1)
    assert logits.isfinite().all()
    assert list(explained_layers(network)) == ["backbone", "head"][: 1 + (head == "inception")]


@each_trained
def test_a_step_reaches_every_parameter_and_changes_every_stage(name: str) -> None:
    network, config = small_network(name), train_config()
    make_bf16_safe(network)
    set_trainable(network, config, 0)
    optimizer = torch.optim.Adam(parameter_groups(network, config))
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    with choose_precision(mixed=True).autocast():
        logits = network.train()(network.normalise(some_pixels(network.clips))).squeeze(1)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
    binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
    for key, value in network.named_parameters():
        assert value.grad is not None, f"{key} takes no part, which stops several GPUs"
        assert value.grad.isfinite().all(), f"{key} has no usable gradient"
    optimizer.step()
    moved = {id(value) for key, value in network.named_parameters() if not value.equal(before[key])}
    for stage, module in stages_of(network):
        assert moved & {id(value) for value in module.parameters()}, f"{stage} did not move"


@each_trained
def test_bfloat16_gives_every_layer_the_gradient_of_float32(name: str) -> None:
    network = small_network(name).train()
    make_bf16_safe(network)
    clips = network.normalise(some_pixels(network.clips, 2))
    errors = dict(gradient_errors(network.features, clips))
    covered = {f"features.{key}" for key in errors} | {"classifier.weight", "classifier.bias"}
    missed = {key for key, _ in network.named_parameters()} - covered
    # VideoMAE's last normalisation is computed by its wrapper, in float32 at all times.
    assert all(".fc_norm." in key for key in missed), f"{missed} are not looked at"
    wrong = {key: error for key, error in errors.items() if not error < LAYER_ERROR}
    assert not wrong, f"bfloat16 trains these parameters with wrong gradients: {wrong}"


def gradient_errors(features: nn.Module, clips: Tensor) -> Iterator[tuple[str, float]]:
    """How far the gradient of every parameter is off in bfloat16, relative to its size.

    Each layer is given what it is given in the whole network, and gradients
    that are noise. Over many layers the errors of single ones would add up, and
    batch normalisation of a few clips makes them large.
    """
    given = arguments_of_layers(features, clips)
    names = {id(value): name for name, value in features.named_parameters()}
    for layer, arguments in given.items():
        inner = [value for part in layer.modules() if part is not layer and part in given
                 for value in part.parameters()]  # fmt: skip
        exact, rounded = (
            layer_gradients(layer, arguments, dtype) for dtype in (torch.float32, torch.bfloat16)
        )
        # Some gradients are zero but for rounding, as those of positions along a side of one.
        floor = 0.01 * max(float(value.norm()) for value in exact.values())
        for key in exact.keys() - {id(value) for value in inner}:
            difference = float((rounded[key] - exact[key]).norm())
            yield names[key], difference / max(float(exact[key].norm()), floor)


def arguments_of_layers(features: nn.Module, clips: Tensor) -> dict[nn.Module, tuple[Any, ...]]:
    """What each part with parameters of its own is called with."""
    given: dict[nn.Module, tuple[Any, ...]] = {}

    def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        given[layer] = tuple(
            each.detach().clone() if isinstance(each, Tensor) else each for each in arguments
        )

    layers = [part for part in features.modules() if list(part.parameters(recurse=False))]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    features(clips)
    for hook in hooks:
        hook.remove()
    return given


def layer_gradients(
    layer: nn.Module, arguments: tuple[Any, ...], dtype: torch.dtype
) -> dict[int, Tensor]:
    layer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        result = layer(*arguments)
    output = (result[0] if isinstance(result, tuple) else result).float()
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * noise).sum().backward()
    found = {id(each): each.grad for each in layer.parameters()}
    return {key: value.clone() for key, value in found.items() if value is not None}


@each_network
def test_a_saved_network_comes_back_the_same(name: str, tmp_path: Path) -> None:
    network = small_network(name).eval()
    trained = dict(network.named_parameters())
    for key, value in network.state_dict().items():
        if key not in trained and value.is_floating_point():
            # As after training.
            value.add_(0.01)
    save_network(network, tmp_path / "first", model(name), network.clips)
    loaded = load_network(tmp_path / "first")
    save_network(loaded, tmp_path / "second", model(name), network.clips)
    for file in (WEIGHTS, DESCRIPTION):
        first, second = ((tmp_path / folder / file).read_bytes() for folder in ("first", "second"))
        assert first == second, f"equal networks give unequal {file}"
    clips = network.normalise(some_pixels(network.clips, 2))
    with torch.inference_mode():
        assert torch.equal(loaded(clips), network(clips))
        assert torch.equal(deepcopy(loaded)(clips), network(clips))


@each_trained
def test_its_map_has_the_size_of_the_clip(name: str) -> None:
    network = small_network(name, "inception").eval()
    [pixels] = some_pixels(network.clips, 1)
    maps = grad_cam(network, pixels, "fake")
    with torch.inference_mode():
        features = network.features.get_submodule("backbone")(network.normalise(pixels[None]))
    assert list(maps) == ["backbone", "head"]
    for found in maps.values():
        assert found.values.shape == (pixels.shape[0], *pixels.shape[2:])
        assert found.cells == tuple(features.shape[2:])


def with_squares(clips: ClipsConfig) -> tuple[Tensor, Tensor]:
    """Eight clips of noise; every second one, called fake, has a bright square for a while."""
    pixels, labels = some_pixels(clips, 8), torch.tensor([0.0, 1.0] * 4)
    side_px, generator = clips.side_px // 3, torch.Generator().manual_seed(1)
    for clip in pixels[1::2]:
        places = torch.randint(0, clips.side_px - side_px, (2,), generator=generator)
        top, left = places.tolist()
        clip[: clips.num_frames // 2, :, top : top + side_px, left : left + side_px] = 250
    return pixels, labels


def learn_by_heart(network: ClipClassifier, pixels: Tensor, labels: Tensor, steps: int) -> None:
    """Train in the format of a training, and then let statistics be those of the last weights."""
    make_bf16_safe(network)
    precision = choose_precision(mixed=True)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-4)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with precision.autocast():
            logits = network(network.normalise(pixels)).squeeze(1)
        binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    update_bn([network.normalise(pixels)], network)
    network.eval()


@pytest.mark.slow
@each_trained
def test_it_learns_eight_clips_by_heart_and_its_maps_tell_what(name: str) -> None:
    clips = small_clips(name, side_px=LARGER_PX.get(name, 48))
    torch.manual_seed(0)
    network = build_network(replace(model(name), dropout=0.0), clips)
    pixels, labels = with_squares(clips)
    learn_by_heart(network, pixels, labels, steps=MORE_STEPS.get(name, 8))
    with torch.inference_mode():
        logits = network(network.normalise(pixels)).squeeze(1)
    assert binary_cross_entropy_with_logits(logits, labels) < 0.05
    explained = [
        Explained(clip=clip, side="fake", maps=grad_cam(network, clip, "fake"))
        for clip in pixels[1::2]
    ]
    found = randomisation_check(network, explained, range(5))
    assert found["backbone"] is not None, "no map shows anything"
    assert found["backbone"] < MOST_ALIKE, "the map is the same whatever the weights"
