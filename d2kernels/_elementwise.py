"""Elementwise torch functions on Ragged batches, and arithmetic between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# A row of zeros stays one, whatever the function's other arguments.
_KEEP_ZERO = frozenset(
    "abs absolute neg negative sqrt square sign sin tan tanh asin atan sinh asinh atanh erf expm1 log1p relu relu6 "
    "leaky_relu elu selu celu gelu silu mish softsign tanhshrink softshrink hardshrink hardswish dropout round floor "
    "ceil trunc nan_to_num positive".split()
)
_ELEMENTWISE = _KEEP_ZERO | frozenset(
    "exp exp2 log log2 log10 rsqrt reciprocal sigmoid logit cos cosh acos acosh erfc erfinv frac lgamma digamma "
    "softplus logsigmoid hardtanh hardsigmoid threshold clamp clip clamp_min clamp_max isnan isinf isfinite "
    "logical_not logical_and logical_or logical_xor add sub subtract mul multiply div divide true_divide truediv "
    "floor_divide floordiv remainder mod fmod pow float_power radd rsub rmul rdiv rtruediv rpow rfloordiv rmod maximum "
    "minimum fmax fmin atan2 hypot copysign lerp where masked_fill addcmul addcdiv eq ne lt le gt ge equal_to isclose "
    "xlogy logaddexp heaviside".split()
)

_torch: Any = torch  # whose stubs know nothing of __torch_function__


def _name(function: Any) -> str:
    return getattr(function, "__name__", str(function)).strip("_")


def _refuse(name: str, why: str) -> TypeError:
    return TypeError(
        f"torch's {name} of a Ragged {why}; use an op of d2kernels, or Ragged.values with Ragged.with_values, or "
        "Ragged.padded"
    )


def apply(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """function of the packed values, as a Ragged of the same sequences whose gap rows are zero.

    Raises:
        TypeError: a function that is not elementwise, in place, or into `out`. ValueError: other sequences, or a
            tensor that does not fit the rows.
    """
    name = _name(function)
    if name not in _ELEMENTWISE:
        raise _refuse(name, "is not elementwise")
    if getattr(function, "__name__", "").endswith("_") and not getattr(function, "__name__", "").endswith("__"):
        raise _refuse(name, "in place would change values that are read only")
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        raise _refuse(name, "in place or into `out` would change values that are read only")
    every = [x for x in (*args, *kwargs.values()) if isinstance(x, Arithmetic)]
    first: Any = every[0]

    def rows(x: Any) -> Any:
        return first._aligned(name, x) if isinstance(x, Arithmetic) else x

    with torch._C.DisableTorchFunctionSubclass():
        out = function(*map(rows, args), **{k: rows(x) for k, x in kwargs.items()})
    if not isinstance(out, Tensor) or out.dim() == 0 or out.shape[0] != first.values.shape[0]:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"torch's {name} of a Ragged must give {first.values.shape[0]} rows, got {got}; other arguments must be "
            "numbers or broadcast within rows"
        )
    if name in _KEEP_ZERO and len(every) == 1 and first.gap:
        return type(first)._trusted(out, first.offsets, first.lengths, first.max_length, first.gap, first._room)
    return first.with_values(out).zero_gaps()


class Arithmetic:
    """Python's operators, and torch's elementwise functions, for Ragged, which says what its rows are."""

    __slots__ = ()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return apply(function, args, kwargs or {})

    def __add__(self, other: Any) -> Any:
        return _torch.add(self, other)

    def __sub__(self, other: Any) -> Any:
        return _torch.sub(self, other)

    def __mul__(self, other: Any) -> Any:
        return _torch.mul(self, other)

    def __truediv__(self, other: Any) -> Any:
        return _torch.div(self, other)

    def __pow__(self, other: Any) -> Any:
        return _torch.pow(self, other)

    def __radd__(self, other: Any) -> Any:
        return _torch.add(self, other)

    def __rmul__(self, other: Any) -> Any:
        return _torch.mul(self, other)

    def __rsub__(self, other: Any) -> Any:
        return _torch.rsub(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _torch.mul(_torch.reciprocal(self), other)

    def __lt__(self, other: Any) -> Any:
        return _torch.lt(self, other)

    def __le__(self, other: Any) -> Any:
        return _torch.le(self, other)

    def __gt__(self, other: Any) -> Any:
        return _torch.gt(self, other)

    def __ge__(self, other: Any) -> Any:
        return _torch.ge(self, other)

    def __neg__(self) -> Any:
        return _torch.neg(self)

    def __abs__(self) -> Any:
        return _torch.abs(self)
