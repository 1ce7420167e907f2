"""D2-Net's objective of a batch on the CPU in one call of csrc: network, head, losses and the gradients of all weights.

The ops by themselves give the same bits; what this leaves out is what lies between them: their checks, autograd's
books, the dispatcher and a tensor for every intermediate result.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import _profiler_enabled, forward_ad
from torch.nn import Parameter
from torch.profiler import record_function

from d2kernels import _native, backends
from d2kernels.ops._library import apply, once, watched
from d2kernels.ops.condition_number.native import LARGEST
from d2kernels.ops.losses import Options
from d2kernels.ops.temporal_conv import products
from d2kernels.ops.temporal_conv.dropout import threshold

_OPS = ("temporal_conv", "head", "topk_pool", "losses")


class Layer(NamedTuple):
    """A temporal_conv of streams apart: weight (streams · c_out, c_in, k), bias (streams · c_out,), dilation."""

    weight: Tensor
    bias: Tensor
    dilation: int


class Network(NamedTuple):
    """Two layers with LeakyReLU and residual, dropout on the second one's output, and the classifier."""

    layers: tuple[Layer, Layer, Layer]
    streams: int
    negative_slope: float | None
    residual: bool
    dropout: float


class Settings(NamedTuple):
    """Of top-k pooling, `head` and `reference_score`; by_labels: whether L_DS takes own_attention."""

    divisor: int
    ceil: bool
    foreground_threshold: float
    background_threshold: float
    inclusive: bool
    normalize: bool
    by_labels: bool
    lowest: bool
    min_snippets: int
    momentum: float


def _plain(x: Tensor, dtype: torch.dtype, *shape: int) -> bool:
    kind = x.__class__
    mine = (kind is Tensor or kind is Parameter) and x.is_cpu and x.dtype is dtype and x.shape == shape
    return mine and x.is_contiguous() and not x.is_neg()


def serves(
    network: Network,
    features: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    labels: Tensor,
    reference: Tensor,
    options: Options,
    iteration: Tensor,
) -> bool:
    """Whether `objective` may take the place of the ops: on a CPU that has the products, where nothing watches them.

    What does not fit each other is left to the ops, which say what it is.
    """
    if watched() or forward_ad._current_level >= 0 or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_anomaly_enabled() or features.requires_grad or labels.dim() != 2 or features.dim() != 2:
        return False
    (total, width), (n, classes), streams = features.shape, labels.shape, network.streams
    if not total or width % streams or (options.video and min(n, classes) > LARGEST["cpu"]):
        return False
    of_batch = _plain(features, torch.float32, total, width) and _plain(labels, torch.bool, n, classes)
    placed = _plain(offsets, torch.int64, n + 1) and _plain(lengths, torch.int64, n)
    of_run = _plain(iteration, torch.int64) and _plain(reference, torch.float32, width // streams)
    if not (of_batch and placed and of_run):
        return False
    for op in _OPS:
        if not backends.select(op, "cpu", torch.float32).__name__.endswith(".native"):
            return False
    for (weight, bias, dilation), c_out in zip(network.layers, (width, width, streams * classes), strict=True):
        if weight.dim() != 3 or weight.shape[2] % 2 == 0:
            return False
        if not _plain(weight, torch.float32, c_out, width // streams, weight.shape[2]):
            return False
        if not _plain(bias, torch.float32, c_out) or not (weight.requires_grad and bias.requires_grad):
            return False
        if not products.serve(features, weight, dilation, streams):
            return False
    return True


class _Known(torch.autograd.Function):
    """A scalar whose gradients are there already."""

    op, oracle = "objective", 'the ops under d2kernels.backends.use("reference")'

    @staticmethod
    def forward(total: Tensor, count: int, *given: Tensor) -> Tensor:
        return total.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.count = inputs[1]
        ctx.save_for_backward(*inputs[2:])  # the weights too: `once` looks there for what may be differentiated again

    @staticmethod
    @once
    def backward(ctx: Any, by_total: Tensor) -> tuple:
        gradients = ctx.saved_tensors[: ctx.count]
        if float(by_total) != 1:
            gradients = [g * by_total for g in gradients]
        return None, None, *(None,) * ctx.count, *gradients


def objective(
    network: Network,
    features: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    labels: Tensor,
    reference: Tensor,
    settings: Settings,
    options: Options,
    *,
    iteration: Tensor,
    seed: Tensor | None,
    keys: Tensor | None,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The total loss, its three terms, and x_ref after the step, where `serves` allows it.

    Args:
        features: rows (total, streams · D), without a gradient; offsets (n + 1,), lengths (n,), labels (n, C) bool.
        reference: x_ref (D,).
        options: of `losses`; iteration: 0-d int64, from 1.
        seed: (1,) int64, of dropout; None where there is none.
        keys: (4, n) float32, of random pairs.

    Returns:
        total, 0-d, differentiable by the weights, once; its three terms, 0-d each, and x_ref (D,), without gradient.
    """
    native, streams = _native.module(), network.streams
    gradients: list[Tensor] = []
    weights: list[Tensor] = []
    layers = []
    for weight, bias, dilation in network.layers:
        c_out, c_in, taps = weight.shape
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        gradients += of_weight, of_bias
        weights += weight, bias
        fast = products.winograd(weight, dilation, streams)
        layers.append((c_in, c_out // streams, taps, dilation, fast, weight, bias, of_weight, of_bias))
    least = 0 if seed is None else threshold(network.dropout)
    dropping = (0, 0, 0, 1.0) if seed is None or not least else (int(seed), 0, least, 1 / (1 - network.dropout))
    floored = options.relative_floor is not None
    problem = (
        *(offsets, lengths, lengths.shape[0], features.shape[0]),
        *(features, labels, streams, labels.shape[1]),
        *layers,
        network.negative_slope,
        network.residual,
        dropping,
        *settings[:7],
        reference,
        *settings[7:],
        keys,
        iteration,
        (*options[:21], floored, options.relative_floor if floored else 0.0, *options[22:]),
    )
    terms, updated = features.new_empty(4), torch.empty_like(reference)
    workspace = torch.empty(native.objective_workspace_cpu(problem), dtype=torch.uint8)
    with record_function("d2k::objective") if _profiler_enabled() else nullcontext():
        native.objective_cpu(problem, terms, updated, workspace, torch.get_num_threads())
    total, *rest = terms.unbind()
    return apply(_Known, total, len(gradients), *gradients, *weights), rest, updated
