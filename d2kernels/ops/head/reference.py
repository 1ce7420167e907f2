"""head and reference_score in plain PyTorch, the head differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels.ops._rows import accumulation_dtype, rows, segment_sum
from d2kernels.ops.foreground_score.reference import foreground_score
from d2kernels.ops.losses.reference import kept_videos
from d2kernels.ops.lowest_attention.reference import lowest_attention_forward


def _mean(x: Tensor, streams: int) -> Tensor:
    """(total, width): the mean over the streams of rows (total, streams · width)."""
    return x.to(accumulation_dtype(x.dtype)).unflatten(1, (streams, -1)).mean(1)


def head(
    z: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    streams: int,
    foreground_threshold: float,
    background_threshold: float,
    inclusive: bool,
    normalize: bool,
) -> tuple[Tensor, ...]:
    """T, λ, λ of own labels (or none), embeddings, masses, and x of each sequence's first row of lowest λ."""
    sequence, _, valid = rows(offsets, lengths, z.shape[0])
    wide = logits.to(accumulation_dtype(z.dtype)).unflatten(1, (streams, -1))
    activations = torch.where(valid[:, None], torch.sigmoid(wide).mean(1), 0)
    attention = activations.amax(1)
    own = attention.new_empty(0)
    if labels is not None:
        own = torch.zeros_like(attention)
        if lengths.shape[0]:
            mine = labels.bool()[sequence] & valid[:, None]
            best = activations.masked_fill(~mine, float("-inf")).amax(1)
            own = torch.where(mine.any(1), best, 0)
    x = _mean(z, streams)
    weights = torch.stack([attention, 1 - attention], 1)
    thresholds = weights.new_tensor([foreground_threshold, background_threshold])
    selected = ((weights >= thresholds) if inclusive else (weights > thresholds)) & valid[:, None]
    chosen = torch.where(selected, weights, 0)
    # Rows that are not selected are not multiplied, so that what they hold cannot leak.
    summed = segment_sum(chosen[:, :, None] * torch.where(selected[:, :, None], x[:, None], 0), offsets)
    mass = segment_sum(chosen, offsets)
    embedding = summed
    if normalize:
        embedding = summed / torch.where(mass > 0, mass, 1)[:, :, None]
    return activations, attention, own, embedding, mass, _lowest(x.detach(), attention.detach(), offsets, lengths)


def _lowest(x: Tensor, attention: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    if x.shape[0] == 0 or lengths.shape[0] == 0:
        return x.new_zeros((lengths.shape[0], x.shape[1]))
    place = lowest_attention_forward(attention, offsets, lengths)
    row = (offsets[:-1] + place).clamp(0, x.shape[0] - 1)
    return torch.where((lengths > 0)[:, None], x[row], 0)


def head_forward(*args: Tensor | int | float | None) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in head(*args))  # type: ignore[arg-type]


def head_backward(
    z: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    activations: Tensor,
    attention: Tensor,
    own: Tensor,
    embedding: Tensor,
    mass: Tensor,
    grad_activations: Tensor | None,
    grad_attention: Tensor | None,
    grad_own: Tensor | None,
    grad_embedding: Tensor | None,
    *options: int | float,
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (z, logits)]
        out = head(leaves[0], leaves[1], labels, offsets, lengths, *options)[:4]  # type: ignore[arg-type]
        grads = grad_activations, grad_attention, grad_own, grad_embedding
        pairs = [(x, g) for x, g in zip(out, grads, strict=True) if g is not None and x.requires_grad]
        if not pairs:
            return torch.zeros_like(z), torch.zeros_like(logits)
        values, weights = zip(*pairs, strict=True)
        found = torch.autograd.grad(values, leaves, weights, allow_unused=True)
    dense = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
    return dense[0].detach().contiguous(), dense[1].detach().contiguous()


def reference_score_forward(
    z: Tensor,
    reference: Tensor,
    candidate: Tensor,
    mass: Tensor,
    labels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    streams: int,
    min_snippets: int,
    momentum: float,
    score: bool,
) -> tuple[Tensor, Tensor]:
    has = (mass[:, 1] > 0) & kept_videos(lengths, labels.bool(), min_snippets)
    n = has.sum()
    mean = torch.where(has[:, None], candidate, 0).sum(0) / n.clamp(min=1)
    mixed = momentum * reference + (1 - momentum) * mean.to(reference.dtype)
    updated = torch.where(n > 0, mixed, reference)
    if not score:
        return updated, reference.new_empty(0)
    return updated, foreground_score(_mean(z, streams), updated, offsets, lengths)
