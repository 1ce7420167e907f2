"""The objective by one call of the compiled extension, where nothing between its operations is asked for."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as hooks

from d2kernels.nn import TemporalConv1d
from d2kernels.ops.objective import Layer, Settings, objective, serves
from d2kernels.ops.objective import Network as Plan
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Objective, Step
from d2net.methods.d2net.losses.options import by_labels, denoising_scale, loss_options
from d2net.methods.d2net.losses.pairs import pair_keys
from d2net.methods.d2net.network import D2Net

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL = tuple(f"_global{name}" for name in _HOOKS)


def _hooked(module: nn.Module) -> bool:
    held = module.__dict__
    return any(held[name] for name in _HOOKS) or "forward" in held


def _plan(network: D2Net) -> Plan | None:
    """The network's layers as they were made; None where one of them was changed or is looked at."""
    parts = network._modules
    convs = parts["conv1"], parts["conv2"], parts["classifier"]
    if type(network) is not D2Net or any(getattr(hooks, name) for name in _GLOBAL):
        return None
    if any(callable(value) for name, value in network.__dict__.items() if name[0] != "_"):  # a method of this one's own
        return None
    layers = []
    for conv in convs:
        if type(conv) is not TemporalConv1d or _hooked(conv):
            return None
        weight, bias = conv._parameters.get("weight"), conv._parameters.get("bias")
        if weight is None or bias is None or conv.groups != network.streams:
            return None
        layers.append(Layer(weight, bias, conv.dilation))
    first, second, classifier = convs
    same = (first.negative_slope, first.residual) == (second.negative_slope, second.residual)
    plain = classifier.negative_slope is None and not classifier.residual
    if not same or not plain or (first.dropout and first.training) or (classifier.dropout and classifier.training):
        return None
    dropout = second.dropout if second.training else 0.0
    return Plan(tuple(layers), network.streams, second.negative_slope, second.residual, dropout)  # type: ignore[arg-type]


def objective_at_once(network: D2Net, batch: Batch, config: Config, step: Step) -> Objective | None:
    """Eq. 1 and its gradients in the bits of `objective`, or None where only that can tell."""
    loss = config.loss
    if batch.whole is not None or step.others is not None or config.train.precision != "fp32":
        return None
    scale = denoising_scale(loss, step.iteration)
    if scale and loss.denoising_kind != "pDMI":
        return None
    plan = _plan(network)
    if plan is None:
        return None
    options = loss_options(loss, scale > 0, tuple(batch.labels.shape))
    given = batch.features, batch.offsets, batch.lengths, batch.labels, network.reference
    if step.clock is None or not serves(plan, *given, options, step.clock):
        return None
    seed = torch.randint(-(1 << 63), (1 << 63) - 1, (1,)) if plan.dropout else None
    random = loss.classification == "Dis" and loss.pairs == "random"
    total, terms, updated = objective(
        plan,
        *given,
        Settings(
            loss.pool_divisor,
            loss.pool_rounding == "ceil",
            loss.foreground_threshold,
            loss.background_threshold,
            loss.inclusive,
            loss.normalize_embeddings,
            by_labels(loss, step.iteration),
            loss.reference_source == "lowest",
            loss.min_snippets,
            loss.reference_momentum,
        ),
        options,
        iteration=step.clock,
        seed=seed,
        keys=pair_keys(len(batch.lengths), batch.features.device, step.generator) if random else None,
    )
    return Objective(total, terms, updated, network.reference)
