"""What temporal_conv's compiled kernels should take on a GPU that is not at hand, as a table for benchmarks/notes.

python scripts/predict.py [--arch 90]

A model, not a measurement: of each program, the slowest of its products, its instructions and its reads from the L2,
then its instructions outside of the loop; the programs of the multiprocessor that has most, one after another.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any, NamedTuple

import aot

SMS, CLOCK = 132, 1.755e9  # an H200's multiprocessors and cycles a second
PRODUCTS = {2: 790e12, 4: 395e12}  # FLOP/s by bytes an element, measured on random data; tf32 is half of bf16
COPY, L2 = 4.3e12, 64  # bytes/s of device memory; bytes a cycle and multiprocessor
LAUNCH = 2e-6  # of a kernel in a graph
SHARED, REGISTERS = 227 << 10, 1 << 16  # of a multiprocessor
BATCHES = {"Full": 7511, "THUMOS": 3289, "ActivityNet": 2044}  # rows, those of gaps counted


class Row(NamedTuple):
    what: str
    form: str
    batch: str


ROWS = [
    *[Row(f"{w}, {b}, bf16", f"{p}{w} conv bf16", b) for b in ("Full", "THUMOS") for w, p in (
        ("forward", "plain "), ("dgrad", "plain "), ("wgrad", "plain "))],
    *[Row(f"{w}, Full, bf16, no gap rows", f"{w} conv bf16", "Full") for w in ("forward", "dgrad", "wgrad")],
    *[Row(f"{w}, Full, tf32", f"plain {w} conv fp32 tf32", "Full") for w in ("forward", "dgrad", "wgrad")],
    *[Row(f"{w}, ActivityNet, bf16", f"plain {w} ActivityNet bf16", "ActivityNet") for w in (
        "forward", "dgrad", "wgrad")],
    Row("forward, classifier of 20, Full, bf16", "plain forward classifier 20 bf16", "Full"),
    Row("dgrad, classifier of 20, Full, bf16", "dgrad classifier 20 bf16", "Full"),
    Row("wgrad, classifier of 20, Full, bf16", "plain wgrad classifier 20 bf16", "Full"),
]  # fmt: skip


def programs(c: dict[str, Any], total: int) -> tuple[int, int]:
    """Programs' worth of tiles, and steps of each one's loop."""
    taps, groups, m, n, k = c["TAPS"], c["GROUPS"], c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"]
    if "BACKWARD" in c:
        tiles = math.ceil(total / m) * math.ceil(c["C_OUT"] / n) * groups
        return tiles, taps * math.ceil(c["C_IN"] / k)
    from d2kernels.ops.temporal_conv.triton_weight_gradient import split

    together = c.get("TOGETHER", 1)
    tiles = math.ceil(c["C_OUT"] / m) * math.ceil(c["C_IN"] / n) * groups * taps // together
    rows, parts = split(total, tiles, k)
    return tiles * parts, rows // k


def seconds(built: aot.Built, total: int) -> tuple[float, float]:
    """The floor by products or bytes, and the model's time."""
    c, warps = built.form.constants, built.form.options["num_warps"]
    size = 4 if "fp32" in built.name else 2
    tiles, steps = programs(c, total)
    m, n, k, together = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"], c.get("TOGETHER", 1)
    products = 2 * m * n * k * together / (PRODUCTS[size] / SMS)
    # A loop that is most of the program holds its few steps one after another.
    issue = built.loop * warps / 4 / CLOCK / (steps if 2 * built.loop > built.instructions else 1)
    reads = (m + together * n) * k * size / L2 / CLOCK
    end = (built.instructions - built.loop) * warps / 4 / CLOCK
    resident = max(1, min(SHARED // (built.shared + 1024), REGISTERS // (built.registers * 32 * warps), 8))
    each = math.ceil(tiles / SMS)
    # Programs beside each other hide one another's ends; one alone hides nothing.
    time = each * (steps * max(products, issue, reads) + (end if resident == 1 else end / resident))
    width = c["GROUPS"] * (c["C_IN"] + c["C_OUT"])
    moved = total * width * size + c["GROUPS"] * c["C_IN"] * c["C_OUT"] * c["TAPS"] * size
    flops = 2 * total * c["GROUPS"] * c["C_IN"] * c["C_OUT"] * c["TAPS"]
    floor = max(flops / PRODUCTS[size], moved / COPY)
    return floor, max(time, moved / COPY) + LAUNCH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(",")[0])
    parser.add_argument("--arch", type=int, default=90, choices=(90,))
    arch = parser.parse_args().arch
    sys.path.insert(0, str(aot.ROOT))
    print("| product | instructions (loop) | registers | shared, KiB | floor, µs | predicted, µs | measured |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    wrong = 0
    for row in ROWS:
        built = next(aot.build("temporal_conv", arch, None, f"^{row.form}$"))
        wrong += bool(built.wrong)
        floor, time = (1e6 * s for s in seconds(built, BATCHES[row.batch]))
        sizes = f"{built.instructions} ({built.loop}) | {built.registers} | {built.shared / 1024:.0f}"
        print(f"| {row.what} | {sizes} | {floor:.0f} | {time:.0f} | |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
