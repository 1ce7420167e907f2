"""localize through csrc: CPU and CUDA tensors, and NumPy arrays without torch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from d2kernels import _native
from d2kernels.ops.connected_components import _check_order, _check_shapes

if TYPE_CHECKING:
    from torch import Tensor

RELATIVE = {None: 0, "max": 1, "minmax": 2}


def _module() -> ModuleType:
    module, reason = _native.extension()
    if module is None:
        raise ImportError(reason)
    return module


def why_not(device: str, dtype: object = None) -> str | None:
    """Why this device is not served, or None."""
    return None if device == "cpu" else "localize has no CUDA kernel"


def _found(module: ModuleType, input: tuple[Any, ...], rules: tuple[Any, ...], counts: int, threads: int) -> Any:
    try:
        return module.localize_cpu(input, rules, counts, threads)
    except ValueError:
        raise ValueError(
            "localize: a proposal's score is NaN; activations around it or class_score are infinite or NaN"
        ) from None


def localize_forward(
    activations: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    thresholds: Tensor,
    class_mask: Tensor | None,
    margin: float,
    pooled: bool,
    min_score: float | None,
    min_length: int,
    iou_threshold: float,
    inclusive: bool,
    sigma: float | None,
    keep_ratio: float | None,
    keep_per_class: bool,
    upsample: int,
    smoothing: int,
    relative: str | None,
    class_score: Tensor | None,
) -> tuple[Tensor, ...]:
    import torch

    module = _module()
    if class_mask is not None and (class_mask.dtype != torch.bool or class_mask.device != activations.device):
        raise TypeError(
            f"localize: class_mask must be bool on {activations.device}, got {class_mask.dtype} on {class_mask.device}"
        )
    _check_shapes(activations, lengths.shape[0], thresholds, class_mask, min_length)
    _check_order(thresholds if relative else thresholds.to(activations.dtype))
    offsets, lengths, thresholds = offsets.contiguous(), lengths.contiguous(), thresholds.contiguous()
    class_mask = None if class_mask is None else class_mask.contiguous()
    class_score = None if class_score is None else class_score.detach().double().contiguous()
    input = (
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
    rules = (
        margin, pooled, min_score, min_length, iou_threshold, inclusive, sigma, keep_ratio, keep_per_class, upsample,
        smoothing, RELATIVE[relative],
    )  # fmt: skip
    count = torch.empty_like(lengths)
    threads = torch.get_num_threads()
    found = _found(module, input, rules, count.data_ptr(), threads)
    columns = [like.new_empty(found.size) for like in (lengths, lengths, thresholds, thresholds, thresholds)]
    found.write(tuple(c.data_ptr() for c in columns), threads)
    return (*columns, count)
