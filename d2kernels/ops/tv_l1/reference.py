"""tv_l1 in plain PyTorch, one pair after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

CUBIC = -0.75


def levels(height: int, width: int, nscales: int, scale_step: float) -> list[tuple[int, int]]:
    """Sizes of the pyramid, full size first."""
    found = [(height, width)]
    while len(found) < nscales:
        smaller = round(found[-1][0] * scale_step), round(found[-1][1] * scale_step)
        if min(smaller) < 16:
            break
        found.append(smaller)
    return found


def _between(size: int, scale: float, of: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For `size` pixels out of `of`, 1 / scale times as many: two neighbours of each and the share of the second."""
    place = ((torch.arange(size, device=like.device, dtype=torch.float64) + 0.5) * scale - 0.5).to(like.dtype)
    low = place.floor().clamp(0, of - 1)
    share = (place - low).clamp(min=0) * (low < of - 1)
    return low.long(), (low.long() + 1).clamp(max=of - 1), share


def _scaled(x: Tensor, size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """(…, h, w) -> (…, *size), bilinear, borders repeated."""
    for axis in (-1, -2):
        low, high, share = _between(size[axis], scale[axis], x.shape[axis], x)
        share = share if axis == -1 else share[:, None]
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def _central(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, borders repeated."""
    wide = pad(x[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    return (wide[1:-1, 2:] - wide[1:-1, :-2]) / 2, (wide[2:, 1:-1] - wide[:-2, 1:-1]) / 2


def _places(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Index of the first of a cubic's pixels in a row with 4 zeros on each side, and its (…, 4) weights."""
    place = at.nan_to_num(-3).clamp(-3, size + 1)
    low = place.floor()
    x = place - low
    y, a = 1 - x, CUBIC
    weights = [
        ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a,
        ((a + 2) * x - (a + 3)) * x * x + 1,
        ((a + 2) * y - (a + 3)) * y * y + 1,
    ]
    return low.long() + 3, torch.stack([*weights, 1 - weights[0] - weights[1] - weights[2]], -1)


def _warped(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(k, h, w) at x + u, y + v, cubic, zero outside."""
    height, width = u.shape
    column, across = _places(torch.arange(width, device=u.device, dtype=u.dtype) + u, width)
    line, down = _places(torch.arange(height, device=u.device, dtype=u.dtype)[:, None] + v, height)
    around = pad(images, (4, 4, 4, 4))
    taps = torch.arange(4, device=u.device)
    pixels = around[:, (line[..., None] + taps)[..., :, None], (column[..., None] + taps)[..., None, :]]
    return ((pixels * across[..., None, :]).sum(-1) * down).sum(-1)


def _median(u: Tensor, size: int) -> Tensor:
    """(c, h, w), borders repeated."""
    wide = pad(u[None], (size // 2,) * 4, mode="replicate")[0]
    return wide.unfold(1, size, 1).unfold(2, size, 1).flatten(-2).median(-1).values


def _divergence(p: Tensor) -> Tensor:
    """(c, 2, h, w) -> (c, h, w) by backward differences, zero before the first."""
    return p[:, 0] - pad(p[:, 0], (1, 0))[..., :-1] + p[:, 1] - pad(p[:, 1], (0, 0, 1, 0))[..., :-1, :]


def _gradient(u: Tensor) -> Tensor:
    """(c, h, w) -> (c, 2, h, w) by forward differences, zero at the end."""
    dx, dy = torch.zeros_like(u), torch.zeros_like(u)
    dx[..., :-1], dy[..., :-1, :] = u.diff(dim=-1), u.diff(dim=-2)
    return torch.stack([dx, dy], 1)


def _pair(
    before: Tensor,
    after: Tensor,
    tau: float,
    lambda_: float,
    theta: float,
    epsilon: float,
    gamma: float,
    scale_step: float,
    nscales: int,
    warps: int,
    inner_iterations: int,
    outer_iterations: int,
    median_filtering: int,
) -> Tensor:
    sizes = levels(before.shape[0], before.shape[1], nscales, scale_step)
    pyramid = [torch.stack([before, after])]
    for size in sizes[1:]:
        pyramid.append(_scaled(pyramid[-1], size, (1 / scale_step, 1 / scale_step)))
    # The channels of u are the flow and, where gamma is not 0, a change of brightness.
    u = before.new_zeros((3 if gamma else 2, *sizes[-1]))
    factor = torch.tensor([1 / scale_step, 1 / scale_step, 1], dtype=u.dtype, device=u.device)[: len(u), None, None]
    for i, images in enumerate(reversed(pyramid)):
        size = (images.shape[1], images.shape[2])
        if i:
            u = _scaled(u, size, (u.shape[1] / size[0], u.shape[2] / size[1])) * factor
        p = u.new_zeros((len(u), 2, *size))
        enough = epsilon**2 * size[0] * size[1]
        for _ in range(warps):
            warped, dx, dy = _warped(torch.stack([images[1], *_central(images[1])]), u[0], u[1])
            direction = torch.stack([dx, dy, *([torch.full_like(dx, gamma)] if gamma else [])])
            squared = (dx * dx + dy * dy).clamp(min=torch.finfo(torch.float32).eps)
            rest = warped - dx * u[0] - dy * u[1] - images[0]
            error = float("inf")
            for _ in range(outer_iterations):
                if error <= enough:
                    break
                if median_filtering > 1:
                    u = torch.cat([_median(u[:2], median_filtering), u[2:]])
                for _ in range(inner_iterations):
                    residual = rest + (direction * u).sum(0)
                    step = (-residual / squared).clamp(-lambda_ * theta, lambda_ * theta)
                    moved = u + step * direction + theta * _divergence(p)
                    error, u = float((moved - u).square().sum()), moved
                    change = tau / theta * _gradient(u)
                    p = (p + change) / (1 + change.square().sum(1, keepdim=True).sqrt())
                    if error <= enough:
                        break
    return u[:2].float()


def tv_l1_forward(previous: Tensor, next: Tensor, *rules: float) -> Tensor:
    n, height, width = previous.shape
    flow = torch.empty((n, 2, height, width), dtype=torch.float32, device=previous.device)
    for i in range(n):
        flow[i] = _pair(previous[i], next[i], *rules)  # type: ignore[arg-type]
    return flow
