import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from settings import clips_config, model_config, train_config
from shelf import TRAINED, small_clips
from torch import Tensor, nn
from torch.nn import functional

from fvc.config import TAKES, TrainConfig
from fvc.networks import ARCHITECTURES, ClipClassifier, build_network
from fvc.training.fine_tuning import (
    parameter_groups,
    set_train_mode,
    set_trainable,
    stages_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS = clips_config(1, 4, 16)


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs))


def staged_network() -> ClipClassifier:
    """As the real ones are built: a backbone of three stages, and a head."""
    torch.manual_seed(0)
    stages = {"stem": convolution(3, 4), "layer1": convolution(4, 4), "layer2": convolution(4, 4)}
    parts = {"backbone": nn.Sequential(OrderedDict(stages)), "head": convolution(4, 4)}
    features = nn.Sequential(OrderedDict(parts))
    return ClipClassifier(features, channels=4, dropout=0.0, clips=CLIPS)


def plain_network() -> ClipClassifier:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU())
    return ClipClassifier(features, channels=4, dropout=0.0, clips=CLIPS)


def on_meta(head_channels: int, **changes: Any) -> ClipClassifier:
    model = replace(model_config(), head_channels=head_channels, **changes)
    with torch.device("meta"):
        return build_network(model, small_clips(model.network))


def names(network: ClipClassifier) -> list[str]:
    return [name for name, _ in stages_of(network)]


def step(network: ClipClassifier, optimizer: torch.optim.Optimizer) -> None:
    pixels = torch.randint(0, 256, (4, 4, 3, 16, 16), dtype=torch.uint8)
    logits = network(network.normalise(pixels)).squeeze(1)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
    optimizer.zero_grad()
    functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def copied(network: ClipClassifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def stage_of_values(network: ClipClassifier) -> dict[str, str]:
    """The stage of each entry of the state: a value is itself, whatever it is called."""
    homes: dict[int, str] = {}
    for name, stage in stages_of(network):
        values = [*stage.parameters(), *stage.buffers()]
        homes |= {value.data_ptr(): name for value in values}
    found = {name: homes.get(value.data_ptr(), "") for name, value in network.state_dict().items()}
    assert {name for name, home in found.items() if not home} == {"mean", "std"}
    return found


def changed_stages(network: ClipClassifier, before: dict[str, Tensor]) -> set[str]:
    homes = stage_of_values(network)
    return {
        homes[name] for name, old in before.items() if not network.state_dict()[name].equal(old)
    }


def test_r3d_18_has_the_stages_of_its_paper_and_a_head() -> None:
    network = on_meta(512)
    assert names(network) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    counts = {
        name: sum(each.numel() for each in stage.parameters()) for name, stage in stages_of(network)
    }
    # By hand: 3x3x3 kernels without bias, two numbers per channel for each normalisation.
    block = 27 * 64 * 64 + 2 * 64
    assert counts["stem"] == 3 * 64 * 3 * 7 * 7 + 2 * 64
    assert counts["layer1"] == 4 * block
    # torchvision states 33,371,472 with a classifier of 400 classes over 512 features.
    backbone = 33_371_472 - (512 * 400 + 400)
    assert sum(counts.values()) - counts["head"] == backbone
    branches = 512 * 128 * 4 + 27 * 128 * 128 * 3 + 2 * 128 * 3
    assert counts["head"] == branches + 2 * 512 + (512 + 1)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_of_a_network_is_in_one_stage(name: str) -> None:
    network = on_meta(512, network=name)
    staged = [id(each) for _, stage in stages_of(network) for each in stage.parameters()]
    assert len(staged) == len(set(staged)), "a parameter is in two stages"
    assert set(staged) == {id(each) for each in network.parameters()}
    assert len(names(network)) > 2, "nothing can be unfrozen step by step"


def test_every_network_that_may_be_configured_is_looked_at() -> None:
    assert set(ARCHITECTURES) == set(TAKES)
    fitted = {name for name, each in ARCHITECTURES.items() if each.classifier is not None}
    assert fitted == {name for name, takes in TAKES.items() if takes.fitted}


@pytest.mark.parametrize("features", [nn.Conv3d(3, 4, 3), nn.Sequential(nn.Conv3d(3, 4, 3))])
def test_other_features_are_one_stage(features: nn.Module) -> None:
    network = ClipClassifier(features, channels=4, dropout=0.0, clips=CLIPS)
    assert names(network) == ["features", "head"]


def test_looking_at_stages_changes_no_name_of_a_weight() -> None:
    network = staged_network()
    before = list(network.state_dict())
    stages_of(network)
    assert list(network.state_dict()) == before


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (train_config(fine_tuning="full"), [{"stem", "layer1", "layer2", "head"}] * 4),
        (train_config(fine_tuning="frozen"), [{"head"}] * 4),
        (
            train_config(fine_tuning="gradual", unfreeze_epochs=(1, 3)),
            [{"head"}, {"layer2", "head"}, {"layer2", "head"}, {"layer1", "layer2", "head"}],
        ),
        (
            train_config(fine_tuning="gradual", unfreeze_epochs=(0, 0, 2, 3)),
            [{"layer1", "layer2", "head"}] * 2 + [{"stem", "layer1", "layer2", "head"}] * 2,
        ),
    ],
    ids=["full", "frozen", "gradual", "gradual, all"],
)
def test_only_what_an_epoch_trains_changes(config: TrainConfig, trained: list[set[str]]) -> None:
    network = staged_network()
    # Weight decay and Adam's momenta must not reach what is frozen either.
    optimizer = torch.optim.AdamW(parameter_groups(network, config), weight_decay=0.1)
    for epoch, expected in enumerate(trained):
        told = set_trainable(network, config, epoch)
        set_train_mode(network, config, clips_at_once=4)
        before = copied(network)
        step(network, optimizer)
        assert changed_stages(network, before) == expected, f"in epoch {epoch}"
        assert set(told.stages) == expected


