"""tv_l1: native against the reference, both against OpenCV, and what has no interior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.tv_l1 import reference, schema
from d2kernels.verify.check import check

native_only = pytest.mark.skipif(not d2k.backends.can_run("tv_l1", "native"), reason="no compiled extension")
FEW = {"nscales": 2, "warps": 2, "inner_iterations": 5, "outer_iterations": 2, "epsilon": 0.0}


def texture(height, width, seed):
    """Noise of several sizes, from 0 to 1."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, height, width)
    for size in (2, 4, 8, 16):
        noise = torch.rand(1, 1, height // size + 2, width // size + 2, generator=random)
        total += size**0.7 * torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return ((total - total.min()) / (total.max() - total.min()))[0, 0]


def motion(kind, height, width):
    y, x = torch.meshgrid(torch.arange(height) - height / 2.0, torch.arange(width) - width / 2.0, indexing="ij")
    if kind == "shift":
        return torch.full_like(x, 2.3), torch.full_like(x, -1.4)
    if kind == "turn":
        return -0.04 * y, 0.04 * x
    inside = x.square() + y.square() < (min(height, width) / 4) ** 2  # a disc in front of a moving camera
    return torch.where(inside, 4.0, -1.0), torch.where(inside, 2.0, 0.5)


def moving(kind, height, width, seed=0, noise=0.01):
    """Two uint8 frames, and the flow (2, height, width) from the first to the second, right but at edges of motion."""
    edge = 20
    wide = texture(height + 2 * edge, width + 2 * edge, seed)
    u, v = motion(kind, height, width)
    y, x = torch.arange(height)[:, None] + edge - v, torch.arange(width) + edge - u
    grid = torch.stack([2 * x / (wide.shape[1] - 1) - 1, 2 * y / (wide.shape[0] - 1) - 1], -1)
    after = torch.nn.functional.grid_sample(wide[None, None], grid[None], mode="bicubic", align_corners=True)[0, 0]
    frames = torch.stack([wide[edge:-edge, edge:-edge], after])
    frames = frames + noise * torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed + 1))
    return *(frames * 255).clamp(0, 255).to(torch.uint8), torch.stack([u, v])


def endpoint(a, b):
    """Mean endpoint error in pixels."""
    return float((a - b).square().sum(-3).sqrt().mean())


def by(backend, *frames, **options):
    with d2k.backends.use(backend, "tv_l1"):
        return d2k.tv_l1(*frames, **options)


@pytest.mark.parametrize("kind", ["shift", "turn", "disc"])
@pytest.mark.parametrize(
    "options", [{}, {"median_filtering": 3, "scale_step": 0.5, "nscales": 3, "gamma": 0.2}], ids=str
)
def test_as_opencv(kind, options):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV has no optflow: opencv-contrib-python-headless has")
    before, after, _ = moving(kind, 89, 120)
    theirs = cv2.optflow.DualTVL1OpticalFlow_create(
        medianFiltering=options.get("median_filtering", 5), scaleStep=options.get("scale_step", 0.8),
        nscales=options.get("nscales", 5), gamma=options.get("gamma", 0.0),
    )  # fmt: skip
    want = torch.from_numpy(theirs.calc(before.numpy(), after.numpy(), None)).movedim(-1, 0)
    got = d2k.tv_l1(before[None], after[None], **options)[0]
    assert endpoint(got, want) < 0.1 < endpoint(want, 0 * want)
    floats = theirs.calc(before.numpy() / np.float32(255), after.numpy() / np.float32(255), None)
    got = d2k.tv_l1(before[None] / 255, after[None] / 255, **options)[0]
    assert endpoint(got, torch.from_numpy(floats).movedim(-1, 0)) < 0.1


@pytest.mark.parametrize("kind", ["shift", "turn"])
def test_finds_the_motion(kind):
    before, after, truth = moving(kind, 72, 90, noise=0)
    inner = (..., slice(10, -10), slice(10, -10))
    got = d2k.tv_l1(before[None], after[None])[0]
    assert endpoint(got[inner], truth[inner]) < 0.2
    back = d2k.tv_l1(after[None], before[None])[0]
    assert endpoint(back[inner], -truth[inner]) < 0.25


@native_only
def test_native_is_the_reference():
    assert check("tv_l1", "native", torch.device("cpu")) > 4


@native_only
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.sampled_from([0, 1, 3, 5]),
    st.sampled_from([0.0, 0.3]), st.sampled_from([0.5, 0.8, 0.97]), st.booleans(),
)  # fmt: skip
def test_every_size(height, width, seed, median, gamma, scale_step, whole):
    frames = torch.stack(moving("shift", height, width, seed)[:2])
    frames = frames if whole else frames / 255
    options = {**FEW, "median_filtering": median, "gamma": gamma, "scale_step": scale_step}
    got, want = (by(b, frames[:1], frames[1:], **options) for b in ("native", "reference"))
    assert got.shape == want.shape == (1, 2, height, width) and got.dtype == want.dtype == torch.float32
    assert endpoint(got, want) < 1e-3 and bool(got.isfinite().all())


