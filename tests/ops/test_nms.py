"""nms and soft_nms against loops over segments."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels import _native
from d2kernels.ops.nms import schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("nms", "native"), reason="no compiled extension")
BACKENDS = ["reference", pytest.param("native", marks=native_only)]


@pytest.fixture(scope="module", params=BACKENDS, autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "nms"):
        yield request.param


def overlap(a, b):
    (a0, a1), (b0, b1) = ([Fraction(v) for v in s] for s in (a, b))
    both = max(min(a1, b1) - max(a0, b0), Fraction(0))
    union = (a1 - a0) + (b1 - b0) - both
    return both / union if union else Fraction(0)


def oracle(segments, scores, threshold, groups, inclusive=True):
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *rest = left
        kept.append(best)

        def survives(i, best=best):
            iou = float(overlap(segments[best], segments[i]))
            return groups[i] != groups[best] or (iou < threshold if inclusive else iou <= threshold)

        left = [i for i in rest if survives(i)]
    return kept


def soft_oracle(segments, scores, sigma, groups, floor):
    current, left, out = list(map(float, scores)), list(range(len(scores))), []
    while left := [i for i in left if current[i] > floor]:
        best = max(left, key=lambda i: (current[i], -i))
        left.remove(best)
        out.append((best, current[best]))
        for i in left:
            if groups[i] == groups[best] and current[i] > 0:
                current[i] *= math.exp(-float(overlap(segments[best], segments[i]) ** 2) / sigma)
    return sorted(out, key=lambda pair: (-pair[1], pair[0]))


# Quarter lengths and few scores: exact IoU ties, touching, nested, repeated and zero-length segments are common.
quarters = st.tuples(st.integers(-8, 24), st.integers(0, 12)).map(lambda t: (t[0] / 4, (t[0] + t[1]) / 4))
rows = st.lists(st.tuples(quarters, st.integers(-3, 8).map(lambda v: v / 8), st.integers(-1, 2)), max_size=24)
levels = st.sampled_from([0.0, 0.2, 0.25, 1 / 3, 0.5, 0.75, 1.0])


def tensors(rows, dtype=torch.float64):
    segments, scores, groups = zip(*rows, strict=True) if rows else ((), (), ())
    return (
        torch.tensor(segments, dtype=dtype).reshape(-1, 2),
        torch.tensor(scores, dtype=dtype),
        torch.tensor(groups, dtype=torch.int64),
    )


@given(rows, levels, st.booleans(), st.booleans())
def test_nms_equals_the_loop(rows, threshold, inclusive, grouped):
    segments, scores, groups = tensors(rows)
    of = groups.tolist() if grouped else [0] * len(rows)
    got = d2k.nms(segments, scores, threshold, groups if grouped else None, inclusive=inclusive)
    assert got.dtype == torch.int64
    assert got.tolist() == oracle(segments.tolist(), scores.tolist(), threshold, of, inclusive)


@given(rows, st.sampled_from([0.1, 0.5, 3.0]), st.sampled_from([-1.0, 0.0, 0.06, 0.3]), st.booleans())
def test_soft_nms_equals_the_loop(rows, sigma, floor, grouped):
    segments, _, groups = tensors(rows)
    # Distinct scores: products of decays in another order may break a tie by rounding.
    scores = torch.tensor([r[1] + 0.37 * math.sin(7 * i) for i, r in enumerate(rows)], dtype=torch.float64)
    of = groups.tolist() if grouped else [0] * len(rows)
    index, decayed = d2k.soft_nms(segments, scores, sigma, groups if grouped else None, score_threshold=floor)
    want = soft_oracle(segments.tolist(), scores.tolist(), sigma, of, floor)
    assert index.tolist() == [i for i, _ in want]
    torch.testing.assert_close(decayed, torch.tensor([s for _, s in want], dtype=torch.float64), rtol=1e-12, atol=0)


@st.composite
def many(draw):
    """Hundreds of segments of few or many sizes, with ties, in few groups."""
    rng, m = np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.integers(1, 400))
    start = rng.integers(0, draw(st.sampled_from([3, 40, 1000])), m).astype(float)
    if draw(st.booleans()):
        start += rng.random(m)
    width = np.floor(rng.random(m) ** 4 * draw(st.sampled_from([2, 30, 900])))
    scores = rng.random(m)
    if draw(st.booleans()):
        scores = np.round(scores * 8) / 8 - 0.25
    return np.stack([start, start + width], 1), scores, rng.integers(0, draw(st.integers(1, 4)), m)


@native_only
@given(many(), levels, st.booleans())
def test_native_nms_equals_reference(rows, threshold, inclusive):
    numbers = [torch.from_numpy(r) for r in rows]
    with d2k.backends.use("reference", "nms"):
        want = d2k.nms(*numbers[:2], threshold, numbers[2], inclusive=inclusive)
    with d2k.backends.use("native", "nms"):
        got = d2k.nms(*numbers[:2], threshold, numbers[2], inclusive=inclusive)
        of_arrays = d2k.nms(*rows[:2], threshold, rows[2], inclusive=inclusive)
    assert torch.equal(got, want) and isinstance(of_arrays, np.ndarray) and of_arrays.tolist() == want.tolist()


@native_only
@given(many(), st.sampled_from([0.1, 0.5, 3.0]), st.sampled_from([-1.0, 0.0, 0.3]))
def test_native_soft_nms_equals_reference(rows, sigma, floor):
    spans, scores, groups = (torch.from_numpy(r) for r in rows)
    scores = scores + torch.linspace(0, 0.01, len(scores), dtype=torch.float64)
    with d2k.backends.use("reference", "nms"):
        index, decayed = d2k.soft_nms(spans, scores, sigma, groups, score_threshold=floor)
    with d2k.backends.use("native", "nms"):
        got = d2k.soft_nms(spans, scores, sigma, groups, score_threshold=floor)
        arrays = d2k.soft_nms(spans.numpy(), scores.numpy(), sigma, groups.numpy(), score_threshold=floor)
    assert torch.equal(got[0], index) and arrays[0].tolist() == index.tolist()
    torch.testing.assert_close(got[1], decayed, rtol=1e-12, atol=0)
    assert arrays[1].dtype == np.float64 and arrays[1].tolist() == got[1].tolist()


@native_only
@given(many(), levels, st.booleans(), st.sampled_from([0.1, 0.5, 3.0]), st.sampled_from([-1.0, 0.0, 0.3]))
def test_the_block_algorithm_equals_the_cpu_one(rows, threshold, inclusive, sigma, floor):
    from d2kernels import _C

    native = d2k.backends.module("nms", "native")
    segments, scores, groups = (torch.from_numpy(np.ascontiguousarray(part)) for part in rows)
    if not len(scores):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "check_count", lambda *_: None)  # as on a GPU, where nothing waits for it
        want, count = native.nms_forward(segments, scores, groups, threshold, inclusive, None)
        for capacity in (None, len(want) + 2, len(want) // 2):
            given = segments, scores, groups, threshold, inclusive, capacity
            got, found = native.nms_by_clusters(_C.nms_as_block_cpu, *given)
            assert torch.equal(found, count) and len(got) == (len(want) if capacity is None else capacity)
            assert torch.equal(got[: len(want)], want[: len(got)]) and (got[len(want) :] == -1).all()
        want = native.soft_nms_forward(segments, scores, groups, sigma, floor, None)
        m = len(want[0])
        for capacity in (m + 2, m // 2):
            given = segments, scores, groups, sigma, floor, capacity
            got = native.soft_nms_by_clusters(_C.soft_nms_as_block_cpu, *given)
            assert torch.equal(got[2], want[2]) and torch.equal(got[0][:m], want[0][:capacity])
            assert (got[0][m:] == -1).all() and (got[1][m:] == 0).all()
        got = native.soft_nms_by_clusters(_C.soft_nms_as_block_cpu, segments, scores, groups, sigma, floor, None)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1], rtol=1e-12, atol=0)


@native_only
def test_the_block_algorithm_over_many_rounds():
    from d2kernels import _C

    native = d2k.backends.module("nms", "native")
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(700, generator=generator, dtype=torch.float64) * 300
    segments = torch.stack([start, start + torch.rand(700, generator=generator) * 60], 1)
    scores, groups = torch.rand(700, generator=generator), torch.zeros(700, dtype=torch.int64)
    want, _ = native.nms_forward(segments, scores, groups, 0.5, True, None)
    assert len(want) > 64
    got, _ = native.nms_by_clusters(_C.nms_as_block_cpu, segments, scores, groups, 0.5, True, None)
    assert torch.equal(got, want)


@native_only
def test_native_on_what_the_public_functions_refuse():
    spans = torch.tensor([[0, math.nan], [math.nan, 1], [3, 1], [math.inf, math.inf], [-math.inf, math.inf], [0, 4]])
    scores = torch.tensor([0.5, math.nan, 0.5, -math.nan, math.inf, -math.inf])
    groups = torch.tensor([-(2**63), 2**63 - 1, 0, 0, 0, 0])
    with d2k.backends.use("native", "nms"):
        for threshold in (-1.0, 0.0, 0.5, 2.0, math.nan):
            for inclusive in (False, True):
                kept, _ = schema.nms(spans, scores, groups, threshold, inclusive, None)
                assert len(set(kept.tolist())) == len(kept) <= 6
        for sigma in (0.0, 0.5, math.nan):
            kept, _, _ = schema.soft_nms(spans, scores, groups, sigma, -math.inf, None)
            assert len(set(kept.tolist())) == len(kept) <= 6


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 1e6, -1e9]), st.integers(0, 6), st.integers(0, 3)), max_size=12),
    st.integers(-40, 0),
)
def test_segments_of_every_scale_meet(rows, exponent):
    # Short segments far from the origin, in many groups: sums of positions and offsets would swallow them.
    unit = 2.0**exponent
    rows = [((at + (s * unit if at == 0 else s)), w * (unit if at == 0 else 1)) for at, s, w in rows]
    segments = torch.tensor([(a, a + w) for a, w in rows], dtype=torch.float64).reshape(-1, 2).repeat(3, 1)
    groups = torch.arange(3).repeat_interleave(len(rows))
    scores = torch.linspace(1, 0, len(segments), dtype=torch.float64)
    got = d2k.nms(segments, scores, 0.5, groups)
    assert got.tolist() == oracle(segments.tolist(), scores.tolist(), 0.5, groups.tolist())
    index, decayed = d2k.soft_nms(segments, scores, 0.5, groups)
    want = soft_oracle(segments.tolist(), scores.tolist(), 0.5, groups.tolist(), 0.0)
    assert sorted(index.tolist()) == sorted(i for i, _ in want)
    torch.testing.assert_close(decayed, torch.tensor([s for _, s in want], dtype=torch.float64))


INT64 = (-(2**63), 2**63 - 1)
origins = st.sampled_from([0, 1_700_000_000 * 10**9, 2**53, -(2**62), INT64[0], INT64[1] - 40])
# About one origin each, or reaching from one to another: up to 2⁶⁴ long.
integers = st.tuples(origins, st.integers(0, 24), st.one_of(st.integers(0, 12), origins)).map(
    lambda t: sorted(max(INT64[0], min(INT64[1], v)) for v in (t[0] + t[1], t[0] + t[1] + t[2] if t[2] < 99 else t[2]))
)
whole_rows = st.lists(st.tuples(integers, st.integers(1, 8).map(lambda v: v / 8), st.integers(-1, 1)), max_size=16)


@given(whole_rows, levels, st.booleans(), st.sampled_from(["tensors", "arrays", "clusters"]))
def test_integers_are_subtracted_before_they_are_rounded(backend, rows, level, inclusive, way):
    """Nanoseconds since 1970 have 61 bits, a float64 53."""
    segments, scores, groups = tensors(rows)
    segments = torch.tensor([s for s, *_ in rows], dtype=torch.int64).reshape(-1, 2)
    want = oracle(segments.tolist(), scores.tolist(), level, groups.tolist(), inclusive)
    soft = soft_oracle(segments.tolist(), scores.tolist(), 0.5, groups.tolist(), 0.0)
    if backend == "reference" or way == "tensors":
        kept = d2k.nms(segments, scores, level, groups, inclusive=inclusive)
        index, decayed = d2k.soft_nms(segments, scores, 0.5, groups)
    elif way == "arrays":
        arrays = segments.numpy(), scores.numpy(), groups.numpy()
        kept = torch.from_numpy(d2k.nms(*arrays[:2], level, arrays[2], inclusive=inclusive))
        index, decayed = map(torch.from_numpy, d2k.soft_nms(*arrays[:2], 0.5, arrays[2]))
    else:
        native, c = d2k.backends.module("nms", "native"), _native.module()
        given = segments, scores, groups
        if not rows:
            return
        kept, _ = native.nms_by_clusters(c.nms_as_block_cpu, *given, level, inclusive, None)
        index, decayed, _ = native.soft_nms_by_clusters(c.soft_nms_as_block_cpu, *given, 0.5, 0.0, None)
    assert kept.tolist() == want
    assert sorted(index.tolist()) == sorted(i for i, _ in soft)
    torch.testing.assert_close(decayed, torch.tensor([s for _, s in soft], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "int64"])
def test_every_kind_of_integer_is_taken(kind):
    spans, scores = [[0, 30], [10, 40], [80, 90]], torch.tensor([0.25, 0.75, 0.5])
    assert d2k.nms(torch.tensor(spans, dtype=getattr(torch, kind)), scores, 0.4).tolist() == [1, 2]
    if d2k.backends.can_run("nms", "native") and d2k.backends.asked_for("nms") == "native":
        assert d2k.nms(np.array(spans, dtype=kind), scores.numpy(), 0.4).tolist() == [1, 2]
        with pytest.raises(ValueError, match="segments must be integers that int64 holds, or floats, got uint64"):
            d2k.nms(np.array(spans, np.uint64) + np.uint64(2**63), scores.numpy(), 0.4)
        with pytest.raises(ValueError, match=r"or floats, got datetime64"):
            d2k.nms(np.array(spans, "datetime64[ns]"), scores.numpy(), 0.4)
    for other in (torch.complex64, torch.bool):
        with pytest.raises(ValueError, match="segments must be integers that int64 holds, or floats"):
            d2k.nms(torch.tensor(spans).to(other), scores, 0.4)


def test_ties_keep_their_order_and_the_threshold_itself_removes():
    segments = torch.tensor([[0, 3], [0, 3], [2, 4], [1, 3]])
    scores = torch.full((4,), 0.5)
    # IoU of [0, 3) with [2, 4) is 1/4, with [1, 3) 2/3.
    assert d2k.nms(segments, scores, 0.25).tolist() == [0]
    assert d2k.nms(segments, scores, 0.25, inclusive=False).tolist() == [0, 2]
    assert d2k.nms(segments, scores, 1.0, inclusive=False).tolist() == [0, 1, 2, 3]
    assert d2k.soft_nms(segments[:2], scores[:2], 1e9)[0].tolist() == [0, 1]


def test_zero_length_segments_overlap_nothing():
    segments, scores = torch.tensor([[2, 2], [2, 2], [0, 4]]), torch.tensor([0.9, 0.8, 0.7])
    assert d2k.nms(segments, scores, 0.1).tolist() == [0, 1, 2]
    assert d2k.nms(segments, scores, 0.0).tolist() == [0]
    assert d2k.nms(segments, scores, 0.0, inclusive=False).tolist() == [0, 1, 2]
    assert torch.equal(d2k.soft_nms(segments, scores, 0.1)[1], scores)


def test_soft_nms_by_hand():
    segments, scores = torch.tensor([[0.0, 2], [1, 3], [0, 2], [9, 10]]), torch.tensor([1.0, 0.9, -0.5, 0.125])
    index, decayed = d2k.soft_nms(segments, scores, 0.5, score_threshold=-1)
    assert index.tolist() == [0, 1, 3, 2]
    torch.testing.assert_close(decayed, torch.tensor([1.0, 0.9 * math.exp(-2 / 9), 0.125, -0.5]))
    assert d2k.soft_nms(segments, scores, 0.5, score_threshold=0.125)[0].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.float8_e4m3fn])
@pytest.mark.parametrize("count", [3, 300])
def test_times_that_torch_does_not_compare(dtype, count):
    segments = torch.stack([torch.arange(count) % 8, torch.arange(count) % 8 + 2], 1)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(0))
    want = d2k.nms(segments, scores, 0.3)
    assert torch.equal(d2k.nms(segments.to(dtype), scores, 0.3), want)
    with pytest.raises(ValueError, match=r"segments\[1\] = .* ends before it starts"):
        d2k.nms(segments.flip(1).index_fill(0, torch.tensor([0]), 1).to(dtype), scores, 0.3)


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_scores_of_8_bits(backend, dtype):
    segments = torch.stack([torch.arange(20.0) % 8, torch.arange(20.0) % 8 + 2], 1)
    scores = torch.rand(20, generator=torch.Generator().manual_seed(0)).to(dtype)
    want, (index, decayed) = d2k.nms(segments, scores.double(), 0.3), d2k.soft_nms(segments, scores.double(), 0.5)
    with d2k.backends.use(backend):
        assert torch.equal(d2k.nms(segments, scores, 0.3), want)
        got = d2k.soft_nms(segments, scores, 0.5)
    assert torch.equal(got[0], index) and got[1].dtype == dtype
    assert torch.equal(got[1].double(), decayed.to(dtype).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_score_dtypes(dtype):
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, 60, (200,), generator=generator)
    segments = torch.stack([start, start + torch.randint(0, 9, (200,), generator=generator)], 1)
    groups = torch.randint(0, 5, (200,), generator=generator)
    scores = torch.rand(200, generator=generator).to(dtype)
    want = oracle(segments.tolist(), scores.tolist(), 0.4, groups.tolist())
    for as_segments in (torch.int64, torch.int32, torch.float16, torch.float32):
        for as_groups in (torch.int64, torch.int32, torch.uint8):
            assert d2k.nms(segments.to(as_segments), scores, 0.4, groups.to(as_groups)).tolist() == want
    index, decayed = d2k.soft_nms(segments, scores, 0.5, groups)
    soft = dict(soft_oracle(segments.tolist(), scores.tolist(), 0.5, groups.tolist(), 0.0))
    assert decayed.dtype == dtype and bool((decayed[:-1] >= decayed[1:]).all())
    torch.testing.assert_close(decayed, torch.tensor([soft[i] for i in index.tolist()]).to(dtype))


def test_empty_and_single():
    none = torch.zeros(0, 2)
    assert d2k.nms(none, torch.zeros(0), 0.5).shape == (0,)
    index, scores = d2k.soft_nms(none, torch.zeros(0), 0.5)
    assert index.shape == scores.shape == (0,) and index.dtype == torch.int64
    one = torch.tensor([[3.0, 3.0]])
    assert d2k.nms(one, torch.tensor([-1.0]), 0.0).tolist() == [0]
    assert d2k.soft_nms(one, torch.tensor([0.0]), 0.5)[0].tolist() == []


def test_scores_that_need_a_gradient_are_no_obstacle():
    scores = torch.rand(3, requires_grad=True)
    _, decayed = d2k.soft_nms(torch.tensor([[0, 2], [1, 3], [1, 2]]), scores, 0.5)
    assert not decayed.requires_grad


@pytest.mark.parametrize("m", [0, 12])
def test_opcheck(m):
    start = torch.arange(m) % 5
    segments, scores = torch.stack([start, start + 3], 1), torch.linspace(1, 0.1, m)
    groups = torch.arange(m) % 2
    for capacity in (None, 12):
        torch.library.opcheck(schema.nms.op, (segments, scores, groups, 0.4, True, capacity))
        torch.library.opcheck(schema.soft_nms.op, (segments, scores, groups, 0.5, 0.2, capacity))


def test_compiles_whole():
    segments, scores = torch.tensor([[0.0, 3], [1, 4], [8, 9]]), torch.tensor([0.2, 0.9, 0.5])

    def best(segments, scores):
        return d2k.nms(segments, scores, 0.4), d2k.soft_nms(segments, scores, 0.5)[0]

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # torch 2.8 breaks the graph without
        hard, soft = torch.compile(best, fullgraph=True, backend="aot_eager")(segments, scores)
    assert hard.tolist() == [1, 2] and soft.tolist() == best(segments, scores)[1].tolist()


@pytest.mark.parametrize("op", ["nms", "soft_nms"])
@pytest.mark.parametrize(
    ("segments", "scores", "groups", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(2), None, r"segments must be \(m, 2\) starts and ends, got \(2, 3\)"),
        ([[0, 1]], torch.zeros(1), None, r"segments must be \(m, 2\) starts and ends, got list"),
        (torch.zeros(2, 2), torch.zeros(3), None, r"scores must be float \(2,\), got torch.float32 \(3,\)"),
        (torch.zeros(2, 2), torch.zeros(2).long(), None, r"scores must be float \(2,\), got torch.int64"),
        (torch.zeros(2, 2), torch.zeros(2), torch.zeros(2), r"groups must be integers \(2,\), got torch.float32"),
        (torch.zeros(2, 2), torch.zeros(2), torch.zeros(1).long(), r"groups must be integers \(2,\), got .* \(1,\)"),
        (torch.zeros(2, 2), torch.tensor([0, math.nan]), None, r"scores\[1\] is NaN"),
        (torch.tensor([[0.0, 1], [3, 2]]), torch.zeros(2), None, r"segments\[1\] = \[3.0, 2.0\] ends before it starts"),
        (torch.tensor([[0.0, math.nan]]), torch.zeros(1), None, r"segments\[0\] = \[0.0, nan\]"),
    ],
)
def test_errors_name_the_argument(op, segments, scores, groups, says):
    with pytest.raises(ValueError, match=f"{op}: {says}"):
        getattr(d2k, op)(segments, scores, 0.5, groups)


def test_errors_name_thresholds():
    segments, scores = torch.zeros(1, 2), torch.zeros(1)
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"iou_threshold must be at least 0 and at most 1, got {bad}"):
            d2k.nms(segments, scores, bad)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"sigma must be above 0, got {bad}"):
            d2k.soft_nms(segments, scores, bad)


NUMPY_ALONE = """
import sys
import numpy as np
import d2kernels as d2k
from d2kernels import _native
spans, scores = np.array([[0, 3], [1, 4], [8, 9]]), np.array([0.25, 0.75, 0.5], np.float16)
assert d2k.nms(spans, scores, 0.4).tolist() == [1, 2]
index, decayed = d2k.soft_nms(spans[::-1], scores[::-1], 0.5, np.zeros(3, np.uint8))
assert index.tolist() == [1, 0, 2] and decayed.dtype == np.float16
for bad, says in (
    ((spans[:, :1], scores, 0.5), "starts and ends, got (3, 1)"),
    ((spans, scores[:2], 0.5), "scores must"),
    ((spans, scores * np.nan, 0.5), "scores[0] is NaN"),
    ((spans[:, ::-1], scores, 0.5), "ends before"),
    ((spans, scores, 0.5, scores), "groups must be integers"),
):
    try:
        d2k.nms(*bad)
    except ValueError as error:
        assert says in str(error), error
    else:
        raise AssertionError(bad)
