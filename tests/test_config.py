import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from shelf import ROOT, compose

from fvc.config import (
    AS_WRITTEN,
    as_overrides,
    check_params,
    differences,
    load_params,
)
from fvc.errors import FvcError


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return loaded


def test_committed_params_are_the_quickstart_scale(tmp_path: Path) -> None:
    composed = compose(tmp_path / "params.yaml", "scale=quickstart")
    assert load_params(ROOT / "params.yaml") == composed
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert committed == (tmp_path / "params.yaml").read_text(encoding="utf-8"), (
        "params.yaml is not what DVC composes from conf/: run 'dvc exp run' or restore it"
    )


def test_the_full_scale_is_the_one_of_the_protocol(tmp_path: Path) -> None:
    params = compose(tmp_path / "params.yaml", "scale=full")
    assert (params.clips.num_frames, params.clips.side_px) == (16, 224)
    assert (params.train.batch_size, params.augment.versions) == (32, 3)
    assert len(params.split.folds) == 5
    assert (params.train.optimizer, params.train.learning_rate) == ("adam", 1e-4)
    assert params.train.weight_decay == 1e-4
    assert params.train.mixed_precision
    assert params.model.pretrained == "published"


def test_the_longer_scale_leaves_the_traces_of_manipulations(tmp_path: Path) -> None:
    params, quick = (
        compose(tmp_path / "params.yaml", "scale=longer"),
        load_params(ROOT / "params.yaml"),
    )
    assert params.clips == replace(quick.clips, num_clips=3)
    assert params.train.patience == params.train.epochs, "it is not cut short"
    weakening = ("noise", "blur", "downscale", "recompression")
    assert [getattr(params.augment, name).probability for name in weakening] == [0, 0, 0, 0]


def test_one_flag_asks_for_a_single_division(tmp_path: Path) -> None:
    split = compose(tmp_path / "params.yaml", "split=single").split
    assert (split.scheme, split.folds) == ("single", (0,))
    committed = compose(tmp_path / "params.yaml").split
    assert replace(split, scheme="kfold", folds=committed.folds) == committed
    both = compose(tmp_path / "params.yaml", "split.scheme=single", "split.folds=[0]").split
    assert both == split


def test_an_override_reaches_the_parameters(tmp_path: Path) -> None:
    params = compose(tmp_path / "params.yaml", "train.learning_rate=5.0e-4")
    assert params.train.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("train", "learning_rate", "1e-3", "train.learning_rate: .*not the text '1e-3'"),
        ("train", "epochs", 2.5, "train.epochs: "),
        ("train", "epochs", 0, "train: epochs is 0, below 1"),
        ("train", "warmup_epochs", 5.0, "train: warmup_epochs is 5.0, not below epochs, 5"),
        (
            "train",
            "class_balanced_beta",
            1.0,
            r"train: class_balanced_beta is 1.0, not in \[0, 1\)",
        ),
        ("train", "focal_gamma", -0.5, "train: focal_gamma is -0.5, below 0"),
        ("train", "label_smoothing", 1.0, r"train: label_smoothing is 1.0, not in \[0, 1\)"),
        ("train", "mixup_alpha", -1.0, "train: mixup_alpha is -1.0, below 0"),
        ("train", "loss", "mse", "train.loss: .*'bce', 'focal' or 'class_balanced'"),
        ("train", "imbalance", "smote", "train.imbalance: .*'balanced_batches', "),
        ("train", "momentum", 0.9, "train.momentum: unexpected keyword argument"),
        ("split", "folds", [0, 2], r"split: folds is \[0, 2\]"),
        ("split", "folds", [0], r"split: folds is \[0\], not .* at least two folds"),
        ("split", "folds", [], r"split: folds is \[\], not .* at least two folds"),
        ("split", "scheme", "single", r"split: folds is \[0, 1.*\], not \[0\], as scheme single"),
        ("split", "scheme", "holdout", "split.scheme: .*'kfold' or 'single'"),
        ("split", "test_share", 0.5, "split: test_share is 0.5"),
        ("split", "folds", 5, "split.folds: "),
        ("clips", "side_px", True, "clips.side_px: "),
        ("model", "network", "resnet", "model: network is .resnet., not one of r3d_18, "),
        ("augment", "flip", {"probability": 1.5}, "augment.flip: probability is 1.5"),
        ("augment", "drop", {"probability": 1, "max_share": 1}, "augment.drop: max_share is 1.0"),
        ("augment", "strength", -1.0, "augment: strength is -1.0, below 0"),
        ("augment", "mode", "sometimes", "augment.mode: "),
        (
            "augment",
            "recompression",
            {"probability": 1, "min_crf": 30, "max_crf": 20},
            "augment.recompression: max_crf is 20.0, below the least, 30.0",
        ),
        ("augment", "rotation", {"probability": 1, "max_deg": 181}, "not in \\[0, 180\\]"),
        ("augment", "noise", {"probability": 1, "max_std": -8}, "augment.noise: max_std is -8.0"),
        ("loader", "persistent_workers", True, "loader: persistent_workers needs num_workers > 0"),
        ("loader", "num_workers", -1, "loader: num_workers is -1, below 0"),
        ("loader", "prefetch_factor", 0, "loader: prefetch_factor is 0, below 1"),
        ("loader", "cache", "disk", "loader.cache: .*'none', 'ram' or 'device'"),
        ("clips", "num_frames", datetime.date(2020, 1, 1), "clips.num_frames: "),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    content: dict[str, Any], section: str, key: str, value: object, said: str
) -> None:
    content[section][key] = value
    with pytest.raises(FvcError, match=said):
        check_params(content, "params.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loader": {"num_workers": 2, "cache": "device"}}, "loader: cache device needs num_w"),
        (
            {"loader": {"cache": "device"}, "augment": {"mode": "on_the_fly"}},
            "the file: loader.cache device needs augment.mode stored",
        ),
    ],
)
def test_contradictions_are_refused(
    content: dict[str, Any], changes: dict[str, dict[str, Any]], said: str
) -> None:
    for section, values in changes.items():
        content[section] |= values
    with pytest.raises(FvcError, match=said):
        check_params(content, "params.yaml")


