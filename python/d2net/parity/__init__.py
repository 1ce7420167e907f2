"""Checks an installation against stored outputs of the authors' code, laid out as golden/README.md says."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from d2net.data.files import DataError, read_text
from d2net.parity.checks import Check, Golden
from d2net.parity.forward import check_forward
from d2net.parity.localize import check_localize
from d2net.parity.losses import check_losses

__all__ = ["Check", "check_file", "golden_files", "main", "run_parity"]

KINDS = ("forward", "losses", "localize")


def golden_files(folder: str | os.PathLike) -> list[Path]:
    """The golden files of a folder, by kind and name.

    Raises:
        DataError: no such folder, an .npz that is none of the three kinds, or a file missing that the README.md
            beside them names.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    found = sorted(folder.glob("*.npz"))
    for path in found:
        if not path.name.startswith(tuple(f"{kind}_" for kind in KINDS)):
            raise DataError(f"{path} is not a golden file; their names start with forward_, losses_ or localize_")
    present = {path.name for path in found}
    for name in _named(folder / "README.md"):
        if name not in present:
            raise DataError(f"{folder / name} is missing, but the README.md there names it")
    if not found:
        raise DataError(f"{folder} holds no golden files (forward_*.npz, losses_*.npz, localize_*.npz)")
    return sorted(found, key=lambda path: (KINDS.index(path.name.partition("_")[0]), path.name))


def _named(readme: Path) -> Iterator[str]:
    """Files that the README names, outright or as a row of its table of loss cases."""
    if not readme.exists():
        return
    text = read_text(readme)
    yield from dict.fromkeys(re.findall(r"\b(?:forward|losses|localize)_\w+\.npz", text))
    _, _, table = text.partition("| case |")
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            break
        yield f"losses_{line.split('|')[1].strip()}.npz"


def check_file(path: str | os.PathLike, *, data: str | os.PathLike, device: str = "cpu") -> list[Check]:
    """Every quantity of one golden file; data: the folder with the data sets' annotations."""
    path = Path(path)
    golden, name, where = Golden(path), path.stem, torch.device(device)
    try:
        if name.startswith("forward_"):
            return check_forward(name, golden, where)
        if name.startswith("losses_"):
            return check_losses(name, golden, where)
        return check_localize(name, golden, where, Path(data))
    except DataError:
        raise
    except Exception as error:
        # What breaks on one case must not hide the others.
        return [Check(name, "run", float("inf"), 0.0, "fail", f"{type(error).__name__}: {error}")]


def run_parity(
    folder: str | os.PathLike, *, data: str | os.PathLike | None = None, device: str = "cpu"
) -> list[Check]:
    """Every quantity of every golden file of a folder.

    Args:
        folder: holds forward_*.npz, losses_*.npz and localize_*.npz.
        data: holds the data sets' annotations; folder/../data by default. Checks that need what is not there are
            skipped.

    Raises:
        DataError: a file is missing, truncated or of another kind; names it.
    """
    folder_data = _data(folder, data)
    return [check for path in golden_files(folder) for check in check_file(path, data=folder_data, device=device)]


def _data(folder: str | os.PathLike, data: str | os.PathLike | None) -> Path:
    return Path(data) if data is not None else Path(folder).resolve().parent / "data"


def _line(check: Check) -> str:
    numbers = " " * 20 if check.status == "skipped" else f"{check.error:10.1e}{check.tolerance:10.0e}"
    return f"  {check.quantity:40}{numbers}  {check.status}{f' ({check.note})' if check.note else ''}"


def main(folder: str | os.PathLike, *, data: str | os.PathLike | None = None, device: str = "cpu") -> int:
    """Prints the checks as they are made and a summary; returns 1 where one fails, else 0."""
    checks: list[Check] = []
    for path in golden_files(folder):
        print(f"{path.stem}\n  {'quantity':40}{'error':>10}{'tolerance':>10}")
        made = check_file(path, data=_data(folder, data), device=device)
        print("\n".join(map(_line, made)), flush=True)
        checks += made
    failed = [check for check in checks if check.status == "fail"]
    for check in failed:
        print(f"failed: {check.case}: {_line(check).strip()}")
    count = Counter(check.status for check in checks)
    print(", ".join(f"{count[s]} {s}" for s in ("pass", "fail", "not wanted", "skipped") if count[s] or s == "fail"))
    return 1 if failed else 0
