"""D2-Net's whole objective as one operation: Eqs. 3, 4, 9 and 10 with their gradients, from what the head pools."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from d2kernels._arguments import flag, number, whole
from d2kernels.ops._library import apply, once, takes_as
from d2kernels.ops.losses import schema
from d2kernels.ops.losses.schema import PAIRS, Options

__all__ = ["PAIRS", "Options", "Terms", "losses"]


class Terms(NamedTuple):
    """0-d each, differentiable: the weighted total and its unweighted terms."""

    total: Tensor
    classification: Tensor
    ds: Tensor
    dv: Tensor


# What `number` holds each option against; thresholds may be infinite.
_NUMBERS: dict[str, dict[str, Any]] = {
    "clamp": {"least": 0, "below": 0.5},
    "gamma": {"least": 0},
    "beta": {"least": 0},
    "pair_warmup": {"least": 0},
    "denoising_start": {"least": 0},
    "denoising_warmup": {"least": 0},
    "snippet_weight": {"least": 0},
    "video_weight": {"least": 0},
    "foreground_threshold": {"finite": False},
    "background_threshold": {"finite": False},
    "floor": {"least": 0},
    "rtol": {"above": 0, "below": 1},
    "relative_floor": {"least": 0, "below": 1},
    "video_atol": {"least": 0},
    "video_rtol": {"least": 0},
}
_FLAGS = tuple(name for name, default in Options._field_defaults.items() if isinstance(default, bool))


def _checked(options: Options) -> Options:
    """The options as plain Python values, each in its range; those of a training are looked at once."""
    if not isinstance(options, Options):
        raise TypeError(f"losses: options must be Options, got {type(options).__name__}")
    if not is_dynamo_compiling():
        try:
            return _kept(*options)
        except TypeError:  # no key, or no option
            pass
    return _found(*options)


def _found(*given: Any) -> Options:
    options = Options(*given)
    values: dict[str, Any] = {name: flag("losses", f"options.{name}", getattr(options, name)) for name in _FLAGS}
    for name, bounds in _NUMBERS.items():
        value = getattr(options, name)
        if name != "relative_floor" or value is not None:
            values[name] = number("losses", f"options.{name}", value, **bounds)
    values["min_snippets"] = whole("losses", "options.min_snippets", options.min_snippets, least=0)
    values["pairs"] = whole("losses", "options.pairs", options.pairs, least=0, most=len(PAIRS) - 1)
    return Options(*[values.get(name, getattr(options, name)) for name in Options._fields])


_kept = lru_cache(maxsize=64, typed=True)(_found)  # typed: True is no 1


class _Losses(torch.autograd.Function):
    inputs = 5

    # One tensor in both places comes once, as torch.compile asks of a Function's inputs.
    @staticmethod
    @takes_as(schema.losses)
    def forward(
        p: Tensor, embedding: Tensor, mass: Tensor, on: Tensor | None, off: Tensor | None, *rest: Any
    ) -> tuple[Tensor, ...]:
        return schema.losses(p, embedding, mass, on, on if off is None else off, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        score, offsets, lengths = inputs[5], inputs[7], inputs[8]
        options = Options(*inputs[11:])
        ctx.save_for_backward(*output[4:], score, offsets, lengths)
        ctx.shared = inputs[4] is None
        ctx.thresholds = options.foreground_threshold, options.background_threshold
        ctx.mark_non_differentiable(*output[4:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        rest = (None,) * (6 + len(Options._fields))
        if all(g is None for g in grads[:4]):
            return (None,) * 5 + rest
        p, embedding, on, off = schema.losses_backward(*grads[:4], *ctx.saved_tensors, *ctx.thresholds)
        wanted = ctx.needs_input_grad
        if ctx.shared:
            on = on + off if wanted[3] else on
        return (
            p if wanted[0] else None,
            embedding if wanted[1] else None,
            None,
            on if wanted[3] else None,
            off if wanted[4] else None,
            *rest,
        )


def losses(
    p: Tensor,
    embedding: Tensor,
    mass: Tensor,
    labels: Tensor,
    options: Options,
    *,
    iteration: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    foreground_attention: Tensor | None = None,
    background_attention: Tensor | None = None,
    foreground: Tensor | None = None,
    pairs_drawn: Tensor | None = None,
) -> Terms:
    """The objective of Eq. 1 and its terms.

    total = L_Dis + s (snippet_weight L_DS + video_weight L_DV) with the schedule's s at `iteration`. Videos shorter
    than min_snippets or without a label enter nothing. All gradients are made by the forward pass; nothing waits for
    the device.

    Args:
        p: (n, C) video-level scores, float32 or float64; clamped to [clamp, 1 - clamp] where clamp > 0.
        embedding: (n, 2, D) foreground and background embeddings of p's dtype, and mass (n, 2), positive where there
            is one.
        labels: (n, C) bool.
        options: pairs is an index of `PAIRS`; torch_cosine: F.cosine_similarity, else 1e-12 is added to each squared
            norm; per_entry: positives x C and the mean over all entries, else the sum over classes and the mean over
            videos; denoising_start, denoising_warmup and pair_warmup in iterations; snippet and video: whether L_DS
            and L_DV take part, with the arguments of `pdmi_snippet` and `pdmi_video`.
        iteration: 0-d int64 on p's device, from 1.
        offsets, lengths: (n + 1,) and (n,) int64, of the rows and of the videos.
        foreground_attention, background_attention: (total,) λ of a pseudo-foreground and of a pseudo-background
            row; foreground: (total,) λ', without gradient; all three where options.snippet. The second may be the
            first.
        pairs_drawn: where pairs are random: int64 permutations (4, n) of `Permutations`, or floats (4, n) whose
            order they are.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value.
    """
    options = _checked(options)
    dtype, shape = p.dtype, p.shape
    if len(shape) != 2 or (dtype is not torch.float32 and dtype is not torch.float64):
        raise TypeError(f"losses: p must be float32 or float64 (n, C), got {dtype} {tuple(shape)}")
    n = shape[0]
    expected = [
        ("embedding", embedding, dtype, (n, 2, embedding.shape[-1] if embedding.dim() else 0)),
        ("mass", mass, dtype, (n, 2)),
        ("labels", labels, torch.bool, (n, shape[1])),
        ("offsets", offsets, torch.int64, (n + 1,)),
        ("lengths", lengths, torch.int64, (n,)),
        ("iteration", iteration, torch.int64, ()),
    ]
    if options.snippet:
        if foreground is None or foreground_attention is None or background_attention is None:
            raise TypeError("losses: options.snippet needs foreground_attention, background_attention and foreground")
        total = (foreground.shape[0] if foreground.dim() else 0,)
        expected += [
            ("foreground", foreground, dtype, total),
            ("foreground_attention", foreground_attention, dtype, total),
            ("background_attention", background_attention, dtype, total),
        ]
    else:
        foreground = foreground_attention = background_attention = None
    if PAIRS[options.pairs] == "random":
        if pairs_drawn is None:
            raise TypeError("losses: random pairs need pairs_drawn")
        kind = pairs_drawn.dtype if pairs_drawn.is_floating_point() else torch.int64
        expected.append(("pairs_drawn", pairs_drawn, kind, (4, n)))
    else:
        pairs_drawn = None
    device = p.device
    for name, x, kind, size in expected:
        if x.dtype is not kind or x.shape != size or x.device != device:
            raise ValueError(
                f"losses: {name} must be {kind} {size} on {device}, got {x.dtype} {tuple(x.shape)} on {x.device}"
            )
    off = None if background_attention is foreground_attention else background_attention
    out = apply(
        _Losses,
        p,
        embedding,
        mass,
        foreground_attention,
        off,
        foreground.detach() if foreground is not None and foreground.requires_grad else foreground,
        labels,
        offsets,
        lengths,
        pairs_drawn,
        iteration,
        *options,
    )
    return Terms(*out[:4])
