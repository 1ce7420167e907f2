"""localize through csrc: CPU and CUDA tensors, and NumPy arrays without torch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels import _native
from d2kernels._arrays import strided
from d2kernels.ops.connected_components import _check_order

if TYPE_CHECKING:
    from torch import Tensor

RELATIVE = {None: 0, "max": 1, "minmax": 2}


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def _found(module: ModuleType, given: tuple[Any, ...], rules: tuple[Any, ...], count: int, threads: int) -> Any:
    try:
        return module.localize_cpu(given, rules, count, threads)
    except ValueError:
        raise ValueError(
            "localize: a proposal's score is NaN; activations or class_score hold what has no finite sum"
        ) from None


def localize_forward(
    activations: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    *rules_and_class_score: Any,
) -> tuple[Tensor, ...]:
    import torch

    from d2kernels.ragged import _values_can_be_checked

    *others, relative, class_score = rules_and_class_score
    rules = (*others, RELATIVE[relative])
    if _values_can_be_checked(thresholds):
        _check_order(thresholds if relative else thresholds.to(activations.dtype))
    offsets, lengths, thresholds = offsets.contiguous(), lengths.contiguous(), thresholds.contiguous()
    class_mask = None if class_mask is None else class_mask.contiguous()
    class_score = None if class_score is None else class_score.detach().double().contiguous()
    given = (
        activations.data_ptr(),
        activations.element_size() == 8,
        *activations.shape,
        *activations.stride(),
        offsets.data_ptr(),
        lengths.data_ptr(),
        lengths.shape[0],
        thresholds.data_ptr(),
        thresholds.shape[0],
        0 if class_mask is None else class_mask.data_ptr(),
        0 if class_score is None else class_score.data_ptr(),
    )
    count = torch.empty_like(lengths)

    def columns(size: int) -> list[Tensor]:
        return [like.new_empty(size) for like in (lengths, lengths, thresholds, thresholds, thresholds)]

    module = _module()
    if activations.device.type == "cpu":
        threads = torch.get_num_threads()
        found = _found(module, given, rules, count.data_ptr(), threads)
        out = columns(found.size)
        found.write(tuple(c.data_ptr() for c in out), threads)
        return (*out, count)
    (total, classes), n, upsample = activations.shape, lengths.shape[0], rules[9]
    if total * upsample >= 2**31:
        raise ValueError(f"localize: {total} rows are more than a GPU call's 2³¹ positions")
    device, stream = activations.device.index, torch.cuda.current_stream(activations.device).cuda_stream
    size = module.localize_workspace_cuda(activations.element_size() == 8, total, n, classes, upsample, device)
    workspace = activations.new_empty(size, dtype=torch.uint8)
    first = offsets.new_empty(n + 1)
    module.localize_find_cuda(
        given, rules, count.data_ptr(), first.data_ptr(), workspace.data_ptr(), size, device, stream
    )
    out = columns(int(first[-1]))  # the op's one synchronisation
    addresses = tuple(c.data_ptr() for c in out)
    module.localize_write_cuda(
        given, rules, first.data_ptr(), len(out[0]), addresses, workspace.data_ptr(), device, stream
    )
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
    _check_order(thresholds if relative else thresholds.astype(activations.dtype))
    activations, strides = strided(activations)
    thresholds = np.ascontiguousarray(thresholds)
    class_mask = None if class_mask is None else np.ascontiguousarray(class_mask)
    class_score = None if class_score is None else np.ascontiguousarray(class_score, np.float64)
    count = np.empty_like(lengths)
    given = (
        activations.ctypes.data,
        activations.itemsize == 8,
        *activations.shape,
        *strides,
        offsets.ctypes.data,
        lengths.ctypes.data,
        len(lengths),
        thresholds.ctypes.data,
        len(thresholds),
        0 if class_mask is None else class_mask.ctypes.data,
        0 if class_score is None else class_score.ctypes.data,
    )
    found = _found(_module(), given, rules, count.ctypes.data, 0)
    columns = [np.empty(found.size, dtype) for dtype in (np.int64, np.int64, np.float64, np.float64, np.float64)]
    found.write(tuple(c.ctypes.data for c in columns), 0)
    return (*columns, count)
