"""From a benchmark run's JSON: a short table on the screen, and report.md with plots beside it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import rows as of
import verified
from roofline import share
from rows import Row

HERE = Path(__file__).resolve().parent
OVERHEAD = "overhead"


def limit(row: Row, machine: dict[str, Any]) -> str:
    part = share(row, machine.get("ceilings", {}))
    return "–" if part is None else f"{part:.0%}"


def short(rows: list[Row], machine: dict[str, Any]) -> str:
    """One line a contest: its time, its share of the limit, and the peers' times over ours."""
    lines = []
    for row in rows:
        if row["axis"]:
            continue
        peers = "; ".join(f"{p['name']} {of.ratio(p)}" for p in row["peers"] if p["status"] != "skipped")
        lines.append(f"{of.name(row):62} {row['backend']:10} {of.times(row):>9} {limit(row, machine):>5}  {peers}")
    return "\n".join(lines)


def table(rows: list[Row], machine: dict[str, Any]) -> list[str]:
    lines = [
        "| work | direction | dtype | backend | time | of the limit | peak memory | peers' time over ours |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        peers = "<br>".join(f"{p['name']}: {of.ratio(p)}" for p in row["peers"] if p["status"] != "skipped")
        cells = [
            *(row["work"], row["direction"], row["dtype"], row["backend"], of.times(row)),
            *(limit(row, machine), of.size(row.get("peak_memory")), peers),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_op(rows: list[Row], machine: dict[str, Any], level: str = "###") -> list[str]:
    lines: list[str] = []
    plain = [row for row in rows if not row["axis"] and row["work"] != OVERHEAD]
    for op in dict.fromkeys(row["op"] for row in plain):
        mine = [row for row in plain if row["op"] == op]
        lines += [f"{level} {op}", "", *table(mine, machine), ""]
    return lines + overhead([row for row in rows if row["work"] == OVERHEAD], level)


def overhead(rows: list[Row], level: str) -> list[str]:
    """Times of one call on a few numbers, beside each yardstick's."""
    if not rows:
        return []
    names = [p["name"] for p in rows[0]["peers"]]
    lines = [
        f"{level} Host overhead of one call on four rows",
        "",
        f"| op | direction | backend | time | {' | '.join(names)} |",
        f"| --- | --- | --- | ---: | {' | '.join('---:' for _ in names)} |",
    ]
    for row in rows:
        times = [of.times(p) for p in (row, *row["peers"])]
        lines.append(f"| {' | '.join([row['op'], row['direction'], row['backend'], *times])} |")
    return [*lines, ""]


def reasons(rows: list[Row]) -> list[str]:
    """Who did not take part, once each."""
    found = {
        (p["name"], f"{row['op']}, {row['direction']}: " if p["status"] != "skipped" else "", p["reason"])
        for row in rows
        for p in row["peers"]
        if p["status"] in ("skipped", "failed", "wrong")
    }
    return [f"- {name}: {where}{why}" for name, where, why in sorted(found)] or ["- everyone took part"]


def machine_lines(machine: dict[str, Any]) -> list[str]:
    ceilings = machine.get("ceilings", {})
    products = ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in ceilings.items() if k != "copy")
    run = "every shape" if machine.get("full") else "the quick selection"
    lines = [f"{machine.get('device')}, {machine.get('threads')} threads, torch {machine.get('torch')}; {run}."]
    if ceilings:
        lines.append(f"Ceilings measured in the run: copy {ceilings['copy'] / 1e9:.0f} GB/s, products {products}.")
    return lines


def markdown(rows: list[Row], machine: dict[str, Any], plots: list[tuple[str, str]], gpu: list[str]) -> str:
    command = "make bench-full" if machine.get("full") else "make bench"
    standings = [f"- {name}: {standing.says(name)}" for name, standing in verified.standings().items()]
    return "\n".join(
        [
            "# How fast",
            "",
            f"Written by `{command}`. " + " ".join(machine_lines(machine)),
            "",
            "A ratio is the peer's time over ours, the median of rounds in which both are timed in turn, with its "
            "quartiles; above 1 we are faster. Every side's output was first compared with a float64 oracle in the "
            "same run: `wrong` stands where one differed by more than twice the reference's own rounding error. The "
            "limit is the time that the ceilings allow for the least bytes and products (`minimal.py`).",
            "",
            *by_op(rows, machine),
            "## Plots",
            "",
            *(f"![{title}]({path})" for title, path in plots),
            "",
            "## Who did not take part",
            "",
            *reasons(rows),
            "",
            "## On a GPU",
            "",
            *gpu,
            "What has run each GPU kernel as it is now: a GPU, the emulator on the machine code's PTX, or neither:",
            "",
            *standings,
            "",
        ]
    )


def gpu_section(results: Path = verified.RESULTS) -> list[str]:
    """The newest committed run of each GPU."""
    newest = {}
    for path in sorted(results.glob("*.json"), key=lambda p: (json.loads(p.read_text()).get("date", ""), p.name)):
        newest[json.loads(path.read_text()).get("device")] = path
    if not newest:
        return ["No GPU run has been committed yet; `scripts/gpu_check.sh OUT` makes one.", ""]
    lines = []
    for device, path in newest.items():
        machine, rows = of.read(path)
        said = " ".join(machine_lines(machine)) if machine else "no benchmark was run."
        lines += [f"### {device}", "", f"`results/{path.name}`: {said}", "", *by_op(rows, machine, "####")]
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of report.md and plots/ (default benchmarks/)")
    parser.add_argument("--print", action="store_true", help="print alone, as of a selection; the report stays")
    given = parser.parse_args(arguments)
    machine, rows = of.read(given.json)
    print(short(rows, machine))
    if given.print:
        return
    import plots

    drawn = plots.draw(rows, machine, given.out / "plots")
    text = markdown(rows, machine, [(title, f"plots/{path.name}") for title, path in drawn], gpu_section())
    (given.out / "report.md").write_text(text)
    print(f"written: {given.out / 'report.md'}")


if __name__ == "__main__":
    main()
