"""Fast operations on ragged batches of sequences in time."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PUBLIC = {
    "Ragged": "d2kernels.ragged",
    "temporal_conv": "d2kernels.ops.temporal_conv",
    "topk_pool": "d2kernels.ops.topk_pool",
    "attention_pool": "d2kernels.ops.attention_pool",
    "foreground_score": "d2kernels.ops.foreground_score",
    "lowest_attention": "d2kernels.ops.lowest_attention",
    "condition_number": "d2kernels.ops.condition_number",
    "pdmi_snippet": "d2kernels.ops.pdmi",
    "pdmi_video": "d2kernels.ops.pdmi",
    "svd": "d2kernels.ops.svd",
    "svdvals": "d2kernels.ops.svd",
    "connected_components": "d2kernels.ops.connected_components",
    "nms": "d2kernels.ops.nms",
    "soft_nms": "d2kernels.ops.nms",
    "localize": "d2kernels.ops.localize",
    "tv_l1": "d2kernels.ops.tv_l1",
    "dilation": "d2kernels.ops.morphology",
    "erosion": "d2kernels.ops.morphology",
}
_MODULES = ("backends", "nn")
__all__ = [*_PUBLIC, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from d2kernels import backends as backends
    from d2kernels import nn as nn
    from d2kernels.ops.attention_pool import attention_pool as attention_pool
    from d2kernels.ops.condition_number import condition_number as condition_number
    from d2kernels.ops.connected_components import connected_components as connected_components
    from d2kernels.ops.foreground_score import foreground_score as foreground_score
    from d2kernels.ops.localize import localize as localize
    from d2kernels.ops.lowest_attention import lowest_attention as lowest_attention
    from d2kernels.ops.morphology import dilation as dilation
    from d2kernels.ops.morphology import erosion as erosion
    from d2kernels.ops.nms import nms as nms
    from d2kernels.ops.nms import soft_nms as soft_nms
    from d2kernels.ops.pdmi import pdmi_snippet as pdmi_snippet
    from d2kernels.ops.pdmi import pdmi_video as pdmi_video
    from d2kernels.ops.svd import svd as svd
    from d2kernels.ops.svd import svdvals as svdvals
    from d2kernels.ops.temporal_conv import temporal_conv as temporal_conv
    from d2kernels.ops.topk_pool import topk_pool as topk_pool
    from d2kernels.ops.tv_l1 import tv_l1 as tv_l1
    from d2kernels.ragged import Ragged as Ragged


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that NumPy callers of the array functions never import torch.
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"d2kernels.{name}")
    else:
        raise AttributeError(f"module 'd2kernels' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
