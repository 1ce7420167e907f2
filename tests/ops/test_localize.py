"""localize against a loop over videos, classes, thresholds and snippets."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.localize import Detections, schema
from d2kernels.ops.localize.capacity import NOT_A_NUMBER, PADDING

NAN, INF = float("nan"), float("inf")
native_only = pytest.mark.skipif(not d2k.backends.can_run("localize", "native"), reason="no compiled extension")
BACKENDS = ["reference", pytest.param("native", marks=native_only)]
PAPER = {"thresholds": [i / 40 for i in range(1, 21)], "iou_threshold": 0.5, "keep_ratio": 0.1}


@pytest.fixture(scope="module", params=BACKENDS, autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "localize"):
        yield request.param


def prepared(x, smoothing, upsample):
    """(s, C) after the moving average and the linear interpolation."""
    s, half = len(x), smoothing // 2
    if smoothing > 1 and s:
        x = np.stack([np.nan_to_num(x[max(0, t - half) : t + half + 1]).mean(0) for t in range(s)])
    at = [min(max((j + 0.5) / upsample - 0.5, 0), s - 1) for j in range(s * upsample)]
    rows = [(math.floor(a), min(math.floor(a) + 1, s - 1), a - math.floor(a)) for a in at]
    return np.stack([x[low] * (1 - w) + x[high] * w for low, high, w in rows]) if upsample > 1 and s else x


def runs(x, levels):
    """Distinct runs [b, e) above a level, lowest level first, then by start."""
    seen = {}
    for level in levels:
        b = None
        for t, on in enumerate([*(x > level), False]):
            if on and b is None:
                b = t
            elif not on and b is not None:
                seen[b, t] = b = None
    return list(seen)


def contrast(x, b, e, margin, outer):
    x, reach = np.nan_to_num(x), max(1, math.floor((e - b) * margin))
    sides = [x[max(0, b - reach) : b], x[e : e + reach]]
    if outer == "pooled":
        sides = [np.concatenate(sides)]
    means = [side.sum() / len(side) for side in sides if len(side)]
    return x[b:e].sum() / (e - b) - (sum(means) / len(means) if means else 0.0)


def suppressed(left, threshold, inclusive, sigma):
    """left: (b, e, score) in order of generation; what hard or Gaussian suppression leaves."""
    out = []
    while left:
        best, rest, left = max(left, key=lambda f: f[2]), left, []
        rest.remove(best)
        out.append(best)
        for b, e, score in rest:
            both = max(0, min(e, best[1]) - max(b, best[0]))
            iou = both / ((e - b) + (best[1] - best[0]) - both)
            if sigma is not None:
                left.append((b, e, score * math.exp(-(iou**2) / sigma) if score > 0 else score))
            elif iou < threshold or (iou == threshold and not inclusive):
                left.append((b, e, score))
    return out


def oracle(
    videos, *, thresholds, iou_threshold, class_mask=None, margin=0.25, outer="pooled", min_score=-99, min_length=1,
    inclusive=True, sigma=None, keep_ratio=None, keep_scope="sequence", upsample=1, smoothing=1, relative=None,
    class_score=None,
):  # fmt: skip
    rows = []
    for v, video in enumerate(videos):
        x, mine = prepared(video, smoothing, upsample), []
        for c in range(x.shape[1] if len(x) else 0):
            r, levels, found = x[:, c], np.asarray(thresholds), []
            if relative == "max":
                levels = levels * r.max()
            elif relative == "minmax":
                levels = r.min() + levels * (r.max() - r.min())
            for b, e in runs(r, levels) if class_mask is None or class_mask[v][c] else []:
                score = contrast(r, b, e, margin, outer)
                if e - b >= min_length * upsample and score >= min_score:
                    found.append((b, e, score + (0.0 if class_score is None else float(class_score[v][c]))))
            kept = suppressed(found, iou_threshold, inclusive, sigma)
            mine.append([(v, c, b / upsample, e / upsample, score) for b, e, score in kept])
        for scope in [[row for of_class in mine for row in of_class]] if keep_scope == "sequence" else mine:
            best = max((row[4] for row in scope), default=0.0)
            rows += [r for r in scope if keep_ratio is None or (best > 0 and r[4] >= keep_ratio * best)]
    return sorted(rows, key=lambda r: (r[0], -r[4], r[1], r[2]))


def check(got, want, n):
    assert [c.dtype for c in got] == [torch.int64] * 2 + [torch.float64] * 3 + [torch.int64]
    assert list(zip(*(c.tolist() for c in got[:4]), strict=True)) == [w[:4] for w in want]
    torch.testing.assert_close(got.score, torch.tensor([w[4] for w in want]).double(), rtol=0, atol=1e-12)
    assert got.count.tolist() == [sum(w[0] == v for w in want) for v in range(n)]


settings = st.fixed_dictionaries(
    {"thresholds": st.sampled_from([[0.25], [0.125, 0.5], [0.0625, 0.25, 0.375, 0.625, 0.875]])},
    optional={
        "margin": st.sampled_from([0.0, 0.5, 1.0, 0.29]),
        "outer": st.just("sides"),
        "min_score": st.sampled_from([-0.25, 0.0, 0.25]),
        "min_length": st.integers(1, 3),
        "inclusive": st.booleans(),
        "sigma": st.sampled_from([0.3, 1.0]),
        "keep_ratio": st.sampled_from([0.1, 0.5, 1.0]),
        "keep_scope": st.just("class"),
        "upsample": st.integers(1, 4),
        "smoothing": st.sampled_from([1, 3, 5, 9]),
        "relative": st.sampled_from(["max", "minmax"]),
        "class_mask": st.just(True),
        "class_score": st.just(True),
    },
)
sizes = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@given(sizes, st.integers(1, 3), st.integers(0, 2), st.integers(0, 10**6), settings, st.sampled_from([0.25, 0.5, 1.0]))
def test_equals_the_loop(lengths, classes, gap, seed, kwargs, iou):
    rng = np.random.default_rng(seed)
    # Eighths sum exactly, so that ties stay ties; where something rounds, values do not tie.
    exact = "sigma" not in kwargs and kwargs.get("smoothing", 1) == 1 and kwargs.get("upsample", 1) != 3
    draw = (lambda shape: rng.integers(-2, 9, shape) / 8) if exact else (lambda shape: rng.uniform(-0.2, 1, shape))
    videos = [draw((s, classes)) for s in lengths]
    if seed % 3 == 0:
        videos = [np.where(rng.random(v.shape) < 0.15, NAN, v) for v in videos]
    for name in {"class_mask", "class_score"} & kwargs.keys():
        values = torch.from_numpy(draw((len(lengths), classes)))
        kwargs[name] = values > 0.2 if name == "class_mask" else values
    x = d2k.Ragged.pack([torch.from_numpy(v) for v in videos], gap=gap)
    check(d2k.localize(x, iou_threshold=iou, **kwargs), oracle(videos, iou_threshold=iou, **kwargs), len(videos))


def drawn(lengths, classes, seed, dtype=torch.float32, exact=False):
    """Videos of noise, sometimes with NaN and saturated stretches."""
    rng = np.random.default_rng(seed)
    shapes = [(s, classes) for s in lengths]
    videos = [rng.integers(-2, 9, s) / 8 if exact else rng.uniform(-0.2, 1, s) for s in shapes]
    if seed % 3 == 0:
        videos = [np.where(rng.random(v.shape) < 0.1, NAN, v) for v in videos]
    if seed % 4 == 0:
        videos = [np.where(rng.random(v.shape) < 0.3, 1.0, v) for v in videos]
    return [torch.from_numpy(v).to(dtype) for v in videos]


def as_reference(*args, **kwargs):
    with d2k.backends.use("reference"), d2k.backends.use("reference", "localize"):
        return d2k.localize(*args, **kwargs)


@native_only
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 10**6),
    settings, st.sampled_from([0.2, 0.3, 0.5, 0.75, 1.0]), st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)  # fmt: skip
def test_native_equals_reference_to_the_bit(lengths, classes, gap, seed, kwargs, iou, dtype, exact):
    x = d2k.Ragged.pack(drawn(lengths, classes, seed, dtype, exact), gap=gap)
    for name in {"class_mask", "class_score"} & kwargs.keys():
        values = torch.rand(len(lengths), classes, generator=torch.Generator().manual_seed(seed))
        kwargs[name] = values > 0.3 if name == "class_mask" else values
    if seed % 2:
        kwargs["thresholds"] = [i / 40 for i in range(1, 40 + 60 * (seed % 5 == 0))]
    want = as_reference(x, iou_threshold=iou, **kwargs)
    with d2k.backends.use("native", "localize"):
        got = d2k.localize(x, iou_threshold=iou, **kwargs)
        arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        numpy = d2k.localize(
            x.values.numpy(), offsets=x.offsets.numpy(), lengths=x.lengths.numpy(), iou_threshold=iou, **arrays
        )
    if "sigma" in kwargs:  # exponentials may differ in the last bit
        torch.testing.assert_close(got.score, want.score, rtol=1e-12, atol=0)
        got, want = got._replace(score=want.score), want
        numpy = numpy._replace(score=want.score.numpy())
    assert all(isinstance(c, np.ndarray) for c in numpy)
    assert same(got, want) and same([torch.from_numpy(c) for c in numpy], want)


def address(x):
    return x.data_ptr() if isinstance(x, torch.Tensor) else x


class AsBlock:
    """The GPU's algorithm on one CPU thread, in place of what the CPU does."""

    def __init__(self, module):
        self.module = module

    def localize_cpu(self, given, rules, counts, threads):
        size = given[1].numel() * rules[9]  # never more than one for each position and class
        out = [torch.full((size,), -7, dtype=d) for d in (torch.int64,) * 2 + (torch.float64,) * 3]
        self.rows = out
        self.module.localize_as_block_cpu(given, rules, counts, size, tuple(c.data_ptr() for c in out))
        self.size = (out[0] != -7).sum().item()
        return self

    def localized_size(self, found):
        return found.size

    def localized_write_cpu(self, found, columns, threads):
        for to, column in zip(columns, self.rows, strict=True):
            ctypes.memmove(address(to), column.data_ptr(), self.size * 8)


