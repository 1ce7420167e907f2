"""What a run's folder says of a training: its configuration and its log."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from d2net.config import fields_of, load_config
from d2net.data.features import FeatureStore
from d2net.data.files import DataError, read_text
from d2net.training.checkpoint import FILE, read_checkpoint, usable

SEED = "train.seed"
MOST_POINTS = 1000  # of a curve


@dataclass(frozen=True)
class RunRecord:
    """settings: {section.field: value}; curves: {term: [(iteration, value), ...]}, not finite values as None."""

    name: str
    settings: dict[str, Any]
    curves: dict[str, list[tuple[int, float | None]]]


def read_run(path: Path) -> RunRecord:
    """Reads config.yaml and log.jsonl of a run's folder; a last line that was cut short is left out.

    Raises:
        DataError: no folder, or a line of the log that is none. ConfigError: config.yaml is missing or damaged.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a run's folder; give what d2net train was given as --out")
    return RunRecord(str(path), fields_of(load_config(path / "config.yaml")), _curves(path / "log.jsonl"))


class Sources(NamedTuple):
    """What a run was trained on; lengths: snippets of each training video."""

    features: Path
    annotations: Path
    crops: str
    lengths: dict[str, int]

    def check(self, store: FeatureStore) -> None:
        """Raises DataError where the features have changed since."""
        for name, length in self.lengths.items():
            if name not in store or store.lengths[name] != length:
                there = f"has {store.lengths[name]} snippets" if name in store else "is not there"
                raise DataError(
                    f"{store.source}: {name!r} {there}, but the run was trained on {length}; give --features and "
                    "--annotations"
                )


def trained_on(path: Path) -> Sources | None:
    """What the run's checkpoint says of its data; None of earlier revisions, and where a file is gone."""
    if not (path / FILE).exists():
        return None
    saved = read_checkpoint(path, "cpu")
    if (of := saved.get("sources")) is None:
        return None
    with usable(path):
        lengths = dict(saved["features"]["lengths"])
    found = Sources(Path(of["features"]), Path(of["annotations"]), of["crops"], lengths)
    return found if found.features.exists() and found.annotations.exists() else None


def _curves(path: Path) -> dict[str, list[tuple[int, float | None]]]:
    lines = read_text(path, "a log").split("\n") if path.exists() else []
    curves: dict[str, list[tuple[int, float | None]]] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            step = entry["iteration"]
            if type(step) is not int:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}: line {number} is not an entry of a log: {line[:80]!r}") from error
        for term, value in entry.items():
            if term != "iteration" and type(value) in (int, float):
                number_ = float(value)
                curves.setdefault(term, []).append((step, number_ if math.isfinite(number_) else None))
    return curves


def thinned(curve: Sequence[tuple[int, float | None]], total: bool = False) -> list[tuple[int, float | None]]:
    """At most MOST_POINTS points: means of neighbours, or their sums; one that is not finite makes its mean None."""
    size = -(-len(curve) // MOST_POINTS)
    if size <= 1:
        return list(curve)
    out: list[tuple[int, float | None]] = []
    for first in range(0, len(curve), size):
        part = curve[first : first + size]
        values = [v for _, v in part if v is not None]
        whole = len(values) == len(part)
        out.append((part[-1][0], sum(values) / (1 if total else len(part)) if whole else None))
    return out


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """{field: its value in each run} of the fields that differ."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(v != row[0] for v in row)}


def groups(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Indices of runs that differ in the seed alone, in the order of the first of each."""
    found: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        rest = {k: v for k, v in run.settings.items() if k != SEED}
        found.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(i)
    return list(found.values())
