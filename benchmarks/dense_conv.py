"""temporal_conv on batches of equal lengths against every route that torch has, one ratio a shape.

python benchmarks/dense_conv.py [--budget SECONDS] [--threads N]

Each line: CPU time of the fastest torch route over ours, forward and with both gradients, the sides in turn in one
process, in another order each round, since each finds the caches as the one before has left them; 0.95 and more is
wanted. Every route has its input and its output gradient in its own layout.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peers import conv
from torch import Tensor

import d2kernels as d2k

WANTED = 0.95
# Sequences, snippets, channels in and out, groups; kernel 3.
SHAPES = [
    *[(8, 320, 32, 32, 1), (4, 750, 64, 64, 1), (4, 750, 128, 128, 1), (8, 320, 256, 256, 1), (8, 320, 512, 512, 1)],
    *[(4, 320, 1024, 1024, 1), (4, 750, 2048, 1024, 1), (4, 320, 2048, 2048, 1)],
    *[(20, 130, 64, 64, 2), (20, 300, 72, 72, 2), (20, 130, 128, 128, 2), (8, 320, 512, 512, 2)],
    *[(4, 750, 2048, 2048, 2), (8, 320, 128, 128, 4), (8, 320, 1024, 1024, 4)],
]
Run = Callable[[], Any]


def taps(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A product of side-by-side taps; x: (n, s, c)."""
    n, s, _ = x.shape
    padded = F.pad(x, (0, 0, 1, 1))
    parts = [padded[:, j : j + s].unflatten(2, (groups, -1)) for j in range(3)]
    columns = torch.stack(parts, 3).flatten(3).flatten(0, 1).transpose(0, 1)
    matrix = weight.unflatten(0, (groups, -1)).permute(0, 3, 2, 1).flatten(1, 2)
    return torch.bmm(columns, matrix).transpose(0, 1).reshape(n, s, -1) + bias


def sides(shape: tuple[int, ...], backward: bool) -> dict[str, Run]:
    """Ours and torch's routes; every input needs a gradient where there is a backward."""
    n, s, c_in, c_out, groups = shape
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(n, s, c, generator=generator) for c in (c_in, c_out))
    weight = torch.randn(c_out, c_in // groups, 3, generator=generator) * (3 * c_in // groups) ** -0.5
    bias, lengths = torch.randn(c_out, generator=generator), torch.full((n,), s)

    def run(call: Callable[..., Tensor], turned: bool) -> Run:
        given, seed = (t.mT.contiguous() if turned else t for t in (x, grad))
        leaves = [t.detach().requires_grad_(backward) for t in (given, weight, bias)]

        def once() -> tuple[Tensor, ...]:
            if backward:
                return torch.autograd.grad(call(*leaves), leaves, seed)
            with torch.no_grad():
                return (call(*leaves),)

        return once

    return {
        "ours": run(lambda x, w, b: d2k.temporal_conv(x, w, b, groups=groups, lengths=lengths), False),
        "F.conv1d": run(lambda x, w, b: conv.plain(x, w, b, groups), True),
        "channels-last": run(lambda x, w, b: conv.plain_channels_last(x, w, b, groups), False),
        "taps": run(lambda x, w, b: taps(x, w, b, groups), False),
    }


def least(runs: dict[str, Run], budget: float) -> dict[str, float]:
    """Seconds of CPU time of each side's fastest call, in turn."""
    seconds, order = dict.fromkeys(runs, float("inf")), random.Random(0)
    for run in runs.values():
        run()
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < budget:
        for name in order.sample(list(runs), len(runs)):
            before = time.process_time()
            runs[name]()
            seconds[name] = min(seconds[name], time.process_time() - before)
        rounds += 1
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds a shape and direction")
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    short = 0
    for shape in SHAPES:
        n, s, c_in, c_out, groups = shape
        line = f"{n:2} × {s}, {c_in:4} → {c_out:4}, groups {groups}:"
        for direction in ("forward", "forward + backward"):
            seconds = least(sides(shape, direction != "forward"), settings.budget)
            ours = seconds.pop("ours")
            best = min(seconds, key=lambda name: seconds[name])
            ratio = seconds[best] / ours
            short += ratio < WANTED
            line += f"  {direction} {ratio:.2f} ({1e3 * ours:.2f} ms; {best} {1e3 * seconds[best]:.2f})"
        print(line, flush=True)
    print(f"{short} of {2 * len(SHAPES)} are under {WANTED}")


if __name__ == "__main__":
    main()