@native_only
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 10**6),
    settings, st.sampled_from([0.2, 0.3, 0.5, 0.75, 1.0]), st.booleans(),
)  # fmt: skip
def test_the_block_algorithm_equals_the_cpu_one(lengths, classes, gap, seed, kwargs, iou, exact):
    native = d2k.backends.module("localize", "native")
    x = d2k.Ragged.pack(drawn(lengths, classes, seed, torch.float32, exact), gap=gap)
    for name in {"class_mask", "class_score"} & kwargs.keys():
        values = torch.rand(len(lengths), classes, generator=torch.Generator().manual_seed(seed))
        kwargs[name] = values > 0.3 if name == "class_mask" else values
    if seed % 2:
        kwargs["thresholds"] = [i / 40 for i in range(1, 40)]
    with d2k.backends.use("native", "localize"), pytest.MonkeyPatch.context() as patch:
        want = d2k.localize(x, iou_threshold=iou, **kwargs)
        module = native._module()
        patch.setattr(native, "_module", lambda: AsBlock(module))
        got = d2k.localize(x, iou_threshold=iou, **kwargs)
    if "sigma" in kwargs and not exact:  # several decays of one score may multiply in another order
        torch.testing.assert_close(got.score, want.score, rtol=1e-12, atol=0)
        got = got._replace(score=want.score)
    elif "sigma" in kwargs:
        return
    assert same(got, want)


