"""Arrays of other libraries (CuPy, JAX, ...) in and out of functions on tensors, by DLPack, without a copy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def _foreign(x: object) -> bool:
    if not hasattr(x, "__dlpack__") or isinstance(x, np.ndarray):
        return False
    torch = sys.modules.get("torch")
    return torch is None or not isinstance(x, torch.Tensor)


def takes_dlpack(function: Callable[P, R]) -> Callable[P, R]:
    """Lets arrays with `__dlpack__` come as any argument; results are arrays of the first one's library.

    A library without `from_dlpack` at its top gets torch tensors.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        foreign = [x for x in (*args, *kwargs.values()) if _foreign(x)]  # a list: torch 2.8 compiles no next(…, None)
        if not foreign:
            return function(*args, **kwargs)
        import torch

        def inward(x: Any) -> Any:
            return torch.from_dlpack(x) if _foreign(x) else x

        found: Any = function(*map(inward, args), **{k: inward(v) for k, v in kwargs.items()})  # type: ignore[arg-type]
        back = getattr(sys.modules[type(foreign[0]).__module__.partition(".")[0]], "from_dlpack", None)
        if back is None:
            return found

        def outward(x: Any) -> Any:
            if isinstance(x, tuple):
                parts = map(outward, x)
                return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
            return back(x) if isinstance(x, torch.Tensor) else x

        return outward(found)

    return wrapper
