"""Dense optical flow by total variation and L1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2kernels._arguments import number, whole
from d2kernels.ops._library import constant
from d2kernels.ops.tv_l1 import schema
from d2kernels.ragged import _values_can_be_checked

LARGEST = 32767  # pixels a side, as OpenCV's


def _frames(name: str, x: Tensor) -> Tensor:
    """Checked brightness from 0 to 255, float32; float64 stays, for the reference's sake."""
    if not isinstance(x, Tensor):
        raise TypeError(f"tv_l1: {name} must be a tensor (n, height, width), got {type(x).__name__}")
    if x.dim() != 3 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(
            f"tv_l1: {name} must be uint8 or floats (n, height, width) of grey frames, got {x.dtype} {tuple(x.shape)}"
        )
    if not (1 <= x.shape[1] <= LARGEST and 1 <= x.shape[2] <= LARGEST):
        raise ValueError(f"tv_l1: {name} must be 1 to {LARGEST} pixels high and wide, got {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.float()
    scaled = (x if x.dtype == torch.float64 else x.float()) * 255
    # A sum that is finite has no other summands.
    if _values_can_be_checked(scaled) and not math.isfinite(scaled.sum().item()):
        wrong = (~scaled.isfinite()).flatten(1).any(1).nonzero()
        if len(wrong):
            frame = int(wrong[0])
            raise ValueError(f"tv_l1: {name}[{frame}] has a NaN or an infinity; give finite brightness from 0 to 1")
    return scaled


def tv_l1(
    previous: Tensor,
    next: Tensor,
    *,
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    nscales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    scale_step: float = 0.8,
    gamma: float = 0.0,
    median_filtering: int = 5,
) -> Tensor:
    """Optical flow (u, v) that minimises ∫ |∇u| + |∇v| + λ |next(x + u, y + v) − previous(x, y)|, from coarse to fine.

    The scheme, its parameters and their defaults are those of OpenCV's DualTVL1OpticalFlow: bilinear pyramid, cubic
    warps with black outside (OpenCV 4 rounds them to 32nds of a pixel, 5 and this do not), duality with a relaxed data
    term, medians between outer iterations. The mean endpoint error against it is within 0.1 pixel. A pair's flow does
    not depend on the other pairs. For a video, `previous` and `next` may be `frames[:-1]` and `frames[1:]`, views of
    one tensor: what they share, the pyramid, is a thousandth of the work.

    Args:
        previous, next: (n, height, width) grey frames, uint8, or floats from 0 to 1.
        tau: time step of the dual variables. lambda_: weight of the data term. theta: tightness.
        nscales: levels of the pyramid; none under 16 pixels. scale_step: a level's size by the one before.
        warps: warps a level. epsilon: root mean square change of the flow, in pixels, that ends a warp's iterations.
        inner_iterations, outer_iterations: of each warp at most; before each outer one the flow is median filtered.
        gamma: weight of a change of brightness that is estimated along with the flow; 0 for none.
        median_filtering: width of the median filter, 3 or 5; 0 or 1 for none.

    Returns:
        (n, 2, height, width) float32 pixels, x before y, from previous to next. Not differentiable.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or value; NaN on the CPU. On a GPU a NaN spoils the
            flow of its own pair.
    """
    numbers = {
        "tau": number("tv_l1", "tau", tau, above=0),
        "lambda_": number("tv_l1", "lambda_", lambda_, above=0),
        "theta": number("tv_l1", "theta", theta, above=0),
        "epsilon": number("tv_l1", "epsilon", epsilon, least=0),
        "gamma": number("tv_l1", "gamma", gamma, least=0),
        "scale_step": number("tv_l1", "scale_step", scale_step, above=0, below=1),
    }
    counts = {
        "nscales": whole("tv_l1", "nscales", nscales, most=64),
        "warps": whole("tv_l1", "warps", warps, most=10_000),
        "inner_iterations": whole("tv_l1", "inner_iterations", inner_iterations, most=10_000),
        "outer_iterations": whole("tv_l1", "outer_iterations", outer_iterations, most=10_000),
        "median_filtering": whole("tv_l1", "median_filtering", median_filtering, least=0, most=5),
    }
    if counts["median_filtering"] not in (0, 1, 3, 5):
        raise ValueError(f"tv_l1: median_filtering must be 3 or 5, or 0 or 1 for none, got {median_filtering}")
    previous, next = constant(_frames("previous", previous), _frames("next", next))
    if previous.shape != next.shape or previous.dtype != next.dtype:
        raise ValueError(
            f"tv_l1: next must be as previous, {previous.dtype} {tuple(previous.shape)}, got {next.dtype} "
            f"{tuple(next.shape)}"
        )
    return schema.tv_l1(previous, next, *numbers.values(), *counts.values())