@native_only
def test_the_block_algorithm_never_reaches_foreign_memory():
    x, levels = torch.rand(100, 2), torch.tensor([0.25, 0.5], dtype=torch.float64)
    native = d2k.backends.module("localize", "native")
    module = native._module()
    rest = (levels, None, 0.25, True, None, 1, 0.5, True, None, None, False, 3, 1, None, None, None)
    with d2k.backends.use("native", "localize"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_module", lambda: AsBlock(module))
        for offsets, lengths in (([-50, 90, 2**62, -(2**63), 0], [120, 2**62, 5, -3]), ([0, 50, 20], [60, 80])):
            found = schema.localize(x, torch.tensor(offsets), torch.tensor(lengths), *rest)
            assert found[5].tolist() == [0] * len(lengths)
        assert schema.localize(x, torch.tensor([0, 60, 100]), torch.tensor([60, 40]), *rest)[5].min() > 0


class OnGpu(torch.Tensor):
    """A CPU tensor that says that it is on a GPU, and counts how often the host waits for its value."""

    waits = 0
    is_cpu, is_cuda = False, True

    @property
    def device(self):
        return SimpleNamespace(type="cuda", index=0)

    def __int__(self):
        OnGpu.waits += 1
        return super().__int__()


class AsGpu(AsBlock):
    """The extension's functions for CUDA, on that thread."""

    def localize_workspace_cuda(self, given, rules, room):
        return 54 * room * rules[9]

    def localize_find_cuda(self, given, rules, call, device, stream):
        (self.room, counts, first, _), n = call, given[4]
        try:
            self.localize_cpu(given, rules, counts, 1)
            total = self.size
        except ValueError:
            total = -2
        numbers = (ctypes.c_int64 * n).from_address(counts)
        starts = [sum(max(0, c) for c in numbers[:i]) for i in range(n)]
        (ctypes.c_int64 * (n + 1)).from_address(first)[:] = [*starts, total]

    def localize_write_cuda(self, given, rules, call, capacity, columns, device, stream):
        self.size = min(capacity, (self.rows[0] != -7).sum().item())
        for to, kind, padding in zip(columns, "qqddd", PADDING, strict=True):
            ctypes.memmove(address(to), array(kind, [padding] * capacity).tobytes(), 8 * capacity)
        self.localized_write_cpu(self, columns, 1)


def on_gpu(x, monkeypatch, **kwargs):
    """localize as it runs on CUDA tensors, and how often it waited."""
    native = d2k.backends.module("localize", "native")
    fake = AsGpu(native._native.module())
    monkeypatch.setattr(native, "_module", lambda: fake)
    monkeypatch.setattr(native._native, "device_and_stream", lambda device: (0, 0))
    given = [t.as_subclass(OnGpu) for t in (x.values, x.offsets, x.lengths, torch.tensor([0.3, 0.6]).double())]
    mask = kwargs.get("class_mask")
    rest = (0.25, True, None, 1, 0.5, True, None, 0.1, False, 1, 1, None, None, kwargs.get("capacity"))
    before = OnGpu.waits
    found = native.localize_forward(*given, None if mask is None else mask.as_subclass(OnGpu), *rest)
    return [c.as_subclass(torch.Tensor) for c in found], OnGpu.waits - before, fake.room


@native_only
def test_on_a_gpu_a_capacity_waits_for_nothing(monkeypatch):
    x = batch([40, 0, 90], classes=3)
    plain = {"thresholds": [0.3, 0.6], "iou_threshold": 0.5, "keep_ratio": 0.1}
    want = d2k.localize(x, **plain)
    m = len(want.score)
    found, waits, _ = on_gpu(x, monkeypatch)
    assert same(Detections(*found), want) and waits == 1
    for capacity in (m + 5, m, m - 1):
        found, waits, _ = on_gpu(x, monkeypatch, capacity=capacity)
        assert waits == 0 and torch.equal(found[5], want.count) and len(found[0]) == capacity
        assert torch.equal(found[4][:m], want.score[:capacity]) and (found[0][m:] == -1).all()
    with monkeypatch.context() as patch:
        patch.setenv("D2K_CHECK", "1")
        with pytest.raises(ValueError, match=f"capacity = {m - 1} is too small; {m} is needed"):
            on_gpu(x, patch, capacity=m - 1)


@native_only
def test_on_a_gpu_scores_that_are_none_are_the_same_error(monkeypatch):
    x = batch([40, 90], classes=2)
    values = x.values.clone()
    values[60, 1] = INF
    x = x.with_values(values)
    with d2k.backends.use("native", "localize"), pytest.raises(ValueError) as on_cpu:
        d2k.localize(x, thresholds=[0.3, 0.6], iou_threshold=0.5)
    with pytest.raises(ValueError) as error:
        on_gpu(x, monkeypatch)
    assert str(error.value) == str(on_cpu.value)
    found, waits, _ = on_gpu(x, monkeypatch, capacity=200)
    assert waits == 0 and found[5][0] > 0 and found[5][1] < 0 and not (found[0] == 1).any()


@native_only
def test_on_a_gpu_memory_is_that_of_the_classes_that_are_searched(monkeypatch):
    x = batch([40, 90], classes=3)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    native = d2k.backends.module("localize", "native")
    assert on_gpu(x, monkeypatch, class_mask=mask)[2] == 130 * 3  # too little to wait for
    monkeypatch.setattr(native, "LARGE", 0)
    found, waits, room = on_gpu(x, monkeypatch, class_mask=mask)
    assert room == 40 + 180 and waits == 2
    want = d2k.localize(x, thresholds=[0.3, 0.6], iou_threshold=0.5, keep_ratio=0.1, class_mask=mask)
    assert same(Detections(*found), want)


@native_only
def test_native_does_not_depend_on_the_number_of_threads():
    x = d2k.Ragged.pack(drawn([4000, 0, 900, 7, 2500, 12_000], 8, 1))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with d2k.backends.use("native", "localize"):
                results += [d2k.localize(x, **PAPER, **extra) for extra in ({}, {"sigma": 0.3, "upsample": 3})]
    finally:
        torch.set_num_threads(before)
    assert len(results[0].score) and all(same(results[i % 2], r) for i, r in enumerate(results))


@native_only
def test_native_on_long_sequences_above_the_lowest_threshold_throughout():
    x = torch.rand(300_000, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    kwargs = {"thresholds": [0.4, *np.linspace(0.5, 1.5, 500)], "iou_threshold": 0.3}
    short = d2k.Ragged.pack([x[:600]])
    with d2k.backends.use("native", "localize"):
        for extra in ({}, {"sigma": 0.5}):
            assert 0 < len(d2k.localize(d2k.Ragged.pack([x]), **kwargs, **extra).score) < len(x)
        assert same(d2k.localize(short, **kwargs), as_reference(short, **kwargs))


@native_only
def test_native_never_reaches_foreign_memory():
    buffer = torch.full((300, 2), 9.0)
    buffer[100:200] = 0
    inside, levels = buffer[100:200], torch.tensor([0.5], dtype=torch.float64)
    offsets = torch.tensor([-50, 90, 2**62, -(2**63), 0])
    lengths = torch.tensor([120, 2**62, 5, -3])
    rules = (0.25, True, None, 1, 0.5, True, None, None, False)
    with d2k.backends.use("native", "localize"):
        for upsample, smoothing, relative in ((1, 1, None), (3, 1, None), (1, 101, None), (1, 1, "max")):
            rest = (levels, None, *rules, upsample, smoothing, relative, None, None)
            inside[:] = 0
            assert schema.localize(inside, offsets, lengths, *rest)[0].shape == (0,)
            inside[:] = 1
            found = schema.localize(inside, offsets, lengths, *rest)
            assert found[5].tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native_only)])
def test_scores_that_are_no_numbers(backend):
    with d2k.backends.use(backend, "localize"):
        _refuses_scores_that_are_no_numbers()


def _refuses_scores_that_are_no_numbers():
    x = torch.tensor([0.0, INF, 0.0, 0.0, 1.0, 0.0])[:, None]
    kwargs = {"offsets": torch.tensor([0, 6]), "thresholds": [0.5], "iou_threshold": 0.5}
    for sigma in (None, 0.5):
        with pytest.raises(ValueError) as error:
            d2k.localize(x, **kwargs, sigma=sigma)
        assert str(error.value) == NOT_A_NUMBER  # the same words from every backend
    with pytest.raises(ValueError) as error:
        d2k.localize(x[2:], **kwargs | {"offsets": [0, 4]}, class_score=torch.tensor([[NAN]]))
    assert str(error.value) == NOT_A_NUMBER
    assert d2k.localize(x, **kwargs, min_score=0.0).count.tolist() == [0]
    assert d2k.localize(x[2:], **kwargs | {"offsets": [0, 4]}, class_score=torch.tensor([[-INF]])).score.item() == -INF
    soft = d2k.localize(x[2:], **kwargs | {"offsets": [0, 4]}, class_score=torch.tensor([[-INF]]), sigma=1.0)
    assert soft.count.tolist() == [0]


@native_only
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 10**6), settings,
    st.sampled_from(["class_score", "activations"]),
)  # fmt: skip
def test_the_block_algorithm_refuses_what_the_cpu_refuses(lengths, classes, seed, kwargs, where):
    generator = torch.Generator().manual_seed(seed)
    x = d2k.Ragged.pack(drawn(lengths, classes, seed, torch.float32, True))
    bad = torch.rand(x.values.shape if where == "activations" else (len(lengths), classes), generator=generator) < 0.05
    for name in {"class_mask", "class_score"} & kwargs.keys():
        kwargs[name] = torch.rand(len(lengths), classes, generator=generator) > 0.3
    if where == "activations":
        x = x.with_values(torch.where(bad, INF, x.values))
    else:
        kwargs["class_score"] = torch.where(bad, NAN, 0.5)
    native = d2k.backends.module("localize", "native")

    def outcome():
        try:
            return d2k.localize(x, iou_threshold=0.5, **kwargs)
        except ValueError as error:
            return str(error)

    with d2k.backends.use("native", "localize"), pytest.MonkeyPatch.context() as patch:
        want = outcome()
        module = native._module()
        patch.setattr(native, "_module", lambda: AsBlock(module))
        got = outcome()
    if isinstance(want, str) or isinstance(got, str):
        assert got == want
    elif "sigma" not in kwargs:
        assert same(got, want)