LOSSES = ("bce", "focal", "class_balanced")
IMBALANCES = ("balanced_batches", "class_weights", "weighted_sampler", "none")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("imbalance", IMBALANCES)
def test_the_classes_are_made_up_for_once(
    content: dict[str, Any], loss: str, imbalance: str
) -> None:
    content["train"] |= {"loss": loss, "imbalance": imbalance}
    if loss == "class_balanced" and imbalance != "none":
        said = f"train: loss class_balanced and imbalance {imbalance} correct twice: set train.imb"
        with pytest.raises(FvcError, match=said):
            check_params(content, "params.yaml")
    else:
        assert check_params(content, "params.yaml").train.imbalance == imbalance


def test_a_missing_key_is_refused_by_name(content: dict[str, Any]) -> None:
    del content["train"]["epochs"]
    with pytest.raises(FvcError, match=r"train\.epochs: field required"):
        check_params(content, "params.yaml")


@pytest.mark.parametrize("content", [b"", b"train: [", b"- 1\n- 2\n", b"42", b"seed: \xe9"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "params.yaml"
    source.write_bytes(content)
    with pytest.raises(FvcError) as raised:
        load_params(source)
    assert "\n" not in str(raised.value)
    assert "params.yaml" in str(raised.value)


def test_a_flag_reaches_every_kind_of_parameter() -> None:
    overrides = ["seed=7", "train.loss=focal", "train.learning_rate=5.0e-4", "split.folds=[0,1]"]
    overrides += ["augment.flip.probability=0", "train.mixed_precision=false"]
    overrides += ["augment.drop={probability: 0.1, max_share: 0.5}"]
    overrides += ["train.epochs=9", "train.epochs=2"]
    params = load_params(ROOT / "params.yaml", overrides)
    assert (params.seed, params.train.loss, params.train.learning_rate) == (7, "focal", 5e-4)
    assert (params.split.folds, params.augment.flip.probability) == ((0, 1), 0)
    assert (params.augment.drop.max_share, params.train.mixed_precision) == (0.5, False)
    assert params.train.epochs == 2, "the first of two values counts"


def test_a_flag_that_changes_nothing_gives_equal_parameters() -> None:
    written = load_params(ROOT / "params.yaml")
    same = [f"train.epochs={written.train.epochs}", f"train.learning_rate={AS_WRITTEN}"]
    assert load_params(ROOT / "params.yaml", same) == written
    taken_back = ["train.epochs=99", f"train.epochs={AS_WRITTEN}"]
    assert load_params(ROOT / "params.yaml", taken_back) == written


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=1", r"--set train\.epoch: there is no such .* Did you mean train\.epochs"),
        ("epochs.train.x=1", "--set epochs.train.x: there is no such parameter"),
        ("seed.x=1", "--set seed.x: there is no such parameter"),
        ("split.folds.0=1", "--set split.folds.0: there is no such parameter"),
        (f"train.momentum={AS_WRITTEN}", "--set train.momentum: there is no such parameter"),
        ("=1", "--set : there is no such parameter"),
        ("train.epochs", "--set train.epochs: has no value. Write --set section.key=value"),
        ("train.epochs=[", r"--set train.epochs: '\[' is no valid YAML"),
        ("train.epochs=", r"params.yaml with train.epochs=: train.epochs: .*valid integer"),
        ("train.epochs=0", "params.yaml with train.epochs=0: train: epochs is 0, below 1"),
        ("train.learning_rate=1e-3", r"learning_rate: .*not the text '1e-3' \(write 1.0e-3"),
        ("train.loss=hinge", "train.loss: .*'focal'"),
        ("train=5", "params.yaml with train=5: train: "),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(override: str, said: str) -> None:
    with pytest.raises(FvcError, match=said) as raised:
        load_params(ROOT / "params.yaml", [override])
    assert "\n" not in str(raised.value)


def test_differences_are_flags_that_make_them(content: dict[str, Any]) -> None:
    changes = ["train.learning_rate=1.0e-05", "split.folds=[0,1]", "augment.flip.probability=0.0"]
    changes += ["model.pretrained=none of these", "train.mixed_precision=false"]
    changed = load_params(ROOT / "params.yaml", changes)
    found = differences(changed, content)
    text = [as_overrides({name: value}) for name, value in found.items()]
    assert sorted(text) == sorted(changes)
    assert load_params(ROOT / "params.yaml", text) == changed
    assert not differences(load_params(ROOT / "params.yaml"), content)
    del content["train"]["epochs"]
    assert as_overrides(differences(load_params(ROOT / "params.yaml"), content)) == "train.epochs=5"
