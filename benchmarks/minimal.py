"""The least that each op must move and multiply: every input read once, every output written once.

Each function returns (bytes, FLOPs); `backward` adds the gradients' traffic and products.
"""

from __future__ import annotations

from workloads import Workload


def temporal_conv(w: Workload, size: int, backward: bool) -> tuple[float, float]:
    """x in, y out, weights once; backward reads x and the gradient, writes dgrad, and multiplies twice more."""
    rows, weights = w.total * w.width * size, w.width * w.embedding * w.kernel * size
    products = 2.0 * w.total * w.width * w.embedding * w.kernel
    return (2 * rows + weights) + backward * (3 * rows + 2 * weights), products * (3 if backward else 1)


def layer(rows: int, c_in: int, c_out: int, taps: int, groups: int, size: int, backward: bool) -> tuple[float, float]:
    """The same of one convolution with other channels out than in."""
    weights = c_in * c_out * taps / groups
    products, moved = 2.0 * rows * weights, rows * (c_in + c_out) * size
    return moved * (3 if backward else 1) + weights * size * (3 if backward else 1), products * (3 if backward else 1)


def topk_pool(total: int, classes: int, n: int, size: int, backward: bool) -> tuple[float, float]:
    """Scores once; backward reads them again and writes their gradient."""
    return total * classes * size * (3.0 if backward else 1.0) + n * classes * size, 0.0


def attention_pool(w: Workload, size: int, backward: bool) -> tuple[float, float]:
    """Embeddings once for both sides; backward reads them again and writes their gradient."""
    rows = w.total * w.embedding * size
    return rows * (3.0 if backward else 1.0), 4.0 * w.total * w.embedding * (3 if backward else 1)


def foreground_score(w: Workload, size: int, backward: bool) -> tuple[float, float]:
    return w.total * w.embedding * size * (3.0 if backward else 1.0), 4.0 * w.total * w.embedding


def elements(count: int, size: int, backward: bool = False) -> tuple[float, float]:
    """Inputs of so many elements read once, and their gradients written once."""
    return float(count * size * (2 if backward else 1)), 0.0
