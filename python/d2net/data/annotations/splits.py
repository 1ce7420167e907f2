"""BaS-Net's, CoLA's and ASM-Loc's folder: gt.json, split_train.txt, split_test.txt, fps_dict.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2net.data.files import DataError, read_json, read_text

TRUTH = "gt.json"


def is_split_folder(path: Path) -> bool:
    return (path / TRUTH).exists()


def split_tree(path: Path) -> dict[str, Any]:
    """gt.json with the subsets of `split_<subset>.txt`, a video a line; a video in none of them has no subset.

    Raises:
        DataError: a split names a video that gt.json lacks, or two splits name it.
    """
    tree = read_json(path / TRUTH)
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        return tree  # who reads the tree says what is missing
    splits = sorted(path.glob("split_*.txt"))
    subsets: dict[str, str] = {}
    for file in splits:
        subset = file.stem.removeprefix("split_")
        names = [name for line in read_text(file, "a list of videos").split("\n") if (name := line.strip())]
        if not names:
            raise DataError(f"{file}: no video in it; fill or remove it")
        for name in names:
            if name not in database:
                raise DataError(f"{file}: {path / TRUTH} has no video {name!r}; remove one of them")
            if subsets.setdefault(name, subset) != subset:
                raise DataError(f"{file}: video {name!r} is in split_{subsets[name]}.txt too; keep one")
    rates = read_json(path / "fps_dict.json") if (path / "fps_dict.json").exists() else {}
    if not isinstance(rates, dict):
        raise DataError(f"{path / 'fps_dict.json'}: expected an object of fps by video")
    for name, entry in database.items():
        if isinstance(entry, dict):
            if splits:
                entry["subset"] = subsets.get(name)
            if name in rates:
                entry.setdefault("fps", rates[name])
    return tree
