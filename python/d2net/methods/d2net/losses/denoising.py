"""L_DS and L_DV (Eqs. 5, 7, 9 to 11) and the losses the paper compares them with."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import d2kernels as d2k
from d2net.sections import LossConfig


class SnippetTerm(NamedTuple):
    """The loss, each video's value (n,), and which videos entered the mean (n,)."""

    loss: Tensor
    per_video: Tensor
    counted: Tensor


class VideoTerm(NamedTuple):
    """The loss, and 1 where the batch was skipped for want of rank, else 0."""

    loss: Tensor
    skipped: Tensor


def foreground_attention(activations: d2k.Ragged, labels: Tensor) -> Tensor:
    """max over the video's own labels of T, (total,); 0 in a video without a label."""
    own = labels[activations.sequence_index()]
    best = activations.values.masked_fill(~own, float("-inf")).amax(1)
    return torch.where(own.any(1), best, 0)


def masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    counted = counted & values.isfinite()
    return torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)


def snippet_loss(
    activations: d2k.Ragged,
    attention: Tensor,
    foreground: Tensor,
    labels: Tensor,
    keep: Tensor,
    config: LossConfig,
) -> SnippetTerm:
    """The snippet-level term; arguments as `snippet_values`."""
    value, counted = snippet_values(activations, attention, foreground, labels, keep, config)
    return SnippetTerm(masked_mean(value, counted), value.detach(), counted)


def snippet_values(
    activations: d2k.Ragged,
    attention: Tensor,
    foreground: Tensor,
    labels: Tensor,
    keep: Tensor,
    config: LossConfig,
) -> tuple[Tensor, Tensor]:
    """Each video's value (n,), and which of them enter the mean (n,).

    Args:
        activations: T, rows (total, C).
        attention: λ (total,), the max of T over all classes.
        foreground: λ' (total,), without gradient.
        labels: (n, C) bool; keep: (n,) bool.
    """
    on_foreground = foreground_attention(activations, labels) if config.ds_attention == "labels" else attention
    joint = d2k.pdmi_snippet(
        activations.with_values(on_foreground),
        foreground,
        background_attention=attention,
        foreground_threshold=config.ds_foreground_threshold,
        background_threshold=config.ds_background_threshold,
        normalization=config.ds_normalization,
        floor=config.ds_floor,
        rtol=config.ds_rtol,
    )
    counted = keep
    two_sided = (joint.foreground_count > 0) & (joint.background_count > 0)
    if config.ds_skip_one_sided or config.denoising_kind != "pDMI":
        counted = counted & two_sided
    if config.ds_polarity == "forward":
        # A one-sided video has no polarity.
        counted = counted & ~(two_sided & (joint.foreground_mean < joint.background_mean))
    if config.denoising_kind == "pDMI":
        value = joint.value
    else:
        value = _alternative(activations, on_foreground, attention, foreground, config)
    return value, counted


def _alternative(
    activations: d2k.Ragged, on_foreground: Tensor, attention: Tensor, foreground: Tensor, config: LossConfig
) -> Tensor:
    """(n,) values of DMI (Eq. 5), L1 or BCE over the snippets that λ' puts on either side."""
    is_fg = foreground > config.ds_foreground_threshold
    is_bg = foreground < config.ds_background_threshold
    level = torch.where(is_fg, on_foreground, attention)
    sides = torch.stack([is_fg, is_bg, is_fg | is_bg], 1).to(level.dtype)
    if config.denoising_kind == "L1":
        level = (level - is_fg.to(level.dtype)).abs()
    elif config.denoising_kind == "BCE":
        level = F.binary_cross_entropy(level, is_fg.to(level.dtype), reduction="none")
    pooled = d2k.attention_pool(activations.with_values(level[:, None]), sides, normalize=True)
    mean, mass = pooled.embedding[..., 0], pooled.mass
    if config.denoising_kind != "DMI":
        return mean[:, 2]
    determinant = (mean[:, 0] - mean[:, 1]).abs()
    if config.ds_normalization == "joint":
        determinant = determinant * mass[:, 0] * mass[:, 1] / mass[:, 2].clamp(min=1).square()
    return -determinant.clamp(min=config.ds_rtol).log()


def video_loss(p: Tensor, labels: Tensor, keep: Tensor, config: LossConfig) -> VideoTerm:
    """The video-level term of Eq. 10; p: (n, C) scores, labels: (n, C) bool, keep: (n,) bool."""
    none = torch.zeros((), dtype=torch.int64, device=p.device)
    if config.denoising_kind == "DMI":
        return _determinant_loss(p, labels, keep, config)
    term = d2k.pdmi_video(
        p,
        labels,
        keep=keep,
        relative_floor=config.dv_relative_floor,
        normalize_rows=config.dv_normalize_rows,
        label_normalization=config.dv_label_normalization,
        atol=config.dv_atol,
    )
    return VideoTerm(term.value, none)


def _determinant_loss(p: Tensor, labels: Tensor, keep: Tensor, config: LossConfig) -> VideoTerm:
    """-log|det U₂| over the classes present; 0 and counted where their label columns are not independent."""
    p64 = p.double()
    y = (labels & keep[:, None]).double()
    if config.dv_relative_floor is not None:
        p64 = torch.where(p64 > config.dv_relative_floor * p64.amax(1, keepdim=True), p64, 0)
    if config.dv_normalize_rows:
        p64 = p64 / p64.sum(1, keepdim=True).clamp(min=1e-12)
    per_class = y.sum(0)
    present = per_class > 0
    scale = per_class.clamp(min=1) if config.dv_label_normalization == "class" else keep.sum().clamp(min=1)
    joint = (y / scale).T @ p64
    # Absent classes become an identity block, so that the determinant is that of the present ones.
    joint = torch.where(present[:, None] & present, joint, torch.diag((~present).double()))
    independent = (torch.linalg.svdvals(y) > 1e-9).sum() == present.sum()
    usable = independent & present.any() & (torch.linalg.svdvals(joint.detach())[-1] > 1e-12)
    safe = torch.where(usable, joint, torch.eye(len(present), dtype=joint.dtype, device=joint.device))
    value = torch.where(usable, -torch.linalg.slogdet(safe).logabsdet, 0)
    return VideoTerm(value.to(p.dtype), (~usable).long())
