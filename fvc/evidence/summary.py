"""What DVC's tables and MLflow's pages show of all that `metrics.json` holds."""

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


def note_of(metrics: Mapping[str, Any]) -> str:
    """What the run's page says first, in Markdown."""
    found = metrics["video"]["roc_auc"]
    known = "unknown" if found["value"] is None else f"{found['value']:.3f}"
    interval = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    beats = "beats" if metrics["beats_probes"] else "does **not** beat"
    probe = f", {metrics['best_probe']}" if metrics["best_probe"] else ""
    leaks = metrics["leaks"]
    warning = (
        f"**These numbers prove nothing: leaks found by the audit: {leaks}.** " if leaks else ""
    )
    return (
        f"{warning}Out-of-fold ROC-AUC **{known}**{interval}; it {beats} the best probe{probe}. "
        "The evidence is in the artifact `report.html`. `test/accuracy` and the like are of calls "
        "at each fold's own threshold, those of the folds' runs at a probability of 0.5."
    )


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
