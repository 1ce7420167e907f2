"""What benchmarks/report.md holds of an op: its table, and a picture of the peers' times over ours."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

from docsite.nav import ROOT

REPORT = ROOT / "benchmarks/report.md"
PEER = re.compile(r"(.+?): ([\d.e+]+)×")


class Measured(NamedTuple):
    """An op's rows of the report: the table as it stands, and (label, peer's time over ours) of every peer timed."""

    table: str
    ratios: list[tuple[str, float]]


def machine() -> str:
    """The report's line of what it was measured on."""
    return next(line for line in REPORT.read_text(encoding="utf-8").splitlines() if line.startswith("Written by"))


def measured(op: str) -> Measured | None:
    """None where the report has no row of the op."""
    match = re.search(rf"^### {op}\n\n(.*?)\n\n", REPORT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if match is None:
        return None
    ratios = []
    for line in match[1].splitlines()[2:]:
        work, direction, dtype, *_, peers = (c.strip() for c in line.strip("|").split("|"))
        for peer in peers.split("<br>"):
            if found := PEER.match(peer):
                ratios.append((f"{work}, {direction}, {dtype} | {found[1]}", float(found[2])))
    return Measured(match[1], ratios)


def draw(op: str, ratios: list[tuple[str, float]], path: Path) -> None:
    """Writes the bars of one op as SVG."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import plots

    labels, values = zip(*ratios, strict=True)
    figure = plots.bars(list(labels), list(values), f"{op}: peer's time over ours", 1.0, True)
    plots.save(figure, path)
