"""lowest_attention by Triton: one program a sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from d2kernels.ops._triton import POINTER, Specialization, on_device

_BLOCK = 1024


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in POINTER else f"no {dtype} kernel"


@triton.jit(do_not_specialize=["total"])
def lowest(attention, offsets, lengths, out, total, FLOAT: tl.constexpr, BLOCK: tl.constexpr):
    """out (n,): the first place of each sequence's minimum, NaN being lowest; -1 for an empty sequence."""
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    # Of each lane: its least value so far and where that was first. A NaN stays: nothing is below it.
    least = tl.full((BLOCK,), float("inf"), FLOAT)
    place = tl.full((BLOCK,), -1, tl.int64)
    for start in range(first, end, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        value = tl.load(attention + rows, mask=rows < end, other=float("inf")).to(FLOAT)
        better = ((value < least) | ((value != value) & (least == least)) | (place < 0)) & (rows < end)
        least, place = tl.where(better, value, least), tl.where(better, rows - first, place)
    nan = (least != least) & (place >= 0)
    bottom = tl.min(tl.where((place >= 0) & (least == least), least, float("inf")), 0)
    some = tl.max(nan.to(tl.int32), 0) > 0
    chosen = tl.where(some, nan, (place >= 0) & (least == bottom))
    far = tl.full((BLOCK,), 2**62, tl.int64)
    found = tl.min(tl.where(chosen, place, far), 0)
    tl.store(out + sequence, tl.where(found < 2**62, found, -1))


def lowest_attention_forward(attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    out, n = torch.empty_like(lengths), lengths.shape[0]
    if n == 0:
        return out
    with on_device(attention):
        lowest[(n,)](
            attention.contiguous(), offsets.contiguous(), lengths.contiguous(), out, attention.shape[0],
            FLOAT=tl.float64 if attention.dtype == torch.float64 else tl.float32, BLOCK=_BLOCK,
        )  # fmt: skip
    return out


def specializations(arch: int) -> list[Specialization]:
    types = {"offsets": "*i64", "lengths": "*i64", "out": "*i64", "total": "i32"}
    return [
        Specialization(name, lowest, types | {"attention": POINTER[dtype]}, {"FLOAT": tl.float32, "BLOCK": _BLOCK})
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    ]