def numpy_sizes(height, width, nscales, step):
    sizes = [(height, width)]
    for _ in range(nscales - 1):
        sizes.append(tuple(int(np.rint(s * step)) for s in sizes[-1]))
    return [s for i, s in enumerate(sizes) if i == 0 or all(min(t) >= 16 for t in sizes[1 : i + 1])]


def test_levels_of_the_pyramid():
    assert reference.levels(240, 320, 5, 0.8) == [(240, 320), (192, 256), (154, 205), (123, 164), (98, 131)]
    assert reference.levels(20, 320, 5, 0.8) == [(20, 320), (16, 256)]
    for height, width in ((15, 15), (16, 16), (25, 45), (65, 1000)):
        for step in (0.5, 0.7, 0.9, 0.99):
            assert reference.levels(height, width, 9, step) == numpy_sizes(height, width, 9, step)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native_only)])
def test_nothing_moves(backend):
    frames = torch.stack(moving("shift", 30, 40, noise=0)[:1] * 2)
    assert float(by(backend, frames[:1], frames[1:], **FEW).abs().max()) < 1e-4
    for value in (0, 255):
        flat = torch.full((1, 20, 30), value, dtype=torch.uint8)
        assert not by(backend, flat, flat, **FEW).any()


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native_only)])
def test_pairs_know_nothing_of_each_other(backend):
    kinds = ("shift", "turn", "disc", "shift", "disc")
    frames = torch.stack([torch.stack(moving(kind, 24, 33, seed)[:2]) for seed, kind in enumerate(kinds)])
    options = {**FEW, "epsilon": 0.02}
    together = by(backend, frames[:, 0], frames[:, 1], **options)  # neither is contiguous
    alone = [by(backend, a[None], b[None], **options)[0] for a, b in frames]
    assert torch.equal(together, torch.stack(alone))
    flipped = by(backend, frames[:, 0].flip(0), frames[:, 1].flip(0), **options)
    assert torch.equal(flipped, together.flip(0))
    video = frames[:, 0]
    assert torch.equal(
        by(backend, video[:-1], video[1:], **options)[2], by(backend, video[2:3], video[3:4], **options)[0]
    )
    assert by(backend, video[:0], video[:0]).shape == (0, 2, 24, 33)


@native_only
def test_an_error_small_enough_ends_a_warp():
    before, after, _ = moving("shift", 30, 40)
    pair = before[None], after[None]
    once = by("native", *pair, **{**FEW, "inner_iterations": 1, "outer_iterations": 1})
    # Anything is enough: one iteration a warp, however many are allowed.
    assert torch.equal(by("native", *pair, **{**FEW, "epsilon": 1e6}), once)
    assert not torch.equal(by("native", *pair, **FEW), once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats(dtype):
    frames = torch.stack(moving("shift", 20, 30)[:2]).to(dtype) / 255
    got = d2k.tv_l1(frames[:1], frames[1:], **FEW)
    assert got.dtype == torch.float32
    assert endpoint(got, d2k.tv_l1(frames[:1].float(), frames[1:].float(), **FEW)) < 1e-3


def test_says_what_is_wrong():
    x = torch.rand(2, 8, 9)
    for value in (math.nan, math.inf):
        bad = x.clone()
        bad[1, 3, 4] = value
        with pytest.raises(ValueError, match=r"tv_l1: next\[1\] has a NaN or an infinity; give finite"):
            d2k.tv_l1(x, bad)
    for previous, next, said in (
        (x[0], x[0], r"previous must be uint8 or floats .* got torch.float32 \(8, 9\)"),
        (x.long(), x.long(), "previous must be uint8 or floats"),
        (x, x[:1], r"next must be as previous, torch.float32 \(2, 8, 9\), got"),
        (x, (x * 255).byte()[..., :8], "next must be as previous"),
        (x[:, :0], x[:, :0], "previous must be 1 to 32767 pixels"),
    ):
        with pytest.raises(ValueError, match=f"tv_l1: {said}"):
            d2k.tv_l1(previous, next)
    with pytest.raises(TypeError, match="tv_l1: previous must be a tensor"):
        d2k.tv_l1(x.numpy(), x)
    for name, value in {"median_filtering": 4, "scale_step": 1.0, "tau": 0.0, "warps": 0, "nscales": 65}.items():
        with pytest.raises(ValueError, match=f"tv_l1: {name} must be"):
            d2k.tv_l1(x, x, **{name: value})


@native_only
def test_wild_brightness_stays_in_its_memory():
    module = d2k.backends.module("tv_l1", "native")
    rules = (0.25, 0.15, 0.3, 0.0, 0.0, 0.8, 2, 2, 3, 2, 5)
    for value in (math.nan, math.inf, -math.inf, 3e38, 1e-45):
        x = torch.rand(2, 20, 30)
        x[1, 5::7, ::3] = value
        flow = module.tv_l1_forward(x, x.flip(2), *rules)
        assert torch.equal(flow[:1], module.tv_l1_forward(x[:1], x[:1].flip(2), *rules))


@native_only
def test_opcheck_and_compile():
    x, y = torch.rand(2, 20, 18) * 255, torch.rand(2, 20, 18) * 255
    torch.library.opcheck(schema.tv_l1.op, (x, y, 0.25, 0.15, 0.3, 0.0, 0.0, 0.8, 2, 1, 3, 1, 5))
