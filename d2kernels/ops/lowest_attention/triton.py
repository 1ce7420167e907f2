"""lowest_attention by Triton: one program a sequence, of long ones one a chunk first."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from d2kernels.ops._triton import POINTER, Specialization, bound, chunk_of, on_device, slots, steps

_BLOCK, _CHUNK = 1024, 4096
_ALONE = 16 * _BLOCK  # rows up to which a second launch costs more than it saves


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    return None if dtype is None or dtype in POINTER else f"no {dtype} kernel"


@triton.jit
def _better(value, place, least, best):
    """Lanes' least values and their places so far, of a value and a place more; a NaN stays, nothing is below it."""
    better = ((value < least) | ((value != value) & (least == least)) | (best < 0)) & (place >= 0)
    return tl.where(better, value, least), tl.where(better, place, best)


@triton.jit
def _least(least, best, FLOAT: tl.constexpr):
    """The least value of all lanes, NaN being lowest, and its first place; -1 where no lane has one."""
    some = best >= 0
    nan = (least != least) & some
    bottom = tl.min(tl.where(some & (least == least), least, float("inf")), 0)
    any_nan = tl.max(nan.to(tl.int32), 0) > 0
    chosen = tl.where(any_nan, nan, some & (least == bottom))
    found = tl.min(tl.where(chosen, best, 2**62), 0)
    value = tl.where(any_nan, tl.full((), float("nan"), FLOAT), bottom)
    return value, tl.where(found < 2**62, found, -1)


@triton.jit(do_not_specialize=["total"])
def lowest(attention, offsets, lengths, out, total, FLOAT: tl.constexpr, BLOCK: tl.constexpr):
    """out (n,): the first place of each sequence's minimum, NaN being lowest; -1 for an empty sequence."""
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    least, best = tl.full((BLOCK,), float("inf"), FLOAT), tl.full((BLOCK,), -1, tl.int64)
    for start in range(first, end, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        value = tl.load(attention + rows, mask=rows < end, other=float("inf")).to(FLOAT)
        least, best = _better(value, tl.where(rows < end, rows - first, -1), least, best)
    _, place = _least(least, best, FLOAT)
    tl.store(out + sequence, place)


@triton.jit(do_not_specialize=["n", "total"])
def lowest_of_chunks(
    attention, offsets, lengths, values, places, n, total, FLOAT: tl.constexpr, STEPS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """values, places (slots,): each chunk's minimum and its first place in the sequence, -1 for an empty chunk."""
    slot = tl.program_id(0).to(tl.int64)
    sequence, begin, stop = chunk_of(offsets, lengths, n, total, slot, CHUNK, STEPS)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    rows = begin + tl.arange(0, CHUNK)
    value = tl.load(attention + rows, mask=rows < stop, other=float("inf")).to(FLOAT)
    value, place = _least(value, tl.where(rows < stop, rows - first, -1), FLOAT)
    tl.store(values + slot, value)
    tl.store(places + slot, place)


@triton.jit(do_not_specialize=["total"])
def lowest_chunk(
    values, places, offsets, lengths, out, total, FLOAT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """out (n,): `lowest` of what `lowest_of_chunks` found."""
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    slot, count = first // CHUNK + sequence, tl.cdiv(end - first, CHUNK)
    least, best = tl.full((BLOCK,), float("inf"), FLOAT), tl.full((BLOCK,), -1, tl.int64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(values + slot + at, mask=at < count, other=float("inf"))
        least, best = _better(value, tl.load(places + slot + at, mask=at < count, other=-1), least, best)
    _, place = _least(least, best, FLOAT)
    tl.store(out + sequence, place)


def lowest_attention_forward(attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    out, n, total = torch.empty_like(lengths), lengths.shape[0], attention.shape[0]
    if n == 0:
        return out
    attention, offsets, lengths = attention.contiguous(), offsets.contiguous(), lengths.contiguous()
    dtype = torch.float64 if attention.dtype == torch.float64 else torch.float32
    kind = tl.float64 if dtype == torch.float64 else tl.float32
    with on_device(attention):
        if total <= _ALONE:
            bound(lowest, FLOAT=kind, BLOCK=_BLOCK)((n,), attention, offsets, lengths, out, total)
            return out
        used = slots(total, n, _CHUNK)
        values, places = attention.new_empty(used, dtype=dtype), lengths.new_empty(used)
        bound(lowest_of_chunks, FLOAT=kind, STEPS=steps(n), CHUNK=_CHUNK)(
            (used,), attention, offsets, lengths, values, places, n, total
        )
        bound(lowest_chunk, FLOAT=kind, CHUNK=_CHUNK, BLOCK=_BLOCK)(
            (n,), values, places, offsets, lengths, out, total
        )
    return out


def specializations(arch: int) -> list[Specialization]:
    types = {"offsets": "*i64", "lengths": "*i64", "out": "*i64", "places": "*i64", "values": "*fp32"}
    types |= {"n": "i32", "total": "i32"}
    shape = {"FLOAT": tl.float32, "BLOCK": _BLOCK, "CHUNK": _CHUNK, "STEPS": 8}
    found = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for kernel in (lowest, lowest_of_chunks, lowest_chunk):
            taken = {k: v for k, v in shape.items() if k in kernel.arg_names}
            named = f"{kernel.__name__} {name}"
            found.append(Specialization(named, kernel, types | {"attention": POINTER[dtype]}, taken))
    return found