def batch(lengths, classes=4, gap=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return d2k.Ragged.pack([torch.rand(s, classes, generator=generator).to(dtype) for s in lengths], gap=gap)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_by_hand():
    x = torch.tensor([0.0, 0.2, 0.8, 0.8, 0.4, 0.0, 0.6, 0.6])[:, None].double()
    kwargs = {"offsets": torch.tensor([0, 8]), "thresholds": [0.1, 0.5], "iou_threshold": 0.5}
    got = d2k.localize(x, **kwargs)
    # [6, 8): 0.6 - 0; [1, 5): 0.55 - 0; [2, 4): 0.8 - (0.2 + 0.4) / 2 has IoU 1/2 with [1, 5).
    assert got.start.tolist() == [6, 1] and got.end.tolist() == [8, 5]
    torch.testing.assert_close(got.score, torch.tensor([0.6, 0.55]).double())
    assert d2k.localize(x, **kwargs, inclusive=False).start.tolist() == [6, 1, 2]
    assert d2k.localize(x[2:4], **kwargs | {"offsets": torch.tensor([0, 2])}).score.item() == pytest.approx(0.8)


def test_ties_and_bounds_by_hand():
    # At 0.1: [0, 3) and [5, 6); at 0.4: [1, 2), whose score 0.75 - 0.25 ties with [5, 6)'s.
    x = torch.tensor([0.25, 0.75, 0.25, 0.0, 0.0, 0.5, 0.0])[:, None].repeat(1, 2)
    kwargs = {"offsets": torch.tensor([0, 7]), "thresholds": [0.1, 0.4], "iou_threshold": 0.5}
    got = d2k.localize(x, **kwargs, min_score=0.5)
    assert list(zip(*(c.tolist() for c in got[1:5]), strict=True)) == [
        (c, b, b + 1, 0.5) for c in (0, 1) for b in (1.0, 5.0)
    ]
    low = torch.tensor([[-1.0, -0.5]])
    for scope in ("sequence", "class"):
        got = d2k.localize(x, **kwargs, min_score=0.5, class_score=low, keep_ratio=1.0, keep_scope=scope)
        assert got.count.tolist() == [0]


def test_long_sequences_keep_their_precision():
    x = torch.rand(100_001, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    kwargs = {"thresholds": [0.5], "iou_threshold": 1.0, "upsample": 3}
    got = d2k.localize(d2k.Ragged.pack([x]), **kwargs)
    shift = len(x) - 40
    want = sorted((b + shift, e + shift, s) for _, _, b, e, s in oracle([x[shift:].numpy()], **kwargs) if b > 10)
    mine = sorted(zip(got.start.tolist(), got.end.tolist(), got.score.tolist(), strict=True))[-len(want) :]
    assert want and np.allclose(mine, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("extra", [{}, {"smoothing": 3, "upsample": 3, "relative": "minmax"}, {"sigma": 0.5}])
def test_forms_and_neighbours_do_not_matter(extra):
    x = batch([9, 14, 0, 5], gap=2)
    dense, mask = x.padded(fill=NAN)
    want = d2k.localize(x, **PAPER, **extra)
    values = x.values.masked_fill(~x.row_mask()[:, None], NAN)
    assert len(want.score)
    assert same(d2k.localize(values, offsets=x.offsets, lengths=x.lengths, **PAPER, **extra), want)
    assert same(d2k.localize(dense, lengths=x.lengths, **PAPER, **extra), want)
    assert same(d2k.localize(dense, mask=mask, **PAPER, **extra), want)
    for i, rows in enumerate(x.unpack()):
        alone = d2k.localize(d2k.Ragged.pack([rows]), **PAPER, **extra)
        assert same([c[want.sequence == i] for c in want[1:5]], alone[1:5])


def test_low_precision_and_levels_in_float32():
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        x = batch([12, 20], dtype=dtype)
        assert same(d2k.localize(x, **PAPER), d2k.localize(x.to(torch.float32), **PAPER))
    x = torch.full((3, 1), 0.1)
    assert d2k.localize(x, offsets=torch.tensor([0, 3]), thresholds=[0.1], iou_threshold=0.5).count.tolist() == [0]


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("relative", [None, "max"])
def test_thresholds_that_do_not_rise_are_refused_alike(backend, relative):
    says = r"localize: thresholds must rise strictly in torch.float\d\d, got \[0\.5, 0\.25\]"
    with d2k.backends.use(backend), pytest.raises(ValueError, match=says):
        d2k.localize(batch([9]), thresholds=[0.5, 0.25], iou_threshold=0.5, relative=relative)


def test_capacity():
    x = batch([9, 0, 14])
    want = d2k.localize(x, **PAPER)
    m = len(want.score)
    for capacity in (m, m + 7):
        got = d2k.localize(x, **PAPER, capacity=capacity)
        assert same([c[:m] for c in got[:5]] + [got.count], want)
        assert [c[m:].tolist() for c in got[:5]] == [[v] * (capacity - m) for v in (-1, -1, 0, 0, 0)]
    with pytest.raises(ValueError, match=f"capacity = {m - 1} is too small; {m} is needed"):
        d2k.localize(x, **PAPER, capacity=m - 1)


@pytest.mark.parametrize("extra", [{}, {"smoothing": 3}, {"upsample": 2}, {"relative": "minmax"}, {"sigma": 0.5}])
def test_empty_batches_and_single_snippets(extra):
    for rows in (0, 2):
        assert all(c.shape == (0,) for c in d2k.localize(torch.rand(rows, 3), offsets=[0], **PAPER, **extra))
    empty = d2k.localize(torch.zeros(0, 3), offsets=[0, 0, 0], **PAPER, **extra, capacity=2)
    assert empty.count.tolist() == [0, 0] and empty.sequence.tolist() == [-1, -1]
    one = d2k.localize(torch.tensor([[0.75, 0.0]]), offsets=[0, 0, 1, 1], **PAPER, **extra)
    check(one, [] if "relative" in extra else [(1, 0, 0.0, 1.0, 0.75)], 3)


def test_opcheck_and_compile():
    x, levels = batch([6, 9]), torch.tensor([0.3, 0.6], dtype=torch.float64)
    rest = (0.25, True, None, 1, 0.5, True, None, 0.1, False, 1, 1, None, None)
    for capacity in (None, 50):
        torch.library.opcheck(schema.localize.op, (x.values, x.offsets, x.lengths, levels, None, *rest, capacity))

        def run(values, capacity=capacity):
            return d2k.localize(x.with_values(values), **PAPER, capacity=capacity)

        assert same(torch.compile(run, fullgraph=True, backend="aot_eager")(x.values), run(x.values))


@pytest.mark.parametrize("name", ["thumos", "activitynet"])
def test_golden(golden_dir, name):
    with np.load(golden_dir / f"localize_{name}.npz") as file:
        g = {k: file[k] for k in file.files}
    videos, mask = torch.from_numpy(g["tcam_f16"]).float().split(g["length"].tolist()), g["class_selected"]
    mask[:, np.setdiff1d(np.arange(mask.shape[1]), g["eval_classes"])] = False
    if name == "thumos":  # the stage before the keep rule: the final detections also need the Ambiguous segments
        chosen, keep_ratio = g["stage_videos"].tolist(), None
        want = {tuple(r): s for r, s in zip(g["stage_after_nms"].tolist(), g["stage_after_nms_score"], strict=True)}
    else:
        chosen, keep_ratio = range(len(videos)), 0.1
        columns = (g[f"det_{k}"].tolist() for k in ("video", "class", "start", "end", "score"))
        want = {r[:4]: r[4] for r in zip(*columns, strict=True)}
    got = d2k.localize(
        d2k.Ragged.pack([videos[v] for v in chosen]), thresholds=[i / 40 for i in range(1, 20)], outer="sides",
        class_mask=torch.from_numpy(mask[chosen]), min_score=-0.4, min_length=2, iou_threshold=0.3,
        keep_ratio=keep_ratio, keep_scope="class",
    )  # fmt: skip
    mine = {(chosen[v], *r[:3]): r[3] for v, *r in zip(*(c.tolist() for c in got[:5]), strict=True)}
    assert mine.keys() == want.keys() and len(want) == {"thumos": 210, "activitynet": 105}[name]
    assert max(abs(mine[k] - want[k]) for k in want) < 1e-6


OUT_OF_RANGE = {
    "margin": (-0.5, NAN), "min_length": (0,), "iou_threshold": (0.0, 1.5), "sigma": (0.0,), "upsample": (0,),
    "smoothing": (0, 4), "capacity": (-1,),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bad", "says"),
    [
        ("outer", "mean", " must be 'pooled' or 'sides', got 'mean'"),
        ("keep_scope", "video", " must be 'sequence' or 'class', got 'video'"),
        ("relative", "min", " must be one of None, 'max', 'minmax', got 'min'"),
        ("class_mask", torch.ones(1, 4, dtype=torch.bool), r" must be \(2, 4\), got \(1, 4\)"),
        ("class_score", torch.ones(2), r" must be \(2, 4\), got \(2,\)"),
        ("thresholds", [], r" must have shape \(T,\) with T at least 1, got \(0,\)"),
        ("thresholds", torch.rand(2, 4, 3), r" must have shape \(T,\) with T at least 1, got \(2, 4, 3\)"),
        ("thresholds", [0.5, 0.25], r" must rise strictly .*, got \[0.5, 0.25\]"),
        *((name, bad, f" must be .*got {bad}") for name, bads in OUT_OF_RANGE.items() for bad in bads),
    ],
)
def test_errors_name_the_argument(name, bad, says):
    with pytest.raises(ValueError, match=name + says):
        d2k.localize(batch([4, 7]), **PAPER | {name: bad})


def test_activations_must_be_float_rows():
    with pytest.raises(ValueError, match=r"activations must be float rows \(total, C\), got torch.int64 \(5, 2\)"):
        d2k.localize(torch.ones(5, 2, dtype=torch.int64), offsets=[0, 5], **PAPER)


NUMPY_ALONE = """
import sys
import numpy as np
import d2kernels as d2k
x = np.array([[0, 1], [1, 1], [1, 0]], dtype=np.float16)
got = d2k.localize(x[::-1], thresholds=[0.5], iou_threshold=0.5, offsets=np.array([0, 3]), capacity=3)
assert [c.tolist() for c in got] == [[0, 0, -1], [0, 1, -1], [0, 1, 0], [2, 3, 0], [1, 1, 0], [2]], got
dense = d2k.localize(x[None], thresholds=[0.5], iou_threshold=0.5, mask=np.ones((1, 3), bool))
assert dense.start.tolist() == [1, 0] and dense.count.tolist() == [2], dense
assert "torch" not in sys.modules
"""


@native_only
def test_numpy_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", NUMPY_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@native_only
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"thresholds": [0.5, 0.25]}, ValueError, "localize: thresholds must rise strictly"),
        ({"class_mask": np.ones((2, 4))}, TypeError, "class_mask must be bool, got float64"),
        ({"class_mask": np.ones((1, 4), bool)}, ValueError, r"class_mask must be \(2, 4\), got \(1, 4\)"),
        ({"class_score": [0.5]}, ValueError, r"class_score must be \(2, 4\), got \(1,\)"),
        ({"capacity": 0}, ValueError, "capacity = 0 is too small; 2 is needed"),
        ({"offsets": [0, 9]}, ValueError, "offsets must rise"),
    ],
)
def test_errors_of_arrays(change, error, says):
    x = np.zeros((5, 4))
    x[2, 0] = x[4, 1] = 1
    kwargs = PAPER | {"offsets": [0, 3, 5], "class_mask": None} | change
    with d2k.backends.use(None, "localize"), pytest.raises(error, match=says):
        d2k.localize(x, **kwargs)


