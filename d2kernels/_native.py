"""The compiled extension, if there is one, and the reason where there is none."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from d2kernels import _interface

if TYPE_CHECKING:
    import torch


@cache
def extension() -> tuple[ModuleType | None, str | None]:
    """The module `_C`, or None with the reason why it cannot be loaded; one of other sources warns."""
    try:
        found = importlib.import_module("d2kernels._C")
    except ImportError as error:
        return None, f"the compiled extension is not available ({error}); reinstall with D2K_BUILD=auto"
    if reason := _interface.stale(Path(__file__).parent):
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return None, reason
    return found, None


def why_not(device: str) -> str | None:
    """Why native kernels cannot run on this kind of device, or None."""
    module, reason = extension()
    if module is None:
        return reason
    if device == "cpu":
        return None
    if device != "cuda":
        return f"native kernels run on cpu and cuda, not on {device}"
    return None if module.has_cuda else "the extension was built without CUDA"


def module() -> ModuleType:
    """The module `_C`, or an ImportError with the reason."""
    found, reason = extension()
    if found is None:
        raise ImportError(reason)
    return found


_DTYPES = ("torch.float32", "torch.float64", "torch.bfloat16", "torch.float16")  # csrc/bindings/dtype.h


@cache
def dtype_number(dtype: object) -> int:
    """The number by which csrc knows a torch dtype."""
    return _DTYPES.index(str(dtype))


def cast(x: torch.Tensor | None, dtype: torch.dtype) -> Any:
    """x.to(dtype), which takes 0.7 µs where there is nothing to do; None stays."""
    return x if x is None or x.dtype is dtype else x.to(dtype)


def why_not_dtype(dtype: object) -> str | None:
    """Why the kernels for floats of every size cannot take this dtype, or None."""
    return None if dtype is None or str(dtype) in _DTYPES else f"native kernels take {', '.join(_DTYPES)}, not {dtype}"


def why_not_cpu_only(op: str, device: str) -> str | None:
    """Why an op without CUDA in csrc cannot run on this kind of device, or None."""
    return None if device == "cpu" else f"{op} has no native kernel for {device}"


def device_and_stream(device: torch.device) -> tuple[int, int]:
    """A CUDA device's index and its current stream, read at every call: a cached one breaks graph capture."""
    import torch

    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream
