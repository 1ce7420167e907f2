"""Registration of ops with torch.library: schema, fake kernel, and one implementation that picks the backend."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import _C, Tensor
from torch.autograd import _profiler_enabled, forward_ad
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from d2kernels import backends
from d2kernels._arrays import levels as array_levels

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32)
LIBRARY = torch.library.Library("d2k", "DEF")


class Call(Protocol):
    """What calls a registered op; `op` is what torch knows of it."""

    op: torch._ops.OpOverload
    __signature__: inspect.Signature

    def __call__(self, *args: Any) -> Any: ...


def define(folder: str, name: str, signature: str, fake: Callable[..., Any]) -> Call:
    """Registers ``d2k::<name><signature>`` and returns what calls it.

    That goes by torch's dispatcher wherever something there would see the call, and straight to the backend otherwise.

    Args:
        folder: the op's folder under ops/, which is also its name in `backends`.
        name: the registered name; each backend module implements it as a function ``<name>`` with suffix
            ``_forward`` unless the name ends in ``_backward``.
        signature: torch.library schema, from the opening parenthesis on.
        fake: the fake kernel: output shapes and dtypes from input ones.
    """
    function = name if name.endswith("_backward") else f"{name}_forward"

    def direct(*args: Any) -> Any:
        first = _on_one_device(op, tensors, args)
        device = first.device
        call = getattr(backends.select(folder, device.type, first.dtype, device.index), function)
        if not torch.is_autocast_enabled(device.type):
            return call(*args)
        # The public function has cast what autocast casts; a backward runs under whatever is on by then.
        with torch.autocast(device.type, enabled=False):
            return call(*args)

    def run(*args: Any) -> Any:
        """With an empty tensor, as the schema has it, where a backend gives None for what nobody asked for."""
        out = direct(*args)
        if not isinstance(out, tuple) or all(x is not None for x in out):
            return out
        made = fake(*[a.to("meta") if isinstance(a, Tensor) else a for a in args])
        device = next(x for x in out if x is not None).device
        return tuple([torch.empty_like(m, device=device) if x is None else x for x, m in zip(out, made, strict=True)])

    def checked_fake(*args: Any) -> Any:
        # One tensor on "meta" brings all of them here, and what is made beside the others would hold no result.
        _on_one_device(op, tensors, args)
        return fake(*args)

    LIBRARY.define(name + signature)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"d2k::{name}", checked_fake, lib=LIBRARY)
    op = getattr(torch.ops.d2k, name).default
    tensors = [i for i, argument in enumerate(op._schema.arguments) if "Tensor" in str(argument.type)]

    start = tensors[0]

    def call(*args: Any) -> Any:
        where = _unseen(tensors, args)
        if where == "cpu" and not _C._is_any_autocast_enabled():
            first = args[start]
            if first is None:
                first = next(args[i] for i in tensors if args[i] is not None)
            return getattr(backends.select(folder, "cpu", first.dtype), function)(*args)
        return op(*args) if where is None else direct(*args)

    found = cast(Call, call)
    found.op = op
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found.__signature__ = inspect.Signature([inspect.Parameter(a.name, kind) for a in op._schema.arguments])
    return found


def takes_as(call: Call) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a Function's forward an op's signature: dynamo counts parameters to know whether it takes a context."""

    def mark(forward: Any) -> Any:
        forward.__signature__ = call.__signature__
        return forward

    return mark


def watched() -> bool:
    """Whether a compiler, a mode, a transform or a tracer sees every operation."""
    if is_dynamo_compiling() or _C._len_torch_dispatch_stack() or _C._are_functorch_transforms_active():
        return True
    return _C._is_torch_function_mode_enabled() or bool(_C._get_tracing_state())


def _unseen(tensors: list[int], args: tuple[Any, ...]) -> str | None:
    """None where something in torch's dispatcher would see a call: a mode, transform, profiler or tracer, tensors that
    are not plain. Else "cpu", where all tensors are there, or "cuda", where one is.

    The dispatcher takes 3 to 15 µs, most of it to make its values of the arguments and back.
    """
    if (
        is_dynamo_compiling()
        or _C._len_torch_dispatch_stack()
        or _C._are_functorch_transforms_active()
        or _C._is_torch_function_mode_enabled()
        or _C._get_tracing_state()
        or _profiler_enabled()
    ):
        return None
    where = "cpu"
    for i in tensors:
        x = args[i]
        if x is None:
            continue
        kind = x.__class__
        # A negated view's memory holds the opposite of its numbers: the dispatcher makes them first.
        if (kind is not Tensor and kind is not Parameter) or x.is_neg():
            return None
        if not x.is_cpu:
            # Zeros without memory; on the CPU csrc sees that by itself.
            if not x.is_cuda or x._is_zerotensor():
                return None
            where = "cuda"
    return where


def autocasts(x: Tensor) -> bool:
    """Whether autocast asks an op on x for its dtype: never of float64, which it leaves alone."""
    if not _C._is_any_autocast_enabled() or x.dtype == torch.float64:
        return False
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def _on_one_device(op: Any, tensors: list[int], args: tuple[Any, ...]) -> Tensor:
    """The op's first tensor, on whose device all others are: backends hand their addresses on as they are."""
    first = device = label = None
    for i in tensors:
        x = args[i]
        if x is None:
            continue
        if first is None:
            first, device, label = x, x.device, i
        elif x.device != device:
            name = op._schema.name.removeprefix("d2k::").removesuffix("_backward")
            names = [op._schema.arguments[at].name for at in (i, label)]
            raise ValueError(f"{name}: {names[0]} is on {x.device} but {names[1]} is on {device}; move it there")
    assert first is not None
    return first


