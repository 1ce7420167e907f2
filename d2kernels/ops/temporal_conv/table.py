"""Whose products take a float32 layer on the CPU: ours, or the library's convolution; measured, then committed.

`python benchmarks/conv_table.py --write` measures and writes the figures below; `make bench` says when they are out of
date. Nothing is timed at run time.
"""

from __future__ import annotations

import math
from functools import lru_cache

# (kernel, channels in, channels out) per group: the library's time for forward and both gradients, ours being 1.
MEASURED = {
    (1, 64, 12): 3.58,
    (1, 256, 256): 1.89,
    (1, 1024, 20): 1.57,
    (3, 8, 8): 4.95,
    (3, 32, 32): 3.6,
    (3, 36, 36): 2.47,
    (3, 64, 64): 2.85,
    (3, 128, 128): 2.15,
    (3, 256, 256): 1.72,
    (3, 512, 512): 1.8,
    (3, 1024, 1024): 2.1,
    (3, 2048, 2048): 2.16,
    (3, 2048, 1024): 2.34,
    (5, 64, 64): 2.63,
    (5, 1024, 1024): 2.28,
}


@lru_cache(maxsize=256)
def ours(kernel: int, c_in: int, c_out: int) -> bool:
    """Whether our products are the faster ones, as for the most similar shape that was measured."""

    def distance(other: tuple[int, int, int]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip((kernel, c_in, c_out), other, strict=True))

    return MEASURED[min(MEASURED, key=distance)] >= 1
