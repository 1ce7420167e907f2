"""log of the condition number and pDMI through torch.linalg, and singular values through CuPy."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def cupy_missing() -> str | None:
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"CuPy sees no GPU: {error}"
    return None


def log_condition(a: Tensor, rtol: float) -> Tensor:
    """(batch,) log of the largest over the smallest singular value above rtol of the largest, by torch.linalg."""
    s = torch.linalg.svdvals(a)
    counted = s > rtol * s[:, :1]
    return (s[:, 0] / torch.where(counted, s, float("inf")).amin(1)).log()


def pdmi_snippet_loop(attention: list[Tensor], foreground: list[Tensor]) -> Tensor:
    """(n,) log η of each sequence's 2 x 2 joint: a loop over sequences, torch.linalg.svdvals on each."""
    out = []
    for a, f in zip(attention, foreground, strict=True):
        front, back = f > 0.5, f < 0.5
        if not front.any() or not back.any():
            out.append(a.new_zeros(()))
            continue
        z = front.sum() + back.sum()
        rows = [torch.stack([a[side].sum(), (1 - a[side]).sum()]) / z for side in (front, back)]
        s = torch.linalg.svdvals(torch.stack(rows))
        out.append((s[0] / s[1]).log())
    return torch.stack(out)


def cupy_log_condition(a: Tensor, rtol: float) -> Tensor:
    """As log_condition."""
    import cupy

    s = torch.from_dlpack(cupy.linalg.svd(cupy.from_dlpack(a.detach()), compute_uv=False))
    counted = s > rtol * s[:, :1]
    return (s[:, 0] / torch.where(counted, s, float("inf")).amin(1)).log()