assert d2k.nms(np.zeros((0, 2)), np.zeros(0), 0.5).tolist() == []
assert "torch" not in sys.modules
"""


@native_only
def test_numpy_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", NUMPY_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_plus_one_is_the_convention_of_inclusive_ends(as_array, dtype):
    """IoU with lengths of end - start + 1, as a plain reading of Fast R-CNN's loop has it."""
    generator = torch.Generator().manual_seed(4)
    start = torch.randint(0, 40, (60,), generator=generator)
    segments = torch.stack([start, start + torch.randint(0, 9, (60,), generator=generator)], 1).to(dtype)
    scores = torch.randperm(60, generator=generator).double() / 60
    a, b = segments.double().unbind(1)
    left, kept = scores.argsort(descending=True).tolist(), []
    while left:
        i, *rest = left
        kept.append(i)
        both = [max(0.0, float(min(b[i], b[j]) - max(a[i], a[j]) + 1)) for j in rest]
        iou = [o / float((b[i] - a[i] + 1) + (b[j] - a[j] + 1) - o) for o, j in zip(both, rest, strict=True)]
        left = [j for j, o in zip(rest, iou, strict=True) if o < 0.4]
    given = (segments.numpy(), scores.numpy()) if as_array else (segments, scores)
    assert d2k.nms(*given, 0.4, plus_one=True).tolist() == kept
    assert d2k.nms(*given, 0.4).tolist() != kept
    later = segments.clone()
    later[:, 1] += 1
    soft, want = d2k.soft_nms(*given, 0.5, plus_one=True), d2k.soft_nms(later, scores, 0.5)
    assert soft[0].tolist() == want[0].tolist() and soft[1].tolist() == want[1].tolist()


