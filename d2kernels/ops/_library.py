"""Registration of ops with torch.library: schema, fake kernel, and one implementation that picks the backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2kernels import backends

LIBRARY = torch.library.Library("d2k", "DEF")


def define(folder: str, name: str, signature: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers ``d2k::<name><signature>`` and returns the bound op.

    Args:
        folder: the op's folder under ops/, which is also its name in `backends`.
        name: the registered name; each backend module implements it as a function ``<name>`` with suffix
            ``_forward`` unless the name ends in ``_backward``.
        signature: torch.library schema, from the opening parenthesis on.
        fake: the fake kernel: output shapes and dtypes from input ones.
    """
    function = name if name.endswith("_backward") else f"{name}_forward"

    def run(*args: Any) -> Any:
        first = next(a for a in args if isinstance(a, Tensor))
        device = first.device.type
        call = getattr(backends.select(folder, device, first.dtype), function)
        if not torch.is_autocast_enabled(device):
            return call(*args)
        # The public function has cast what autocast casts; a backward runs under whatever is on by then.
        with torch.autocast(device, enabled=False):
            return call(*args)

    LIBRARY.define(name + signature)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"d2k::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.d2k, name).default


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """function.apply(*args), without what it costs where nothing needs a gradient or nothing transforms it."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    if not (torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)):
        return function.forward(*args)
    # Function.apply binds its arguments to forward's signature first, which takes ten times as long as the rest.
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


class _Once(torch.autograd.Function):
    """Passes a gradient on and raises when it is differentiated again."""

    @staticmethod
    def forward(name: str, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(f"{ctx.name} has no second derivative; drop create_graph=True or use its reference")


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a Function's backward as differentiable once: a second derivative raises, never is silently wrong."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            out = backward(ctx, *grads)
        sources = [t for t in (*grads, *ctx.saved_tensors) if isinstance(t, Tensor) and t.requires_grad]
        if not sources:
            return out
        name = backward.__qualname__.split(".")[0]
        wrap = [
            _Once.apply(name, g, *sources) if isinstance(g, Tensor) else g
            for g in (out if isinstance(out, tuple) else (out,))
        ]
        return tuple(wrap) if isinstance(out, tuple) else wrap[0]

    return wrapper