def is_integer(x: Tensor) -> bool:
    """Whether x holds whole numbers that int64 can: no bool, no complex, no uint64."""
    return x.dtype in _INTEGERS


def levels(op: str, thresholds: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Thresholds, numbers or a tensor on the CPU or on this device, as a tensor there."""
    if not isinstance(thresholds, Tensor):
        if not torch.compiler.is_compiling():
            thresholds = array_levels(op, thresholds)
    elif not thresholds.is_cpu and thresholds.device != device:
        raise ValueError(f"{op}: thresholds is on {thresholds.device} but the scores are on {device}; move it there")
    elif thresholds.is_complex() or thresholds.dtype == torch.bool:
        raise TypeError(f"{op}: thresholds must be numbers, got {thresholds.dtype}")
    return torch.as_tensor(thresholds, dtype=dtype, device=device)


def _has_tangent(x: Any) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def apply(function: type[torch.autograd.Function], *args: Any, keeps: bool = False) -> Any:
    """function.apply(*args), without what it costs where nothing needs a gradient or nothing transforms it.

    `inputs` of the Function: how many of its first arguments may have a gradient; all where it does not say. One that
    `keeps` takes one more argument: whether a backward may come, so that what only that reads must be kept.
    """
    transformed, compiling = _C._are_functorch_transforms_active(), is_dynamo_compiling()
    if transformed and compiling:
        # Its backward would be left out, and nothing said.
        raise NotImplementedError("torch.func does not differentiate d2kernels' ops inside torch.compile")
    if transformed or compiling:
        call, kept = function.apply, True
    else:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, args)):
            op, oracle = _names(function)
            raise NotImplementedError(f"{op} has no forward-mode derivative; use backward, or {oracle}, which has one")
        kept = torch.is_grad_enabled() and _C._any_requires_grad(*args[: getattr(function, "inputs", None)])
        call = _joined(function) if kept else function.forward
    return call(*args, kept) if keeps else call(*args)


def recorded(*inputs: Tensor | None) -> bool:
    """Whether a gradient of one of these may be asked for, so that what only a backward reads must be kept."""
    if is_dynamo_compiling() or _C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and _C._any_requires_grad(*inputs)


@functools.cache
def _joined(op: Any) -> Callable[..., Any]:
    """The apply of an op's Function with setup_context inside forward.

    torch binds the arguments of one with a setup_context of its own to forward's signature at every call, which takes
    ten times as long as the rest.
    """
    run, setup_context = op.forward, op.setup_context

    def forward(ctx: Any, *args: Any) -> Any:
        out = run(*args)
        setup_context(ctx, args, out)
        ctx.asked = backends.asked()  # autograd runs the backward on threads that know nothing of this one's choice
        return out

    parts = {"forward": staticmethod(forward), "setup_context": torch.autograd.Function.setup_context}
    joined = type(op.__name__, (op,), parts | {"__module__": op.__module__})
    return super(torch.autograd.Function, joined).apply  # type: ignore[misc]


def without_gradient(call: Call, *args: Any) -> Any:
    """call(*args) of an op that has no derivative and may write to its arguments, whatever they ask for."""
    if not is_dynamo_compiling() and not (torch.is_grad_enabled() and _C._any_requires_grad(*args)):
        return call(*args)
    with torch.no_grad():
        return call(*args)


def constant(*args: Any) -> tuple[Any, ...]:
    """The arguments without gradients or tangents, for ops that have no derivative."""
    tangents = forward_ad._current_level >= 0
    if not tangents and not is_dynamo_compiling() and not _C._any_requires_grad(*args):
        return args
    return tuple(a.detach() if isinstance(a, Tensor) and (a.requires_grad or tangents) else a for a in args)


def _names(function: Any) -> tuple[str, str]:
    """An op's public name, and its differentiable form in plain PyTorch, of its Function."""
    folder = function.__module__
    op = getattr(function, "op", folder.rpartition(".")[2])
    return op, getattr(function, "oracle", f"{folder}.reference.{op}")


class _Once(torch.autograd.Function):
    """Passes a gradient on and raises when it is differentiated again."""

    @staticmethod
    def forward(names: tuple[str, str], gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.names = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        op, oracle = ctx.names
        raise RuntimeError(f"{op} has no second derivative; drop create_graph=True, or use {oracle}, which has one")


class _Read:
    """A Function's context whose saved tensors are asked for once: torch.utils.checkpoint hands them out once."""

    def __init__(self, ctx: Any):
        self._ctx, self.saved_tensors = ctx, ctx.saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a Function's backward as differentiable once: a second derivative raises, never is silently wrong."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> Any:
        if is_dynamo_compiling():
            return backward(ctx, *grads)
        asked = getattr(ctx, "asked", None)
        if not torch.is_grad_enabled():
            if not asked:
                return backward(ctx, *grads)
            with backends.resumed(asked):
                return backward(ctx, *grads)
        read = _Read(ctx)
        with torch.no_grad(), backends.resumed(asked or {}):
            out = backward(read, *grads)
        sources = [t for t in (*grads, *read.saved_tensors) if isinstance(t, Tensor) and t.requires_grad]
        if not sources:
            return out
        names = _names(ctx._forward_cls)
        wrap = [
            _Once.apply(names, g, *sources) if isinstance(g, Tensor) else g
            for g in (out if isinstance(out, tuple) else (out,))
        ]
        return tuple(wrap) if isinstance(out, tuple) else wrap[0]

    return wrapper
