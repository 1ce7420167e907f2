"""Runs, read and localized on the same videos, as `d2net report` and `d2net compare` show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2net import api
from d2net.config import from_dict
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore
from d2net.data.files import DataError
from d2net.report.results import Results, results
from d2net.report.runs import RunRecord, differences, groups, read_run


@dataclass(frozen=True)
class Collected:
    """Runs in the order given, and of each its results where there are data, all by one protocol."""

    runs: list[RunRecord]
    results: list[Results]
    truth: Annotations | None
    protocol: str
    at: float

    def seeds(self) -> list[dict[str, Any]]:
        """Mean and standard deviation, by IoU and on average, of runs that differ in the seed alone."""
        out = []
        for members in groups(self.runs):
            metrics = [m for i in members if self.results and (m := self.results[i].metrics) is not None]
            if len(metrics) > 1:
                table = np.array([[*m.mAP, m.average_mAP] for m in metrics])
                mean, spread = table.mean(0).tolist(), table.std(0, ddof=1).tolist()
                out.append({"runs": members, "mean": mean, "deviation": spread})
        return out

    def differences(self) -> dict[str, list[Any]]:
        return differences(self.runs)


def collect(
    folders: Sequence[Path],
    store: FeatureStore | None = None,
    annotations: Annotations | None = None,
    *,
    subset: Sequence[str] | None = None,
    protocol: str | None = None,
    iou: str | None = None,
    at: float = 0.5,
    device: str = "auto",
    skip_missing: bool = False,
    progress: bool = False,
    details: bool = True,
) -> Collected:
    """Reads the runs, and localizes with each where features and annotations are given.

    Args:
        subset, protocol, iou: those of the first run's configuration by default.
        at: the IoU that single detections are judged at.
        details: keep activations and the kind of each detection.

    Raises:
        DataError: a run twice, or a folder that is none. ValueError: as `localize` and `evaluate`.
    """
    if not 0 < at <= 1:
        raise ValueError(f"at: an IoU is in (0, 1], got {at}")
    places = [folder.resolve() for folder in folders]
    if twice := next((f for i, f in enumerate(folders) if places[i] in places[:i]), None):
        raise DataError(f"run {twice} is given twice; keep one")
    runs = [read_run(folder) for folder in folders]
    models = [api.load(folder, device) for folder in folders] if store is not None else []
    settings = models[0].config if models else from_dict(_tree(runs[0].settings))
    protocol = protocol or settings.evaluate.protocol
    if store is None or annotations is None:
        return Collected(runs, [], None, protocol, at)
    truth = annotations.subset(list(subset or settings.localize.subsets))
    found = [
        results(
            model, store, truth, protocol=protocol, iou=settings.evaluate.iou if iou is None else iou, at=at,
            skip_missing=skip_missing, progress=progress, details=details,
        )
        for model in models
    ]  # fmt: skip
    return Collected(runs, found, truth.only(found[0].steps), protocol, at)


def _tree(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, field = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[field] = value
    return tree
