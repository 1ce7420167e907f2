"""Losses, the reference update and gradients on stored batches (losses_*.npz), in float64 and float32."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import d2kernels as d2k
from d2net.config import make_config
from d2net.data.files import DataError
from d2net.methods.d2net.losses import compute_losses
from d2net.methods.d2net.losses.denoising import snippet_loss
from d2net.methods.d2net.losses.discriminative import embeddings, pair_weights
from d2net.methods.d2net.losses.options import denoising_scale, kept_videos, video_scores
from d2net.methods.d2net.losses.pairs import Permutations
from d2net.parity.checks import Case, Check, Golden, Scale, preset_of
from d2net.sections import LossConfig

# What a flag's words take out of the comparison.
UNWANTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "L_dis (use *_row_fixed)": ("bug 1: w_fb on the wrong video", ("L_dis", "grad_dis_tcam", "grad_dis_emb")),
    "crash of L_ds": ("", ()),
    "L_ds and its gradient": ("bug 3: singular 2x2", ("L_ds", "grad_ds_tcam", "lds_per_video")),
    "x_ref_after, lambda_prime and L_ds depend on": (
        "bug 5: arbitrary choice in a tie",
        ("x_ref_after", "lambda_prime", "L_ds", "grad_ds_tcam", "lds_per_video"),
    ),
}


class Precision(NamedTuple):
    """Name, dtype, tolerance and scale of losses and of what leads to them, tolerance of gradients."""

    name: str
    dtype: torch.dtype
    losses: float
    scale: Scale
    gradients: float


PRECISIONS = (
    Precision("float64", torch.float64, 1e-9, "largest", 1e-8),
    Precision("float32", torch.float32, 1e-5, "mixed", 2e-4),
)


def _unwanted(golden: Golden) -> dict[str, str]:
    flag = str(golden["flag"])
    known = [words for words in UNWANTED if words in flag]
    if "not wanted" in flag and not known:
        raise DataError(f"{golden.path}: no rule for the flag {flag!r}")
    return {quantity: UNWANTED[words][0] for words in known for quantity in UNWANTED[words][1]}


def whole_permutation(drawn: np.ndarray, n: int) -> Tensor:
    """A permutation of the first entries, made one of 0..n-1."""
    return torch.from_numpy(np.concatenate([drawn, np.arange(len(drawn), n)]).astype(np.int64))


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


class Batch(NamedTuple):
    """A stored batch: leaves tcam and emb are padded (B, T, ·), T and x ragged views of them."""

    tcam: Tensor
    emb: Tensor
    activations: d2k.Ragged
    x: d2k.Ragged
    labels: Tensor
    reference: Tensor
    permutations: Permutations


def _batch(golden: Golden, dtype: torch.dtype, device: torch.device) -> Batch:
    def tensor(key: str) -> Tensor:
        return torch.from_numpy(golden[key]).to(device, dtype)

    tcam, emb = tensor("tcam").requires_grad_(), tensor("emb").requires_grad_()
    lengths = torch.from_numpy(golden["seq_len"].astype(np.int64)).to(device)
    drawn = (golden[f"perm_{key}"] for key in ("fg", "bg", "x_fg", "x_bg"))
    return Batch(
        tcam,
        emb,
        d2k.Ragged.from_padded(tcam, lengths=lengths),
        d2k.Ragged.from_padded(emb, lengths=lengths),
        tensor("labels").bool(),
        tensor("x_ref_before")[0],
        Permutations(*(whole_permutation(p, len(lengths)).to(device) for p in drawn)),
    )


class Ties(NamedTuple):
    """Entries (B, T, C) whose share of a gradient is open, and the axes over which its sum is not."""

    entries: np.ndarray
    axes: tuple[int, ...]


def _ties(golden: Golden, config: LossConfig) -> dict[str, Ties]:
    """Of each loss: ties at the k-th largest of a class in time, and at a snippet's maximum over classes.

    torch.topk picks any of the tied entries; here they share.
    """
    tcam, lengths = golden["tcam"], golden["seq_len"]
    kept = np.isin(np.arange(len(lengths)), golden["kept_videos"])
    rows = (np.arange(tcam.shape[1]) < lengths[:, None]) & kept[:, None]
    scores = np.where(rows[..., None], tcam, -np.inf)
    up = config.pool_divisor - 1 if config.pool_rounding == "ceil" else 0
    k = np.maximum((lengths + up) // config.pool_divisor, 1)[:, None, None]
    kth = np.take_along_axis(np.sort(scores, 1), tcam.shape[1] - k, 1)
    at = rows[..., None] & (scores == kth)
    in_time = at & (at.sum(1, keepdims=True) > k - (scores > kth).sum(1, keepdims=True))

    def in_class(allowed: np.ndarray) -> np.ndarray:
        at = rows[..., None] & allowed & (scores == np.where(allowed, scores, -np.inf).max(2, keepdims=True))
        return at & (at.sum(2, keepdims=True) > 1)

    of_all = in_class(np.ones_like(at))
    of_own = in_class((golden["labels"] > 0)[:, None, :] & np.ones_like(at))
    return {
        "dis": Ties(in_time | of_all, (1, 2) if of_all.any() else (1,)),
        "dv": Ties(in_time, (1,)),
        "ds": Ties(of_all | of_own, (2,)),
    }


def _compare_losses(case: Case, golden: Golden, b: Batch, config: LossConfig, p: Precision) -> Tensor:
    """The terms, x_ref and every gradient; returns the updated reference."""
    iteration = next(i for i in itertools.count(1) if denoising_scale(config, i) == 1)
    out = compute_losses(
        b.activations, b.x, b.labels, b.reference, config, iteration=iteration, permutations=b.permutations
    )
    suffix = "_f32" if p.dtype == torch.float32 else ""
    crash = bool(str(golden["error"]))
    of_crash = "bug 2: 0 is meant" if crash else ""
    row_fixed = "L_dis_row_fixed" in golden
    case.compare(f"L_dis {p.name}", out.classification, golden[f"L_dis{suffix}"], p.losses, p.scale)
    if row_fixed:
        case.compare(f"L_dis_row_fixed {p.name}", out.classification, golden["L_dis_row_fixed"], p.losses, p.scale)
    case.compare(f"L_dv {p.name}", out.dv, golden[f"L_dv{suffix}"], p.losses, p.scale)
    case.compare(f"L_ds {p.name}", out.ds, 0.0 if crash else golden[f"L_ds{suffix}"], p.losses, p.scale, of_crash)
    case.compare(f"x_ref_after {p.name}", out.reference[None], golden[f"x_ref_after{suffix}"], p.losses, p.scale)

    zero_tcam, zero_emb = np.zeros(b.tcam.shape), np.zeros(b.emb.shape)
    wanted = [
        ("grad_dis_tcam", out.classification, b.tcam, golden["grad_dis_tcam"]),
        ("grad_dis_emb", out.classification, b.emb, golden["grad_dis_emb"]),
        ("grad_dv_tcam", out.dv, b.tcam, golden["grad_dv_tcam"]),
        ("grad_dv_emb", out.dv, b.emb, zero_emb),
        ("grad_ds_tcam", out.ds, b.tcam, zero_tcam if crash else golden["grad_ds_tcam"]),
        ("grad_ds_emb", out.ds, b.emb, zero_emb),
    ]
    if row_fixed:
        wanted += [
            ("grad_dis_tcam_row_fixed", out.classification, b.tcam, golden["grad_dis_tcam_row_fixed"]),
            ("grad_dis_emb_row_fixed", out.classification, b.emb, golden["grad_dis_emb_row_fixed"]),
        ]
    ties = _ties(golden, config)
    for key, loss, leaf, want in wanted:
        got, note = _gradient(loss, leaf).cpu().numpy(), ""
        tied = ties[key.split("_")[1]]
        if leaf is b.tcam and tied.entries.any():
            sums = got.sum(tied.axes), want.sum(tied.axes)
            case.compare(f"{key}_sums {p.name}", *sums, p.gradients, "largest")
            note = f"{tied.entries.sum()} tied entries enter by their sums"
            got, want = np.where(tied.entries, 0, got), np.where(tied.entries, 0, want)
        case.compare(f"{key} {p.name}", got, want, p.gradients, "largest", note)
    return out.reference


def _compare_steps(case: Case, golden: Golden, b: Batch, reference: Tensor, config: LossConfig, p: Precision) -> None:
    """What lies between input and losses; reference: x_ref after the update."""

    def compare(key: str, got: Tensor, want: np.ndarray) -> None:
        case.compare(f"{key} {p.name}", got, want, p.losses, p.scale)

    keep = kept_videos(b.activations.lengths, b.labels, config)
    case.compare(f"kept_videos {p.name}", keep.nonzero()[:, 0], golden["kept_videos"], 0)
    attention = b.activations.values.amax(1)
    compare("topk_mean", video_scores(b.activations, config)[keep], golden["topk_mean"])

    e = embeddings(b.x, attention, keep, config)
    weights = pair_weights(e, config, b.permutations)
    fg, bg = e.has_foreground.nonzero()[:, 0], e.has_background.nonzero()[:, 0]
    crossed = fg[b.permutations.x_foreground[: min(len(fg), len(bg))]]
    compare("w_ff_pairs", weights.foreground[fg], golden["w_ff_pairs"])
    compare("w_bb_pairs", weights.background[bg], golden["w_bb_pairs"])
    compare("w_fb_pairs", weights.cross[crossed], golden["w_fb_pairs"])

    foreground = d2k.foreground_score(b.x, reference)
    stored = golden["lambda_prime"]
    used = ~np.isnan(stored)
    padded, _ = foreground.padded(stored.shape[1])
    case.compare(f"lambda_prime {p.name}", padded[torch.from_numpy(used).to(padded.device)], stored[used], p.losses)
    term = snippet_loss(b.activations, attention, foreground.values, b.labels, keep, config)
    compare("lds_per_video", term.per_video[term.counted], golden["lds_per_video"])


def check_losses(name: str, golden: Golden, device: torch.device) -> list[Check]:
    """One batch through the released recipe, with the stored permutations."""
    case = Case(name, _unwanted(golden))
    preset = preset_of(golden["labels"].shape[1])
    config = make_config(preset, "release", {"loss.gamma": float(golden["gamma"])}).loss
    for precision in PRECISIONS:
        batch = _batch(golden, precision.dtype, device)
        reference = _compare_losses(case, golden, batch, config, precision)
        with torch.no_grad():
            _compare_steps(case, golden, batch, reference, config, precision)
    return case.checks
