"""foreground_score by Triton: one read forward; back one more, and one for the reference's gradient."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops._triton import POINTER, SAME_BITS, Specialization, bound, cdiv, on_device, power, steps
from d2kernels.ops.foreground_score import reference as plain
from d2kernels.ops.foreground_score.triton_kernels import differentiate, score, weighted_parts

_ROWS, _BLOCK = 8, 512
_OPTIONS = {"num_warps": 4, **SAME_BITS}
_SPLIT = 256  # rows of one partial sum, and no more than _MOST of them
_MOST = 512
_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in POINTER else f"no {dtype} kernel"


def _block(width: int) -> int:
    return min(_BLOCK, max(16, power(width)))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def foreground_score_forward(x: Tensor, reference: Tensor, offsets: Tensor, lengths: Tensor, eps: float) -> Tensor:
    (total, width), n = x.shape, lengths.shape[0]
    if n == 0 or total == 0 or width == 0:
        return plain.foreground_score_forward(x, reference, offsets, lengths, eps)
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    x, out = _rows(x), x.new_empty(total)
    with on_device(x):
        shape = {"ACC": _ACC[dtype], "STEPS": steps(n), "ROWS": _ROWS, "BLOCK": _block(width)}
        bound(score, EPS=eps, **shape, **_OPTIONS)(
            (cdiv(total, _ROWS),), x, reference.contiguous(), offsets.contiguous(), lengths.contiguous(), out, n,
            total, width, x.stride(0),
        )  # fmt: skip
    return out


def foreground_score_backward(
    grad: Tensor,
    x: Tensor,
    reference: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    eps: float,
    need_x: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor]:
    (total, width), n = x.shape, lengths.shape[0]
    if n == 0 or total == 0 or width == 0:
        return plain.foreground_score_backward(grad, x, reference, offsets, lengths, eps, need_x, need_reference)
    dtype = accumulation_dtype(torch.promote_types(x.dtype, reference.dtype))
    x, offsets, lengths = _rows(x), offsets.contiguous(), lengths.contiguous()
    grad_x = x.new_empty((total, width)) if need_x else x.new_empty(0)
    along, scales, back = x.new_empty((3, total), dtype=dtype).unbind()
    splits = max(1, min(_MOST, cdiv(total, _SPLIT)))
    parts = x.new_empty((splits if need_reference else 0, width), dtype=dtype)
    shape = {"ACC": _ACC[dtype], "STEPS": steps(n), "ROWS": _ROWS, "BLOCK": _block(width)}
    with on_device(x):
        bound(differentiate, NEED_X=need_x, EPS=eps, **shape, **_OPTIONS)(
            (cdiv(total, _ROWS),), grad.contiguous(), x, reference.contiguous(), offsets, lengths, grad_x, along,
            scales, back, n, total, width, x.stride(0),
        )  # fmt: skip
        if not need_reference:
            return grad_x, reference.new_empty(0)
        bound(weighted_parts, **shape, **_OPTIONS)(
            (splits, cdiv(width, shape["BLOCK"])), x, along, scales, offsets, lengths, parts, n, total, width,
            x.stride(0), cdiv(total, splits),
        )  # fmt: skip
    up = reference.double()
    top = up.abs().amax()
    top = torch.where(top > 0, top, 1)  # the squares of what is divided by it are in range
    norm = torch.linalg.vector_norm(up / top)
    direction = torch.where(norm != 0, up / top / norm, 0)
    grad_reference = (parts.sum(0) - back.sum() * direction) / (norm * top).clamp(min=eps)
    return grad_x, grad_reference.to(reference.dtype)


def specializations(arch: int) -> list[Specialization]:
    """1024 channels."""
    found = []
    types = {
        **dict.fromkeys(("n", "total", "width", "x_stride", "rows_per_split"), "i32"),
        **dict.fromkeys(("along", "scales", "back", "parts", "reference"), "*fp32"),
        **{"offsets": "*i64", "lengths": "*i64"},
    }
    shape = {"NEED_X": True, "EPS": 1e-8, "ACC": tl.float32, "STEPS": 8, "ROWS": _ROWS, "BLOCK": _BLOCK}
    for dtype in (torch.bfloat16, torch.float32):
        floats = dict.fromkeys(("x", "out", "grad", "grad_x"), POINTER[dtype])
        for kernel in (score, differentiate, weighted_parts):
            constants = {k: v for k, v in shape.items() if k in kernel.arg_names}
            name = f"{kernel.__name__} {str(dtype).removeprefix('torch.')}"
            values = {"width": 1024, "x_stride": 1024}
            found.append(Specialization(name, kernel, types | floats, constants, _OPTIONS, {}, values))
    return found