def test_a_later_epoch_needs_none_before_it() -> None:
    config = train_config(fine_tuning="gradual", unfreeze_epochs=(1, 2))
    resumed, undisturbed = staged_network(), staged_network()
    for epoch in range(3):
        last = set_trainable(undisturbed, config, epoch)
    assert set_trainable(resumed, config, 2) == last
    flags = [[each.requires_grad for each in net.parameters()] for net in (resumed, undisturbed)]
    assert flags[0] == flags[1]


def test_parameters_are_counted() -> None:
    network = staged_network()
    config = train_config(fine_tuning="frozen")
    told = set_trainable(network, config, 0)
    head = 27 * 4 * 4 + 4 + 8 + 4 + 1
    assert told.trainable == head
    assert told.total == head + (27 * 3 * 4 + 4 + 8) + 2 * (27 * 4 * 4 + 4 + 8)
    assert told.share == head / told.total


def test_the_backbone_learns_at_a_rate_of_its_own() -> None:
    network = staged_network()
    config = train_config(learning_rate=0.5, backbone_rate_factor=0.1)
    backbone, head = parameter_groups(network, config)
    assert (backbone["name"], backbone["lr"]) == ("backbone", pytest.approx(0.05))
    assert (head["name"], head["lr"]) == ("head", 0.5)
    grouped = [id(each) for group in (backbone, head) for each in group["params"]]
    assert sorted(grouped) == sorted(id(each) for each in network.parameters())
    descent = torch.optim.SGD(parameter_groups(network, config))
    assert [group["lr"] for group in descent.param_groups] == [pytest.approx(0.05), 0.5]


def test_equal_rates_train_as_one_group() -> None:
    config = train_config(backbone_rate_factor=1.0)
    networks = staged_network(), staged_network()
    optimizers = (
        torch.optim.Adam(parameter_groups(networks[0], config), fused=True),
        torch.optim.Adam(networks[1].parameters(), lr=config.learning_rate, fused=True),
    )
    for network, optimizer in zip(networks, optimizers, strict=True):
        torch.manual_seed(1)
        step(network, optimizer)
        step(network, optimizer)
    states = [copied(network) for network in networks]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_frozen_parameters_have_no_gradient_and_no_state() -> None:
    network, config = staged_network(), train_config(fine_tuning="frozen")
    optimizer = torch.optim.Adam(parameter_groups(network, config), fused=True)
    set_trainable(network, config, 0)
    step(network, optimizer)
    frozen = [each for each in network.parameters() if not each.requires_grad]
    assert frozen
    assert all(each.grad is None and each not in optimizer.state for each in frozen)


