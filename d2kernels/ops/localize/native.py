"""localize through csrc: CPU and CUDA tensors, and NumPy arrays without torch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels import _native
from d2kernels._arrays import strided
from d2kernels.ops._capacity import check_capacity
from d2kernels.ops.localize.capacity import NOT_A_NUMBER, padded

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 64 << 20  # bytes of workspace past which it is worth waiting for the number of classes that are wanted
MOST_POSITIONS = 2**30  # of a GPU call, whose blocks count them in 32 bits
RELATIVE = {None: 0, "max": 1, "minmax": 2}


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def _found(module: ModuleType, given: tuple[Any, ...], rules: tuple[Any, ...], count: Any, threads: int) -> Any:
    try:
        return module.localize_cpu(given, rules, count, threads)
    except ValueError:
        raise ValueError(NOT_A_NUMBER) from None


def localize_forward(
    activations: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    import torch

    from d2kernels.ragged import _values_can_be_checked

    *others, relative, class_score, capacity = options
    rules = (*others, RELATIVE[relative])
    # Here, as csrc would copy them in each of its calls.
    offsets, lengths, thresholds = offsets.contiguous(), lengths.contiguous(), thresholds.contiguous()
    class_mask = None if class_mask is None else class_mask.contiguous()
    class_score = None if class_score is None else class_score.detach().double().contiguous()
    n, levels = lengths.shape[0], thresholds.shape[0]
    sequences = offsets, lengths, n
    is_double = activations.dtype is torch.float64
    given = (is_double, activations, *sequences, thresholds, levels, class_mask, class_score)
    count = lengths.new_empty(n)

    def columns(size: int) -> list[Tensor]:
        return [like.new_empty(size) for like in (lengths, lengths, thresholds, thresholds, thresholds)]

    module = _module()
    if activations.is_cpu:
        threads = torch.get_num_threads()
        found = _found(module, given, rules, count, threads)
        out = columns(module.localized_size(found))
        module.localized_write_cpu(found, tuple(out), threads)
        return padded((*out, count), capacity)
    (total, classes), upsample = activations.shape, rules[9]
    if total * upsample > MOST_POSITIONS:
        raise ValueError(f"localize: {total * upsample} positions exceed a GPU call's 2³⁰")
    device, stream = _native.device_and_stream(activations.device)

    def bytes_of(room: int) -> int:
        return module.localize_workspace_cuda(given, rules, room)

    room = total * classes
    if class_mask is not None and capacity is None and bytes_of(room) > LARGE:
        room = int((lengths.clamp(0, total) * class_mask.sum(1)).sum())
    workspace = activations.new_empty(bytes_of(room), dtype=torch.uint8)
    first = offsets.new_empty(n + 1)
    call = room, count.data_ptr(), first.data_ptr(), workspace.data_ptr()
    # Everything stays on the stream but the one number that sizes the result.
    module.localize_find_cuda(given, rules, call, device, stream)
    if capacity is None or _values_can_be_checked(offsets):
        needed = int(first[-1])
        if needed < 0:
            raise ValueError(NOT_A_NUMBER)
        if capacity is not None:
            check_capacity("localize", needed, capacity)
    size = needed if capacity is None else capacity
    out = columns(size)
    module.localize_write_cuda(given, rules, call, size, tuple([c.data_ptr() for c in out]), device, stream)
    return (*out, count)


def localize_arrays(
    activations: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    thresholds: np.ndarray,
    class_mask: np.ndarray | None,
    rules: tuple[Any, ...],
    class_score: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    """The same on NumPy arrays; offsets and lengths are contiguous."""
    *others, relative = rules
    rules = (*others, RELATIVE[relative])
    activations, strides = strided(activations)
    thresholds = np.ascontiguousarray(thresholds)
    class_mask = None if class_mask is None else np.ascontiguousarray(class_mask)
    class_score = None if class_score is None else np.ascontiguousarray(class_score, np.float64)
    count = np.empty_like(lengths)
    given = (
        activations.itemsize == 8,
        (activations.ctypes.data, *activations.shape, *strides),
        offsets.ctypes.data,
        lengths.ctypes.data,
        len(lengths),
        thresholds.ctypes.data,
        len(thresholds),
        0 if class_mask is None else class_mask.ctypes.data,
        0 if class_score is None else class_score.ctypes.data,
    )
    module = _module()
    found = _found(module, given, rules, count.ctypes.data, 0)
    size = module.localized_size(found)
    columns = [np.empty(size, dtype) for dtype in (np.int64, np.int64, np.float64, np.float64, np.float64)]
    module.localized_write_cpu(found, tuple(c.ctypes.data for c in columns), 0)
    return (*columns, count)
