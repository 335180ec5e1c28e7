"""Two trained folds with their evidence, ready to be registered; with networks of one layer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outcomes import CALIBRATION
from source_tree import ROOT
from torch import nn

from fvc import tracking
from fvc.clip_files import save_clips
from fvc.config import Params, load_params
from fvc.encoding import encode
from fvc.files import read_json, sha256_of_file, write_json
from fvc.networks import build_network, save_network
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX, PREDICTIONS
from fvc.stages import register


def one_layer(*_: object) -> nn.Module:
    """What takes the place of a backbone."""
    return nn.Conv3d(3, 512, 3)


class Corpus:
    """Two trained folds and their evidence; sixteen locked videos, of which fakes are brighter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = load_params(ROOT / "params.yaml")
        self.params: Params = replace(
            params,
            clips=replace(params.clips, num_frames=4, side_px=16),
            split=replace(params.split, folds=(0, 1)),
            evaluate=replace(params.evaluate, bootstrap_samples=100),
        )
        rows: list[dict[str, object]] = []
        generator = np.random.default_rng(0)
        for number in range(16):
            video_id, fake = f"youtube_{number:02}", number % 2
            pixels = generator.integers(0, 100, (1, 4, 3, 16, 16), np.uint8) + np.uint8(120 * fake)
            save_clips(root / "clips" / f"{video_id}.pt", pixels, "key")
            encode(root / "videos" / f"{video_id}.mp4", pixels[0].transpose(0, 2, 3, 1), fps=4)
            row = {"video_id": video_id, "group": f"g{number}", "part": "locked"}
            rows.append({**row, "label": ("real", "fake")[fake], "fold": None, "validates": []})
        FOLDS.write(root / "folds.parquet", FOLDS.frame(rows))
        files = [
            dict.fromkeys(INDEX.columns)
            | {"video_id": name, "path": f"{name}.mp4", "sha256": f"sha256 of {name}"}
            for name in (row["video_id"] for row in rows)
        ]
        INDEX.write(root / "index.parquet", INDEX.frame(files))
        write_json(root / "clips.json", {"data_sha256": "d" * 64})

    def add_network(self, fold: int, *, brightness: float, ranks_validation: bool) -> None:
        """A network whose logit is the brightness of the clip times a factor."""
        torch.manual_seed(fold)
        network = build_network(self.params.model, self.params.clips)
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(network.features.weight, brightness)  # type: ignore[arg-type]
        nn.init.ones_(network.classifier.weight)
        folder = self.root / "models" / str(fold)
        save_network(network, folder, self.params.model, self.params.clips)
        rows: list[dict[str, object]] = [
            {
                "video_id": f"facebook_{number}",
                "fold": fold,
                "part": "validation",
                "label": ("real", "fake")[number % 2],
                "probability_fake": 0.5,
                "logit": float(number % 2) if ranks_validation else 0.0,
                "num_clips": 1,
            }
            for number in range(4)
        ]
        PREDICTIONS.write(folder / "predictions.parquet", PREDICTIONS.frame(rows))

    def add_evidence(self, *, low: float = 0.8, probe: float = 0.7, leaks: int = 0) -> None:
        scores = {"value": 0.9, "low": low, "high": 0.95}
        counts = {"videos": 20, "groups": 10}
        measures = {"roc_auc": scores, "macro_f1": scores}
        metrics = {"video": measures, "counts": counts, "leaks": leaks}
        evaluation = self.root / "evaluation"
        probes = {"best_probe": "container", "best_probe_roc_auc": probe}
        write_json(evaluation / "metrics.json", metrics | probes)
        write_json(evaluation / "slices.json", [])
        rows = "0,1.0,0.25,0.5\n1,0.5,0.0,0.75\n1,1.0,0.125,0.5\n"
        curve = "fold,coverage,selective_risk,sureness\n" + rows
        (evaluation / "risk_coverage_by_fold.csv").write_text(curve)
        calibrations = {str(fold): CALIBRATION.as_dict() for fold in (0, 1)}
        write_json(evaluation / "calibration.json", calibrations)

    def register(self) -> dict[str, Any]:
        """Train, as far as the store is concerned, and register."""
        self.track()
        return self.only_register()

    def only_register(self) -> dict[str, Any]:
        """Register the better of the two networks by validation; gives the summary."""
        summary = self.root / "registered.json"
        register.run(
            self.params,
            models=self.root / "models",
            evaluation=self.root / "evaluation",
            clips=self.root / "clips",
            clips_summary=self.root / "clips.json",
            videos=self.root / "videos",
            index=self.root / "index.parquet",
            folds=self.root / "folds.parquet",
            summary=summary,
        )
        decided: dict[str, Any] = read_json(summary, "register")
        return decided

    def track(self) -> None:
        """What evaluate does: runs for the folds, below one for the cross-validation."""
        identity = tracking.Identity(
            params=self.params,
            data_sha256="d" * 64,
            folds_sha256=folds_sha256(FOLDS.read(self.root / "folds.parquet")),
        )
        outputs = [
            tracking.FoldOutputs(
                fold=fold,
                weights_sha256=sha256_of_file(folder / "weights.safetensors"),
                history=[],
                results={"test/roc_auc": 0.5},
                files=[],
            )
            for fold in (0, 1)
            for folder in [self.root / "models" / str(fold)]
        ]
        tracking.complete_cross_validation(identity, outputs, {}, self.root / "evaluation", "")
