"""localize through csrc: CPU tensors, and NumPy arrays without torch."""

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


def why_not(device: str, dtype: object = None) -> str | None:
    """Why this device is not served, or None."""
    return None if device == "cpu" else "localize has no CUDA kernel"


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def _found(module: ModuleType, activations: tuple[Any, ...], rules: tuple[Any, ...], count: int, threads: int) -> Any:
    *rest, relative = rules
    try:
        return module.localize_cpu(activations, (*rest, RELATIVE[relative]), count, threads)
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

    *rules, class_score = rules_and_class_score
    module = _module()
    if class_mask is not None and (class_mask.dtype != torch.bool or class_mask.device != activations.device):
        raise TypeError(
            f"localize: class_mask must be bool on {activations.device}, got {class_mask.dtype} on {class_mask.device}"
        )
    _check_order(thresholds if rules[-1] else thresholds.to(activations.dtype))
    offsets, lengths, thresholds = offsets.contiguous(), lengths.contiguous(), thresholds.contiguous()
    class_mask = None if class_mask is None else class_mask.contiguous()
    class_score = None if class_score is None else class_score.detach().double().contiguous()
    count, threads = torch.empty_like(lengths), torch.get_num_threads()
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
    found = _found(module, given, tuple(rules), count.data_ptr(), threads)
    columns = [like.new_empty(found.size) for like in (lengths, lengths, thresholds, thresholds, thresholds)]
    found.write(tuple(c.data_ptr() for c in columns), threads)
    return (*columns, count)


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
    module = _module()
    _check_order(thresholds if rules[-1] else thresholds.astype(activations.dtype))
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
    found = _found(module, given, rules, count.ctypes.data, 0)
    columns = [np.empty(found.size, dtype) for dtype in (np.int64, np.int64, np.float64, np.float64, np.float64)]
    found.write(tuple(c.ctypes.data for c in columns), 0)
    return (*columns, count)
