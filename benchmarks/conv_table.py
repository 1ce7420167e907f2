"""The table by which temporal_conv chooses products on the CPU: measures it, and says what is out of date.

python benchmarks/conv_table.py [--write]
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from d2kernels.ops.temporal_conv import native, products, table

GROUPS, SLOPE = 2, 0.2
TOLERATED = 1.1  # of the choice's time to the other's, before the table is called out of date
SHAPES = [
    *[(1, 64, 12), (1, 256, 256), (1, 1024, 20)],
    *[(3, c, c) for c in (8, 32, 36, 64, 128, 256, 512, 1024, 2048)],
    *[(3, 2048, 1024), (5, 64, 64), (5, 1024, 1024)],
]


def layer(kernel: int, c_in: int, c_out: int) -> Callable[[], Any]:
    """One layer on ragged rows, both gradients included."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([100, 20, 400, 180] * (3 if c_in * c_out < 512**2 else 1))
    total, offsets = int(lengths.sum()), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    x = torch.randn(total, GROUPS * c_in, generator=generator)
    grad = torch.randn(total, GROUPS * c_out, generator=generator)
    weight = torch.randn(GROUPS * c_out, c_in, kernel, generator=generator) * (c_in * kernel) ** -0.5
    bias = torch.randn(GROUPS * c_out, generator=generator)
    options = (offsets, lengths, 1, GROUPS, SLOPE, False, 0.0, None)

    def run() -> None:
        _, sign = native.temporal_conv_forward(x, weight, bias, *options)
        native.temporal_conv_backward(grad, x, weight, offsets, lengths, sign, *options[2:], True, True, True)

    return run


def ratio(run: Callable[[], Any], budget: float) -> float:
    """Median of the library's time to ours, in alternation."""
    serve, ratios = products.serve, []
    try:
        start = time.perf_counter()
        while len(ratios) < 6 or time.perf_counter() - start < budget:
            seconds = []
            for way in (True, False):
                products.serve = lambda *_, way=way: way
                before = time.process_time()
                run()
                seconds.append(time.process_time() - before)
            ratios.append(seconds[1] / seconds[0])
    finally:
        products.serve = serve
    return statistics.median(ratios[1:])


def measured(budget: float) -> dict[tuple[int, int, int], float]:
    return {shape: round(ratio(layer(*shape), budget), 2) for shape in SHAPES}


def stale(found: dict[tuple[int, int, int], float]) -> list[str]:
    """What the table chooses although the other way takes less than 1 / TOLERATED of its time."""
    out = []
    for (kernel, c_in, c_out), library in found.items():
        chosen = table.ours(kernel, c_in, c_out)
        loss = 1 / library if chosen else library
        if loss > TOLERATED:
            way, other = ("our products", "the library's") if chosen else ("the library's", "our products")
            what = f"kernel {kernel}, {c_in} → {c_out}"
            out.append(f"{what}: the table takes {way}, {other} take 1/{loss:.2f} of their time")
    return out


def write(found: dict[tuple[int, int, int], float]) -> None:
    path = Path(table.__file__)
    lines = "".join(f"    {shape}: {library},\n" for shape, library in found.items())
    path.write_text(re.sub(r"MEASURED = \{\n.*?\n\}", f"MEASURED = {{\n{lines}}}", path.read_text(), flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write what is measured into the table")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a shape")
    settings = parser.parse_args()
    if not products.available():
        print("conv_table: this machine has no products of our own; nothing to choose")
        return
    found = measured(settings.budget)
    print("\n".join(f"kernel {k}, {i} → {o}: {library:.2f}" for (k, i, o), library in found.items()))
    if settings.write:
        write(found)
    else:
        print("\n".join(f"out of date: {line}" for line in stale(found)) or "temporal_conv's table is up to date")


if __name__ == "__main__":
    main()
