"""What the Triton kernels share: where sequences lie, and how each kernel is compiled with no GPU at hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# A product fused with a sum across lanes rounds differently in each: which lane's bits are stored would be undefined.
SAME_BITS = {"enable_fp_fusion": False}
POINTER = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Specialization(NamedTuple):
    """One compiled form of a kernel, for the checks that need no GPU (scripts/aot.py).

    Args:
        name: what the form is for, as printed.
        kernel: the jitted function.
        types: argument to Triton type, "*bf16" or "i64"; pointers are taken as aligned to 16 bytes.
        constants: tl.constexpr argument to value, and None for a pointer that is not given.
        options: num_warps, num_stages.
        instructions: SASS instruction that must be there, by compute capability.
        values: integer arguments that are the layer's; any other varies between batches, and its value must not matter.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, int] = {}
    instructions: Mapping[int, str] = {}
    values: Mapping[str, int] = {}


class Launch:
    """A kernel with its constants and options; once a form of it is compiled, launched without Triton's look-ups.

    Args:
        kernel: the jitted function, whose constants come last.
        named: every tl.constexpr argument, and options: num_warps, num_stages.
    """

    def __init__(self, kernel: Any, named: Mapping[str, Any]):
        self.kernel, self.named = kernel, named
        self.constants = tuple(named[name] for name in kernel.arg_names if name in named)
        self.compiled: dict[Any, Any] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: Any) -> None:
        """grid: one to three numbers; arguments: the kernel's others, in order."""
        hooks = triton.knobs.runtime
        if INTERPRETED or hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:
            self.kernel[grid](*arguments, **self.named)
            return
        active = triton.runtime.driver.active
        device = active.get_current_device()
        form = (device, *map(_form_of, arguments))
        found = self.compiled.get(form)
        if found is None:
            self.compiled[form] = self.kernel[grid](*arguments, **self.named)
            return
        x, y, z = (*grid, 1, 1)[:3]
        stream = active.get_current_stream(device)
        found.run(
            x, y, z, stream, found.function, found.packed_metadata, None, None, None, *arguments, *self.constants
        )


@lru_cache(maxsize=1024)
def bound(kernel: Any, **named: Any) -> Launch:
    """The one Launch of a kernel with these constants and options."""
    return Launch(kernel, named)


def _form_of(x: Any) -> Any:
    """What Triton compiles anew for."""
    if isinstance(x, Tensor):
        return x.dtype, x.data_ptr() % 16 == 0
    if isinstance(x, int):
        return x == 1, x % 16 == 0, x >> 31
    return (x.base.dtype, *x.block_shape) if isinstance(x, TensorDescriptor) else type(x)


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Makes x's GPU current where it is not: Triton launches on the current device's current stream."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


def cdiv(a: int, b: int) -> int:
    """⌈a / b⌉; triton.cdiv takes as long as a look-up of a form."""
    return -(-a // b)


def power(x: int) -> int:
    """The least power of two from x on."""
    return 1 << max(x - 1, 0).bit_length()


def steps(n: int) -> int:
    """STEPS for n sequences: a form for fewer than 256 and one for fewer than 65 536, not one for each power of two."""
    return n.bit_length() if INTERPRETED else max(8, -(-n.bit_length() // 8) * 8)


@triton.jit
def sequence_of(offsets, n, total, rows, STEPS: tl.constexpr):
    """The last sequence that starts at or before each row, by bisection; n ≥ 1, offsets (n + 1,), 2**STEPS > n."""
    low = tl.zeros_like(rows)
    high = low + (n - 1)
    for _ in tl.static_range(STEPS):
        middle = (low + high + 1) // 2
        after = tl.load(offsets + middle) <= rows
        low = tl.where(after, middle, low)
        high = tl.where(after, high, tl.maximum(middle - 1, low))
    return low


@triton.jit
def bounds_of(offsets, lengths, n, total, rows, STEPS: tl.constexpr):
    """First row and end of each row's sequence, inside [0, total]; both 0 on gap rows and past the end."""
    sequence = sequence_of(offsets, n, total, rows, STEPS)
    first = tl.minimum(tl.maximum(tl.load(offsets + sequence), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + sequence), 0), total)
    inside = (rows >= first) & (rows < end)
    return tl.where(inside, first, 0), tl.where(inside, end, 0)


@triton.jit
def chunk_of(offsets, lengths, n, total, slot, CHUNK, STEPS: tl.constexpr):
    """The sequence of a slot, and the first and the last row + 1 of its chunk; none where that sequence is shorter.

    Chunks begin at each sequence's start. Sequence i has the slots from offsets[i] // CHUNK + i on, which always
    suffice, so that where a chunk lies follows from the slot and the offsets alone.
    """
    low = tl.zeros_like(slot)
    high = low + (n - 1)
    for _ in tl.static_range(STEPS):
        middle = (low + high + 1) // 2
        base = tl.minimum(tl.maximum(tl.load(offsets + middle), 0), total) // CHUNK + middle
        after = base <= slot
        low = tl.where(after, middle, low)
        high = tl.where(after, high, tl.maximum(middle - 1, low))
    first = tl.minimum(tl.maximum(tl.load(offsets + low), 0), total)
    end = tl.minimum(first + tl.maximum(tl.load(lengths + low), 0), total)
    begin = first + (slot - (first // CHUNK + low)) * CHUNK
    begin = tl.maximum(begin, first)
    return low, begin, tl.minimum(begin + CHUNK, end)


def slots(total: int, n: int, chunk: int) -> int:
    """How many slots `chunk_of` may need."""
    return total // chunk + n