@native_only
def test_arrays_need_rows_and_a_backend_that_takes_them():
    no = pytest.raises(d2k.backends.BackendUnavailable, match="takes torch tensors")
    with d2k.backends.use("triton", "localize"), no:
        d2k.localize(np.ones((5, 2)), offsets=[0, 5], **PAPER)
    says = r"activations must be float rows \(total, C\)"
    with d2k.backends.use("native", "localize"), pytest.raises(ValueError, match=says):
        d2k.localize(np.ones(5), offsets=[0, 5], **PAPER)


@pytest.mark.parametrize("margin", [1e19, 1e300, sys.float_info.max])
def test_surroundings_of_any_width_end_with_the_sequence(margin):
    x = batch([9, 30, 1])
    assert same(d2k.localize(x, **PAPER | {"margin": margin}), d2k.localize(x, **PAPER | {"margin": 1e3}))
    with pytest.raises(ValueError, match="margin must be finite and at least 0, got inf"):
        d2k.localize(x, **PAPER | {"margin": math.inf})


def test_what_arguments_alone_would_cost_is_refused():
    x = batch([9, 30])
    with pytest.raises(ValueError, match=f"upsample must be at most 1024, got {2**40}"):
        d2k.localize(x, **PAPER | {"upsample": 2**40})
    many = torch.zeros(1, 1).expand(2**21, 1)
    with pytest.raises(ValueError, match="2097152 rows upsampled by 1024 exceed 2147483647 positions"):
        d2k.localize(many, offsets=[0, len(many)], **PAPER | {"upsample": 1024, "class_mask": None})
    for change in ({"min_length": 2**63 - 1, "upsample": 1024}, {"smoothing": 2**63 - 1}):
        d2k.localize(x, **PAPER | change)
    assert d2k.localize(x, **PAPER | {"min_length": 2**63 - 1}).count.tolist() == [0, 0]
