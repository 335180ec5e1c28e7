"""The numbers that DVC's tables and MLflow's runs show of all that `metrics.json` holds."""

from collections.abc import Mapping
from typing import Any


def headline_of(metrics: Mapping[str, Any]) -> dict[str, float | bool | None]:
    """The few numbers that `dvc metrics show` and `dvc exp show` have room for."""
    roc_auc = metrics["video"]["roc_auc"]
    return {
        "roc_auc": roc_auc["value"],
        "roc_auc_low": roc_auc["low"],
        "roc_auc_high": roc_auc["high"],
        "macro_f1": metrics["video"]["macro_f1"]["value"],
        "best_probe_roc_auc": metrics["best_probe_roc_auc"],
        "beats_probes": metrics["beats_probes"],
        "leaks": metrics["leaks"],
    }


def tracked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the cross-validation's run shows: the folds' names for the pooled values."""
    values: dict[str, float | None] = {}
    for name, found in metrics["video"].items():
        values[f"test/{name}"] = found["value"]
        values[f"test/{name}_low"], values[f"test/{name}_high"] = found["low"], found["high"]
        values[f"test_by_cascade/{name}"] = metrics["cascade"][name]["value"]
        values[f"test_over_folds/{name}_mean"] = metrics["folds"][name]["mean"]
        values[f"test_over_folds/{name}_std"] = metrics["folds"][name]["std"]
    values["audit/leaks"] = float(metrics["leaks"])
    for name, probe in metrics["probes"].items():
        values[f"probes/{name}_roc_auc"] = probe["roc_auc"]["value"]
    return {name: value for name, value in values.items() if value is not None}
