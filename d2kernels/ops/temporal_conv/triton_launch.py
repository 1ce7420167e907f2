"""What a launch of temporal_conv's kernels depends on: the device, how float32 is multiplied, the shapes of tiles."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from d2kernels.ops.temporal_conv.precision import float32
from d2kernels.ops.temporal_conv.triton_configs import Config, choose


def precision(dtype: torch.dtype) -> str:
    """tl.dot's name for how float32 is multiplied; 16-bit products are exact in float32."""
    if dtype.itemsize == 2:
        return "ieee"
    asked = float32()
    if asked not in (None, "winograd"):
        return asked
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@cache
def _device(index: int | None) -> tuple[int, int]:
    """Compute capability, 90 for 9.0, and multiprocessors; the pointer path's where the kernels are interpreted."""
    if index is None:
        return 80, 1
    found = torch.cuda.get_device_properties(index)
    return found.major * 10 + found.minor, found.multi_processor_count


def device_of(x: Tensor) -> tuple[int, int]:
    return _device(x.device.index if x.device.type == "cuda" else None)


def repacked(x: Tensor) -> bool:
    """Whether the way back takes weights along the outputs: tf32 warpgroup products have no other operand."""
    return x.dtype == torch.float32 and precision(x.dtype) == "tf32" and 90 <= device_of(x)[0] < 120


_TUNED: dict[Any, Config] = {}  # what D2K_AUTOTUNE=1 chose in this process


def _tuning_key(kind: str, device: torch.device, dtype: torch.dtype, layer: tuple[Any, ...]) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return " ".join(map(str, (kind, name, dtype, *layer)))


def tuned(kind: str, x: Tensor, shipped: Config, layer: tuple[Any, ...], launch: Any) -> Config:
    if os.environ.get("D2K_AUTOTUNE") != "1":
        return shipped

    def milliseconds(chosen: Config) -> float:
        try:
            return triton.testing.do_bench(lambda: launch(chosen), return_mode="median")
        except Exception as error:
            # The compiler raises anything; after an error of CUDA's nothing more can be timed.
            if "CUDA" in str(error):
                raise
            return math.inf

    place = (os.environ.get("XDG_CACHE_HOME"), kind, x.device, x.dtype, layer)
    if place not in _TUNED:
        tuning = x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        found = choose(_tuning_key(kind, x.device, x.dtype, layer), shipped, tuning, milliseconds)
        if not tuning:
            return found
        _TUNED[place] = found
    return _TUNED[place]
