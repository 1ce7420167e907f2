"""localize against a loop over videos, classes, thresholds and snippets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.localize import schema

NAN = float("nan")


def prepared(x, smoothing, upsample):
    """(s, C) float64 after the moving average and the linear interpolation."""
    s, half = len(x), smoothing // 2
    if smoothing > 1 and s:
        x = np.stack([np.nan_to_num(x[max(0, t - half) : t + half + 1], nan=0.0).mean(0) for t in range(s)])
    if upsample > 1 and s:
        at = [min(max((j + 0.5) / upsample - 0.5, 0), s - 1) for j in range(s * upsample)]
        rows = [(math.floor(a), min(math.floor(a) + 1, s - 1), a - math.floor(a)) for a in at]
        x = np.stack([x[low] * (1 - w) + x[high] * w for low, high, w in rows])
    return x


def runs(x, levels):
    """Distinct runs [b, e) above a level, lowest level first, then by start."""
    seen = {}
    for level in levels:
        above = [*(x > level), False]
        b = None
        for t, on in enumerate(above):
            if on and b is None:
                b = t
            elif not on and b is not None:
                seen.setdefault((b, t))
                b = None
    return list(seen)


def contrast(x, b, e, margin, outer):
    x = np.nan_to_num(x, nan=0.0)
    reach = max(1, math.floor((e - b) * margin))
    left, right = x[max(0, b - reach) : b], x[e : e + reach]
    inner = x[b:e].sum() / (e - b)
    sides = [np.concatenate([left, right])] if outer == "pooled" else [left, right]
    means = [side.sum() / len(side) for side in sides if len(side)]
    return inner - (sum(means) / len(means) if means else 0.0)


def suppressed(found, threshold, inclusive, sigma):
    """found: (b, e, score) in order of generation; hard or Gaussian suppression."""
    left, out = list(found), []
    while left:
        best = max(left, key=lambda f: f[2])
        left.remove(best)
        out.append(best)
        after = []
        for b, e, score in left:
            both = max(0, min(e, best[1]) - max(b, best[0]))
            iou = both / ((e - b) + (best[1] - best[0]) - both)
            if sigma is not None:
                after.append((b, e, score * math.exp(-(iou**2) / sigma) if score > 0 else score))
            elif iou < threshold or (iou == threshold and not inclusive):
                after.append((b, e, score))
        left = after
    return out


def oracle(
    videos, *, thresholds, iou_threshold, class_mask=None, margin=0.25, outer="pooled", min_score=None, min_length=1,
    inclusive=True, sigma=None, keep_ratio=None, keep_scope="sequence", upsample=1, smoothing=1, relative=None,
    class_score=None,
):  # fmt: skip
    rows = []
    for v, video in enumerate(videos):
        x = prepared(np.asarray(video, dtype=np.float64), smoothing, upsample)
        mine = []
        for c in range(x.shape[1]):
            if len(x) == 0 or (class_mask is not None and not class_mask[v][c]):
                continue
            r = x[:, c]
            levels = np.asarray(thresholds, dtype=np.float64)
            if relative == "max":
                levels = levels * r.max()
            elif relative == "minmax":
                levels = r.min() + levels * (r.max() - r.min())
            found = []
            for b, e in runs(r, levels):
                score = contrast(r, b, e, margin, outer)
                if e - b >= min_length * upsample and (min_score is None or score >= min_score):
                    found.append((b, e, score + (0.0 if class_score is None else float(class_score[v][c]))))
            kept = suppressed(found, iou_threshold, inclusive, sigma)
            mine.append([(v, c, b / upsample, e / upsample, score) for b, e, score in kept])
        for scope in [sum(mine, [])] if keep_scope == "sequence" else mine:
            best = max((row[4] for row in scope), default=0.0)
            rows += [r for r in scope if keep_ratio is None or (best > 0 and r[4] >= keep_ratio * best)]
    return sorted(rows, key=lambda r: (r[0], -r[4], r[1], r[2]))


def check(got, want, n, exact=False):
    assert [c.dtype for c in got] == [torch.int64] * 2 + [torch.float64] * 3 + [torch.int64]
    rows = list(zip(*(c.tolist() for c in got[:4]), strict=True))
    assert rows == [w[:4] for w in want]
    scores = torch.tensor([w[4] for w in want], dtype=torch.float64)
    torch.testing.assert_close(got.score, scores, rtol=0, atol=0 if exact else 1e-12)
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


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 10**6),
    settings, st.sampled_from([0.25, 0.5, 1.0]), st.booleans(),
)  # fmt: skip
def test_equals_the_loop(lengths, classes, gap, seed, kwargs, iou, with_nan):
    rng = np.random.default_rng(seed)
    # Eighths sum exactly, so that ties stay ties; where something rounds, values do not tie.
    exact = "sigma" not in kwargs and kwargs.get("smoothing", 1) == 1 and kwargs.get("upsample", 1) != 3
    draw = (lambda shape: rng.integers(-2, 9, shape) / 8) if exact else (lambda shape: rng.uniform(-0.2, 1, shape))
    videos = [draw((s, classes)) for s in lengths]
    if with_nan:
        videos = [np.where(rng.random(v.shape) < 0.15, NAN, v) for v in videos]
    for name, table in (("class_mask", rng.random), ("class_score", draw)):
        if name in kwargs:
            values = torch.from_numpy(table((len(lengths), classes)))
            kwargs[name] = values > 0.4 if name == "class_mask" else values
    x = d2k.Ragged.pack([torch.from_numpy(v) for v in videos], gap=gap)
    check(d2k.localize(x, iou_threshold=iou, **kwargs), oracle(videos, iou_threshold=iou, **kwargs), len(videos))


def batch(lengths, classes=4, seed=0, gap=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return d2k.Ragged.pack([torch.rand(s, classes, generator=generator).to(dtype) for s in lengths], gap=gap)


PAPER = {"thresholds": [i / 40 for i in range(1, 21)], "iou_threshold": 0.5, "keep_ratio": 0.1}


def test_by_hand():
    x = torch.tensor([0.0, 0.2, 0.8, 0.8, 0.4, 0.0, 0.6, 0.6])[:, None].double()
    got = d2k.localize(x, offsets=torch.tensor([0, 8]), thresholds=[0.1, 0.5], iou_threshold=0.5)
    # [2, 4): 0.8 - (0.2 + 0.4) / 2; [6, 8): 0.6 - 0 is above both levels; [1, 5): 0.55 - 0 has IoU 1/2 with [2, 4).
    assert got.start.tolist() == [6, 1] and got.end.tolist() == [8, 5]
    torch.testing.assert_close(got.score, torch.tensor([0.6, 0.55]).double())
    soft = d2k.localize(x, offsets=torch.tensor([0, 8]), thresholds=[0.1, 0.5], iou_threshold=0.5, inclusive=False)
    assert soft.start.tolist() == [6, 1, 2]


def test_a_run_that_is_the_whole_sequence_scores_its_mean():
    x = torch.tensor([[0.5], [1.0]]).double()
    for outer in ("pooled", "sides"):
        got = d2k.localize(x, offsets=torch.tensor([0, 2]), thresholds=[0.1], iou_threshold=0.5, outer=outer)
        assert got.score.tolist() == [0.75]


def test_long_sequences_keep_their_precision():
    s = 100_001
    x = torch.rand(s, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[-3:, 0] = torch.tensor([0.0, 0.9, 0.3])
    got = d2k.localize(d2k.Ragged.pack([x]), thresholds=[0.5], iou_threshold=1.0, upsample=3, min_length=1)
    tail = oracle([x[-40:].numpy()], thresholds=[0.5], iou_threshold=1.0, upsample=3)
    shift = s - 40
    want = sorted((b + shift, e + shift, score) for _, _, b, e, score in tail if b > 10)
    mine = sorted(zip(got.start.tolist(), got.end.tolist(), got.score.tolist(), strict=True))[-len(want) :]
    assert want and np.allclose(mine, want, rtol=0, atol=1e-9)


def test_three_forms_agree():
    x = batch([9, 14, 0, 5], gap=2)
    dense, mask = x.padded(fill=NAN)
    for extra in ({}, {"smoothing": 3, "upsample": 2, "relative": "minmax"}, {"sigma": 0.5, "relative": "max"}):
        want = d2k.localize(x, **PAPER, **extra)
        assert len(want.score)
        for got in (
            d2k.localize(x.values.masked_fill(~x.row_mask()[:, None], NAN), offsets=x.offsets, lengths=x.lengths,
                         **PAPER, **extra),
            d2k.localize(dense, lengths=x.lengths, **PAPER, **extra),
            d2k.localize(dense, mask=mask, **PAPER, **extra),
        ):  # fmt: skip
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_neighbours_do_not_matter():
    x = batch([23, 1, 40, 7])
    kwargs = PAPER | {"smoothing": 3, "upsample": 3, "class_score": torch.rand(4, 4)}
    together = d2k.localize(x, **kwargs)
    for i, rows in enumerate(x.unpack()):
        alone = d2k.localize(d2k.Ragged.pack([rows]), **kwargs | {"class_score": kwargs["class_score"][i : i + 1]})
        mine = together.sequence == i
        assert all(torch.equal(a[mine], b) for a, b in zip(together[1:5], alone[1:5], strict=True))


def test_nan_is_above_nothing_and_counts_as_zero():
    x = torch.tensor([0.5, 0.5, NAN, 0.5, 0.25])[:, None]
    got = d2k.localize(x, offsets=torch.tensor([0, 5]), thresholds=[0.3], iou_threshold=0.5)
    assert got.start.tolist() == [0, 3] and got.end.tolist() == [2, 4]
    assert got.score.tolist() == [0.5, 0.375]


def test_low_precision_and_levels_in_float32():
    for dtype in (torch.float16, torch.bfloat16):
        x = batch([12, 20], dtype=dtype)
        for a, b in zip(d2k.localize(x, **PAPER), d2k.localize(x.to(torch.float32), **PAPER), strict=True):
            assert torch.equal(a, b)
    x = torch.full((3, 1), 0.1)
    assert d2k.localize(x, offsets=torch.tensor([0, 3]), thresholds=[0.1], iou_threshold=0.5).count.tolist() == [0]


def test_capacity():
    x = batch([9, 0, 14])
    want = d2k.localize(x, **PAPER)
    m = len(want.score)
    for capacity in (m, m + 7):
        got = d2k.localize(x, **PAPER, capacity=capacity)
        assert torch.equal(got.count, want.count)
        for a, b, filler in zip(got[:5], want[:5], (-1, -1, 0, 0, 0), strict=True):
            assert torch.equal(a[:m], b) and a[m:].tolist() == [filler] * (capacity - m)
    with pytest.raises(ValueError, match=f"capacity = {m - 1} is too small; {m} is needed"):
        d2k.localize(x, **PAPER, capacity=m - 1)


@pytest.mark.parametrize("extra", [{}, {"smoothing": 3}, {"upsample": 2}, {"relative": "minmax"}, {"sigma": 0.5}])
def test_empty_batches_and_single_snippets(extra):
    for rows in (0, 2):
        none = d2k.localize(torch.rand(rows, 3), offsets=torch.tensor([0]), **PAPER, **extra)
        assert all(c.shape == (0,) for c in none)
    empty = d2k.localize(torch.zeros(0, 3), offsets=torch.tensor([0, 0, 0]), **PAPER, **extra, capacity=2)
    assert empty.count.tolist() == [0, 0] and empty.sequence.tolist() == [-1, -1]
    one = d2k.localize(torch.tensor([[0.75, 0.0]]), offsets=torch.tensor([0, 0, 1, 1]), **PAPER, **extra)
    want = [] if "relative" in extra else [(1, 0, 0.0, 1.0, 0.75)]
    check(one, want, 3, exact=True)


def test_opcheck_and_compile():
    x = batch([6, 9])
    levels = torch.tensor([0.3, 0.6], dtype=torch.float64)
    rest = (0.25, True, None, 1, 0.5, True, None, 0.1, False, 1, 1, None, None)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(schema.localize, (x.values, x.offsets, x.lengths, levels, None, *rest), test_utils=checks)

    def run(values):
        return d2k.localize(x.with_values(values), **PAPER)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(x.values)
    assert all(torch.equal(a, b) for a, b in zip(compiled, run(x.values), strict=True))


def golden(shared_dir, name):
    with np.load(shared_dir / "golden" / f"localize_{name}.npz") as file:
        g = {k: file[k] for k in file.files}
    x = d2k.Ragged.pack(torch.from_numpy(g["tcam_f16"]).float().split(g["length"].tolist()))
    return g, x


RELEASE = {
    "thresholds": [i / 40 for i in range(1, 20)], "outer": "sides", "min_score": -0.4, "min_length": 2,
    "iou_threshold": 0.3, "keep_scope": "class",
}  # fmt: skip


def test_golden_stages(shared_dir):
    g, x = golden(shared_dir, "thumos")
    some = g["stage_videos"]
    x = d2k.Ragged.pack([x.unpack()[v] for v in some])
    got = d2k.localize(x, **RELEASE, class_mask=torch.from_numpy(g["class_selected"][some]))
    mine = [(int(some[v]), *rest) for v, *rest in zip(*(c.tolist() for c in got[:5]), strict=True)]
    want = [(*rows.tolist(), s) for rows, s in zip(g["stage_after_nms"], g["stage_after_nms_score"], strict=True)]
    mine, want = ({r[:4]: r[4] for r in rows} for rows in (mine, want))
    assert mine.keys() == want.keys() and len(want) == 311
    assert max(abs(mine[k] - want[k]) for k in want) < 1e-6


def test_golden_detections(shared_dir):
    g, x = golden(shared_dir, "activitynet")
    mask = torch.from_numpy(g["class_selected"])
    mask[:, np.setdiff1d(np.arange(mask.shape[1]), g["eval_classes"])] = False
    after = d2k.localize(x, **RELEASE, class_mask=mask)
    assert len(after.score) == g["n_proposals_after_nms"]
    got = d2k.localize(x, **RELEASE, class_mask=mask, keep_ratio=0.1)
    mine = {r[:4]: r[4] for r in zip(*(c.tolist() for c in got[:5]), strict=True)}
    names = ("det_video", "det_class", "det_start", "det_end", "det_score")
    want = {r[:4]: r[4] for r in zip(*(g[k].tolist() for k in names), strict=True)}
    assert mine.keys() == want.keys() and len(want) == 177
    assert max(abs(mine[k] - want[k]) for k in want) < 1e-6


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"outer": "mean"}, "outer must be one of 'pooled', 'sides', got 'mean'"),
        ({"keep_scope": "video"}, "keep_scope must be one of 'sequence', 'class', got 'video'"),
        ({"relative": "min"}, "relative must be one of None, 'max', 'minmax', got 'min'"),
        ({"margin": -0.5}, "margin = -0.5 is out of range"),
        ({"margin": NAN}, "margin = nan is out of range"),
        ({"min_length": 0}, "min_length = 0 is out of range"),
        ({"iou_threshold": 0.0}, "iou_threshold = 0.0 is out of range"),
        ({"iou_threshold": 1.5}, "iou_threshold = 1.5 is out of range"),
        ({"sigma": 0.0}, "sigma = 0.0 is out of range"),
        ({"upsample": 0}, "upsample = 0 is out of range"),
        ({"smoothing": 4}, "smoothing = 4 is out of range"),
        ({"capacity": -1}, "capacity = -1 is out of range"),
        ({"class_mask": torch.ones(1, 4, dtype=torch.bool)}, r"class_mask must be \(2, 4\), got \(1, 4\)"),
        ({"class_score": torch.ones(2)}, r"class_score must be \(2, 4\), got \(2,\)"),
        ({"thresholds": [0.5, 0.25]}, r"thresholds must rise strictly .*, got \[0.5, 0.25\]"),
    ],
)
def test_errors_name_the_argument(kwargs, says):
    with pytest.raises(ValueError, match=says):
        d2k.localize(batch([4, 7]), **PAPER | kwargs)


def test_errors_of_activations():
    for bad in (torch.rand(5), torch.ones(5, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"activations must be float rows \(total, C\), got torch"):
            d2k.localize(bad, offsets=torch.tensor([0, 5]), **PAPER)