def test_plus_one_does_not_wrap():
    with pytest.raises(ValueError, match="plus_one"):
        d2k.nms(torch.tensor([[0, 2**63 - 1]]), torch.tensor([1.0]), 0.5, plus_one=True)


@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=native_only)])
def test_capacity(backend, arrays):
    segments, scores = torch.tensor([[0.0, 3], [1, 4], [8, 9]]), torch.tensor([0.2, 0.9, 0.5])
    given = (segments.numpy(), scores.numpy()) if arrays else (segments, scores)
    with d2k.backends.use(backend, "nms"):
        kept, count = d2k.nms(*given, 0.4, capacity=4)
        assert kept.tolist() == [1, 2, -1, -1] and int(count) == 2
        index, decayed, count = d2k.soft_nms(*given, 0.5, capacity=4)
        want = d2k.soft_nms(*given, 0.5)
        assert index.tolist() == [*want[0].tolist(), -1] and decayed.tolist() == [*want[1].tolist(), 0]
        assert int(count) == 3
        for call in (d2k.nms, d2k.soft_nms):
            with pytest.raises(ValueError, match=r"capacity = 1 is too small; [23] is needed"):
                call(*given, 0.4, capacity=1)
            empty = call(given[0][:0], given[1][:0], 0.4, capacity=2)
            assert empty[0].tolist() == [-1, -1] and int(empty[-1]) == 0
