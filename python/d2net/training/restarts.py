"""Several trainings of one configuration, of which one is chosen, or whose activations are averaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.files import DataError, read_json, reading, shown, write_atomically, write_text
from d2net.terminal import Bar
from d2net.training.checkpoint import FILE, CheckpointError
from d2net.training.criteria import CRITERIA, of_runs
from d2net.training.folder import OURS, RESTARTS, check_folder

MOST_VIDEOS = 200  # that a run is judged by


@dataclass(frozen=True)
class Restarts:
    """What restarts.json holds.

    Args:
        seeds: of the runs, in folders seed-N; chosen: one of them; average: whether all of them are used.
        criterion: what chose it; values: {criterion: a value for each run}.
    """

    seeds: list[int]
    chosen: int
    average: bool
    criterion: str
    values: dict[str, list[float]]

    def folders(self, out: Path) -> list[Path]:
        """Of the runs to use, the chosen one first."""
        rest = [s for s in self.seeds if s != self.chosen] if self.average else []
        return [folder_of(out, s) for s in (self.chosen, *rest)]

    def said(self) -> str:
        """A few lines to print."""
        lines = [f"{'seed':>6}" + "".join(f"{name:>17}" for name in self.values)]
        for row, seed in enumerate(self.seeds):
            mark = " <" if seed == self.chosen else ""
            lines.append(f"{seed:>6}" + "".join(f"{v[row]:>17.4f}" for v in self.values.values()) + mark)
        way = "their activations are averaged" if self.average else f"seed {self.chosen} is used"
        return "\n".join([*lines, f"{way}; no segments were looked at ({self.criterion} by video-level labels)"])


def folder_of(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def read_restarts(path: Path) -> Restarts | None:
    """What a run's folder says of restarts, None where it holds a single run.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_dir() or not (path / RESTARTS).exists():
        return None
    with reading(path / RESTARTS, "a record of restarts"):
        tree: Any = read_json(path / RESTARTS)
        found = Restarts(**tree)
        whole = all(type(s) is int and 0 <= s < 2**63 for s in (*found.seeds, found.chosen))
        if not whole or found.chosen not in found.seeds or type(found.average) is not bool:
            raise DataError(
                f"{path / RESTARTS}: seeds must be whole numbers, of which one is chosen, got {shown(tree)}"
            )
        return found


def choose(
    activations: Sequence[Mapping[str, np.ndarray]], labels: np.ndarray, seeds: Sequence[int], divisor: int,
    criterion: str, average: bool,
) -> Restarts:  # fmt: skip
    """The run that is best by a criterion of `CRITERIA`, of equal ones the first; arguments as `of_runs`."""
    rows = of_runs(activations, labels, divisor)
    values = {name: [row[name] for row in rows] for name in CRITERIA}
    sign = 1 if CRITERIA[criterion] else -1
    best = int(np.argmax(sign * np.asarray(values[criterion])))
    return Restarts(list(seeds), seeds[best], average, criterion, values)


def keep(out: Path, found: Restarts) -> None:
    """Leaves the chosen run's files in `out`, as a single training does, and restarts.json last."""
    chosen = folder_of(out, found.chosen)
    for name in set(OURS) - {RESTARTS}:
        if (chosen / name).exists():
            data = (chosen / name).read_bytes()
            write_atomically(out / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
        else:
            (out / name).unlink(missing_ok=True)
    write_text(out / RESTARTS, json.dumps(asdict(found), indent=1))


def check_arguments(restarts: int, average: bool, criterion: str, jobs: int | None) -> None:
    """Raises ValueError: restarts or jobs below 1, an average of one, or an unknown or useless criterion."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    if average and restarts == 1:
        raise ValueError("average is of several restarts; give restarts of 2 or more")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if restarts == 2 and criterion == "agreement" and not average:
        raise ValueError("criterion: two runs agree alike; give restarts of 3 or more, average, or criterion entropy")


def check_begun(out: Path, seeds: Sequence[int], resume: bool, overwrite: bool) -> None:
    """Makes `out`; as `check_folder` for it and each seed's folder, of which one must have been begun to `resume`.

    Raises:
        RunExists: a run is there and neither was given. CheckpointError: nothing to resume.
    """
    if resume:
        if not any((folder_of(out, s) / FILE).exists() for s in seeds):
            raise CheckpointError(
                f"nothing to resume: {out} has no checkpoint of restarts with seeds {seeds[0]} to {seeds[-1]}; pass "
                "--overwrite to start them"
            )
        return
    for folder in (out, *(folder_of(out, s) for s in seeds)):
        check_folder(folder, False, overwrite)


def train_all(
    train: Callable[[int, Path, bool, bool], Any],
    out: Path,
    seeds: Sequence[int],
    resume: bool,
    progress: bool = False,
) -> None:
    """train(seed, folder, resume, overwrite) for each seed, in turn; with `resume`, those that were begun go on."""
    for seed in Bar("restarts", len(seeds), unit="run", show=progress).over(seeds):
        train(seed, folder_of(out, seed), *begun(out, seed, resume))


def begun(out: Path, seed: int, resume: bool) -> tuple[bool, bool]:
    """Whether the seed's run is gone on with, and whether it is replaced."""
    again = resume and (folder_of(out, seed) / FILE).exists()
    return again, not again