def statistics_that_move(network: ClipClassifier, config: TrainConfig, clips: int) -> set[str]:
    set_train_mode(network, config, clips)
    before = copied(network)
    with torch.no_grad():
        network(network.normalise(torch.full((clips, 4, 3, 16, 16), 200, dtype=torch.uint8)))
    return changed_stages(network, before)


@pytest.mark.parametrize(("clips", "moves"), [(7, False), (8, True), (9, True)])
def test_few_clips_at_once_leave_all_statistics(clips: int, moves: bool) -> None:
    network = staged_network()
    config = train_config(frozen_batch_norm_below=8)
    moved = statistics_that_move(network, config, clips)
    assert moved == ({"stem", "layer1", "layer2", "head"} if moves else set())


def test_frozen_stages_keep_their_statistics() -> None:
    network = staged_network()
    config = train_config(fine_tuning="gradual", unfreeze_epochs=(1,))
    set_trainable(network, config, 0)
    assert statistics_that_move(network, config, 4) == {"head"}
    set_trainable(network, config, 1)
    assert statistics_that_move(network, config, 4) == {"layer2", "head"}


def test_scale_and_offset_train_where_statistics_are_kept() -> None:
    network, config = staged_network(), train_config(frozen_batch_norm_below=8)
    set_trainable(network, config, 0)
    set_train_mode(network, config, 4)
    before = copied(network)
    step(network, torch.optim.SGD(network.parameters(), lr=0.1))
    changed = {name for name, old in before.items() if not network.state_dict()[name].equal(old)}
    assert "features.backbone.stem.1.weight" in changed
    assert "features.backbone.stem.1.running_mean" not in changed


def test_dropout_is_active_where_statistics_are_kept() -> None:
    network = staged_network()
    network.eval()
    set_train_mode(network, train_config(frozen_batch_norm_below=8), 1)
    assert network.training
    assert network.dropout.training


def test_the_log_says_how_many_train_when_that_changes(caplog: pytest.LogCaptureFixture) -> None:
    network = plain_network()
    config = train_config(fine_tuning="gradual", unfreeze_epochs=(2,))
    for epoch in range(4):
        set_trainable(network, config, epoch)
    assert [record.getMessage() for record in caplog.records] == [
        "5 of 341 parameters train (1.47%: head)",
        "341 of 341 parameters train (100%: features, head)",
    ]


@pytest.mark.parametrize("fine_tuning", ["frozen", "gradual"])
def test_a_run_that_trains_next_to_nothing_warns(
    fine_tuning: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = on_meta(16)
    # No epoch of this run ever reaches the first to unfreeze.
    config = train_config(fine_tuning=fine_tuning, unfreeze_epochs=(5,), epochs=5)
    told = set_trainable(network, config, 0)
    assert told.share < 0.01
    *late, warning = [each for each in caplog.records if each.levelno == logging.WARNING]
    said = ["train.unfreeze_epochs [5] are never reached"] if fine_tuning == "gradual" else []
    assert [each.getMessage().partition(":")[0] for each in late] == said
    assert f"only {told.trainable:,} of {told.total:,} parameters" in warning.getMessage()
    assert "Set train.fine_tuning to full" in warning.getMessage()


@pytest.mark.parametrize(
    ("fine_tuning", "head_channels"), [("full", 16), ("gradual", 16), ("frozen", 512)]
)
def test_a_run_that_trains_more_does_not_warn(
    fine_tuning: str, head_channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    network = on_meta(head_channels)
    config = train_config(fine_tuning=fine_tuning, unfreeze_epochs=(4,), epochs=5)
    set_trainable(network, config, 0)
    assert [each.levelno for each in caplog.records] == [logging.INFO]
