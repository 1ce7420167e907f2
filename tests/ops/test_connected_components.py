"""connected_components against a plain Python loop, and native against reference."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.connected_components import reference, schema

NAN = float("nan")
native_only = pytest.mark.skipif(
    not d2k.backends.can_run("connected_components", "native"), reason="no compiled extension"
)
BACKENDS = ["reference", pytest.param("native", marks=native_only)]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with d2k.backends.use(request.param, "connected_components"):
        yield request.param


def oracle(sequences, thresholds, class_mask=None, min_length=1, distinct=True):
    """Rows (sequence, label, threshold, start, end); sequences: lists of rows; thresholds: (T,) or [i][c] -> (T,)."""
    found = []
    for i, rows in enumerate(sequences):
        for c in range(len(rows[0]) if rows else 0):
            if class_mask is not None and not class_mask[i][c]:
                continue
            scores = [row[c] for row in rows]
            steps = thresholds if np.ndim(thresholds) == 1 else thresholds[i][c]
            for level, threshold in enumerate(steps):
                t = 0
                while t < len(scores):
                    if not scores[t] > threshold:
                        t += 1
                        continue
                    start = t
                    while t < len(scores) and scores[t] > threshold:
                        t += 1
                    neighbours = [scores[j] for j in (start - 1, t) if 0 <= j < len(scores)]
                    new = level == 0 or any(x > steps[level - 1] for x in neighbours)
                    if t - start >= min_length and (new or not distinct):
                        found.append((i, c, level, start, t))
    return found


def rows_of(segments):
    return [tuple(row) for row in torch.stack([torch.as_tensor(column) for column in segments], 1).tolist()]


LEVELS = (-0.5, 0.0, 0.25, 0.5, 1.0)
score = st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0, NAN, float("inf"), -float("inf")])


@st.composite
def problems(draw):
    classes = draw(st.integers(1, 3))
    sequences = draw(
        st.lists(st.lists(st.lists(score, min_size=classes, max_size=classes), max_size=14), min_size=1, max_size=4)
    )
    if draw(st.booleans()):
        thresholds = sorted(draw(st.sets(st.sampled_from(LEVELS), min_size=1)))
    else:
        own = st.lists(st.sampled_from(LEVELS), min_size=3, max_size=3).map(sorted)
        row = st.lists(own, min_size=classes, max_size=classes)
        thresholds = draw(st.lists(row, min_size=len(sequences), max_size=len(sequences)))
    row = st.lists(st.booleans(), min_size=classes, max_size=classes)
    mask = draw(st.none() | st.lists(row, min_size=len(sequences), max_size=len(sequences)))
    return sequences, classes, thresholds, mask, draw(st.integers(1, 4)), draw(st.booleans()), draw(st.integers(0, 2))


def packed(sequences, classes, gap, dtype=torch.float32):
    batch = d2k.Ragged.pack([torch.tensor(s, dtype=dtype).reshape(-1, classes) for s in sequences], gap=gap)
    return batch.with_values(batch.values.masked_fill(~batch.row_mask()[:, None], 9.0))


@given(problems())
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_equals_a_plain_loop(backend_name, problem):
    sequences, classes, thresholds, mask, min_length, distinct, gap = problem
    batch = packed(sequences, classes, gap)
    class_mask = None if mask is None else torch.tensor(mask)
    with d2k.backends.use(backend_name, "connected_components"):
        got = d2k.connected_components(
            batch, torch.tensor(thresholds), class_mask=class_mask, min_length=min_length, distinct=distinct
        )
    assert all(column.dtype == torch.int64 for column in got)
    assert rows_of(got) == oracle(sequences, thresholds, mask, min_length, distinct)


@native_only
@given(problems())
def test_numpy_equals_tensors(problem):
    sequences, classes, thresholds, mask, min_length, distinct, gap = problem
    batch = packed(sequences, classes, gap)
    got = d2k.connected_components(
        batch.values.numpy(),
        np.array(thresholds),
        offsets=batch.offsets.numpy(),
        lengths=batch.lengths.numpy(),
        class_mask=None if mask is None else np.array(mask),
        min_length=min_length,
        distinct=distinct,
    )
    assert all(isinstance(column, np.ndarray) and column.dtype == np.int64 for column in got)
    assert rows_of(got) == oracle(sequences, thresholds, mask, min_length, distinct)


def random_batch(lengths=(7, 0, 12, 1, 90), classes=3, gap=1, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.rand(s, classes, generator=generator, dtype=torch.float64).to(dtype) for s in lengths]
    return d2k.Ragged.pack(parts, gap=gap)


def test_three_forms_agree(backend):
    x = random_batch()
    dense, mask = x.padded(fill=NAN)
    want = rows_of(d2k.connected_components(x, [0.2, 0.5, 0.8]))
    assert want
    for got in (
        d2k.connected_components(x.values, [0.2, 0.5, 0.8], offsets=x.offsets, lengths=x.lengths),
        d2k.connected_components(dense, torch.tensor([0.2, 0.5, 0.8]), lengths=x.lengths),
        d2k.connected_components(dense.nan_to_num(5.0), np.array([0.2, 0.5, 0.8]), mask=mask),
    ):
        assert rows_of(got) == want


def test_one_class_may_drop_its_axis(backend):
    x = random_batch(classes=1)
    dense, mask = x.with_values(x.values[:, 0]).padded()
    want = rows_of(d2k.connected_components(x, [0.3]))
    assert rows_of(d2k.connected_components(x.with_values(x.values[:, 0]), [0.3])) == want
    assert rows_of(d2k.connected_components(dense, [0.3], mask=mask)) == want


def test_distinct_intervals_are_the_same_and_at_most_one_a_row(backend):
    x = random_batch((40, 200), classes=4)
    steps = [i / 40 for i in range(40)]
    every = rows_of(d2k.connected_components(x, steps, distinct=False))
    once = rows_of(d2k.connected_components(x, steps))
    interval = {(i, c, a, b): level for i, c, level, a, b in reversed(every)}
    assert {(i, c, a, b): level for i, c, level, a, b in once} == interval and len(once) == len(interval)
    assert len(once) < len(every) and len(once) <= 240 * 4


def test_edges(backend):
    none = d2k.connected_components(torch.zeros(0, 3), [0.5], offsets=torch.tensor([0]))
    assert rows_of(none) == [] and none.start.dtype == torch.int64
    empty = torch.tensor([0, 0, 0])
    assert rows_of(d2k.connected_components(torch.zeros(0, 3), [0.5], offsets=empty)) == []
    assert rows_of(d2k.connected_components(torch.zeros(4, 0), [0.5], offsets=torch.tensor([0, 4]))) == []
    ones = torch.ones(6, 1)
    whole = d2k.connected_components(ones, [0.0, 0.5, 1.0], offsets=torch.tensor([0, 4, 6]))
    assert rows_of(whole) == [(0, 0, 0, 0, 4), (1, 0, 0, 0, 2)]
    single = d2k.connected_components(torch.tensor([[0.7]]), [0.5], offsets=torch.tensor([0, 1]))
    assert rows_of(single) == [(0, 0, 0, 0, 1)]


def test_strictly_above_and_nan_is_above_nothing(backend):
    x = torch.tensor([0.5, 0.75, NAN, 0.75, 1.0, 0.75])
    got = d2k.connected_components(x, [0.5, 0.75], offsets=torch.tensor([0, 6]))
    assert rows_of(got) == [(0, 0, 0, 1, 2), (0, 0, 0, 3, 6), (0, 0, 1, 4, 5)]


def test_nan_neighbours_make_no_run_new(backend):
    x = torch.tensor([NAN, 0.9, NAN])
    assert rows_of(d2k.connected_components(x, [0.1, 0.5], offsets=torch.tensor([0, 3]))) == [(0, 0, 0, 1, 2)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(backend, dtype):
    x = random_batch(dtype=dtype)
    steps = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float64 if dtype == torch.float64 else torch.float32).tolist()
    assert rows_of(d2k.connected_components(x, steps)) == oracle([s.tolist() for s in x.unpack()], steps)


def test_strides(backend):
    x = random_batch()
    want = rows_of(d2k.connected_components(x, [0.4]))
    wide = torch.full((x.shape[0], 6), NAN)
    wide[:, ::2] = x.values
    assert rows_of(d2k.connected_components(x.with_values(wide[:, ::2]), [0.4])) == want
    assert rows_of(d2k.connected_components(x.with_values(x.values.t().contiguous().t()), [0.4])) == want


@native_only
def test_numpy_strides_and_dtypes():
    values = np.random.default_rng(0).random((30, 4))
    values[3] = NAN
    for dtype in (np.float16, np.float32, np.float64, ">f4"):
        x = values.astype(dtype)
        want = oracle([x[::-1, ::2].astype(float).tolist()], [0.25, 0.5])
        assert rows_of(d2k.connected_components(x[::-1, ::2], [0.25, 0.5], offsets=[0, 30])) == want
    field = np.zeros(30, dtype=[("skip", "i1"), ("score", "f4")])
    field["score"] = values[:, 0]
    got = d2k.connected_components(field["score"], [0.5], offsets=[0, 30])
    assert rows_of(got) == oracle([[[v] for v in field["score"]]], [0.5])


def test_neighbours_do_not_matter(backend):
    x = random_batch()
    together = [row for row in rows_of(d2k.connected_components(x, [0.3, 0.6])) if row[0] == 4]
    alone = rows_of(d2k.connected_components(x.unpack()[4], [0.3, 0.6], offsets=torch.tensor([0, 90])))
    assert [row[1:] for row in together] == [row[1:] for row in alone] and alone


@native_only
def test_a_million_rows_and_all_threads_agree():
    x = torch.rand(1_000_000, 2, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0, 10, 999_000, 1_000_000])
    steps = [0.25, 0.5, 0.75]
    with d2k.backends.use("reference", "connected_components"):
        want = d2k.connected_components(x, steps, offsets=offsets)
    for got in (
        d2k.connected_components(x, steps, offsets=offsets),
        d2k.connected_components(x.numpy(), steps, offsets=offsets.numpy()),
    ):
        assert all(torch.equal(a, torch.as_tensor(b)) for a, b in zip(want, got, strict=True))


@native_only
def test_bad_offsets_never_reach_foreign_memory():
    buffer = torch.full((300, 2), 9.0)
    buffer[100:200] = 0
    inside = buffer[100:200]
    offsets = torch.tensor([-50, 90, 2**62, -(2**63), 0])
    lengths = torch.tensor([120, 2**62, 5, -3])
    with d2k.backends.use("native", "connected_components"):
        found, _ = schema.connected_components(inside, offsets, lengths, torch.tensor([0.5]), None, 1, True, None)
        assert found.shape == (5, 0)
        inside[:] = 1
        found, _ = schema.connected_components(inside, offsets, lengths, torch.tensor([0.5]), None, 1, True, None)
    assert found[3:].min() >= 0 and found[4].max() <= 100 and found.shape == (5, 4)


def test_no_gradient_is_asked_for(backend):
    x = torch.rand(9, 2, requires_grad=True)
    got = d2k.connected_components(x, [0.5], offsets=torch.tensor([0, 9]))
    assert not any(column.requires_grad for column in got)


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, False, True]] * 5)])
def test_opcheck(backend, mask):
    x = random_batch()
    own = torch.rand(5, 3, 4).sort(-1).values
    for thresholds in (torch.tensor([0.3, 0.6]), own):
        for capacity in (None, 900):
            given = x.values, x.offsets, x.lengths, thresholds, mask, 1, True, capacity
            torch.library.opcheck(schema.connected_components.op, given)


def test_reference_alone():
    x = random_batch()
    steps = torch.tensor([0.3, 0.6])
    got = reference.connected_components(x.values, x.offsets, x.lengths, steps, None, 2, False)
    assert rows_of(got) == oracle([s.tolist() for s in x.unpack()], steps.tolist(), min_length=2, distinct=False)


def test_compiles_whole():
    x = random_batch()

    def count(values):
        return d2k.connected_components(x.with_values(values), [0.5]).start.shape[0]

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        assert torch.compile(count, fullgraph=True, backend="aot_eager")(x.values) == count(x.values)


NUMPY_ALONE = """
import sys
import numpy as np
import d2kernels as d2k
scores = np.array([[0, 1], [1, 1], [1, 0]], dtype=np.float32)
got = d2k.connected_components(scores, [0.5], offsets=np.array([0, 3]))
assert [c.tolist() for c in got] == [[0, 0], [0, 1], [0, 0], [1, 0], [3, 2]], got
assert "torch" not in sys.modules
"""


@native_only
def test_numpy_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", NUMPY_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


X = np.ones((4, 2), np.float32)


@pytest.mark.parametrize("convert", [torch.as_tensor, pytest.param(np.asarray, marks=native_only)])
@pytest.mark.parametrize(
    ("scores", "thresholds", "kwargs", "says"),
    [
        (X, [0.5, 0.5], {"offsets": [0, 4]}, r"thresholds must rise strictly in .*float32, got \[0.5, 0.5\]"),
        (X, [0.5, NAN], {"offsets": [0, 4]}, "thresholds must rise strictly"),
        (X, [0.1, 0.1 + 1e-12], {"offsets": [0, 4]}, "thresholds must rise strictly in .*float32"),
        (X, [], {"offsets": [0, 4]}, r"with T at least 1, got \(0,\)"),
        (X, np.ones((1, 3, 2)), {"offsets": [0, 4]}, r"thresholds must have shape \(T,\) or \(n, C, T\) = \(1, 2, T\)"),
        (X, [[[1, 2], [2, 1]]], {"offsets": [0, 4]}, "thresholds must not fall"),
        (X, [0.5], {"offsets": [0, 4], "min_length": 0}, "min_length must be at least 1, got 0"),
        (X, [0.5], {"offsets": [0, 4], "class_mask": np.ones((2, 2), bool)}, r"class_mask must have shape \(1, 2\)"),
        (X.astype(int), [0.5], {"offsets": [0, 4]}, "scores must be float rows"),
        (X[None, None], [0.5], {"lengths": [1]}, "scores must be float rows"),
        (X, [0.5], {"offsets": [0, 9]}, "offsets must rise"),
        (X, [0.5], {"offsets": [0, 4], "lengths": [5]}, r"lengths\[0\] = 5 does not fit"),
        (X, [0.5], {}, "needs offsets"),
        (X[:, 0], [0.5], {"lengths": [4]}, "at least 2 dimensions"),
        (X, [0.5], {"mask": np.array([[False, True]] * 4)}, "first rows only"),
        (X, [0.5], {"mask": np.ones((4, 3), bool)}, r"mask must be bool with shape \(4, 2\)"),
        (X, [0.5], {"offsets": [0, 4], "mask": np.ones((4, 2), bool)}, "not both"),
        (X, [0.5], {"lengths": [1, 1]}, "4 dense sequences need 4 lengths, got 2"),
    ],
)
def test_errors_name_the_argument(convert, scores, thresholds, kwargs, says):
    kwargs = {k: convert(np.asarray(v)) if k != "min_length" else v for k, v in kwargs.items()}
    with pytest.raises(ValueError, match=says):
        d2k.connected_components(convert(scores), thresholds, **kwargs)
    if "class_mask" in kwargs:
        with pytest.raises(TypeError, match="class_mask must be bool"):
            d2k.connected_components(convert(scores), [0.5], offsets=kwargs["offsets"], class_mask=convert(X[:1]))


@native_only
def test_numpy_refuses_another_backend_asked_for_by_name():
    with d2k.backends.use("triton"), pytest.raises(d2k.backends.BackendUnavailable, match="takes torch tensors"):
        d2k.connected_components(X, [0.5], offsets=[0, 4])


@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
def test_capacity(backend, arrays):
    x = random_batch()
    given = (x.values, x.offsets, x.lengths)
    values, offsets, lengths = (t.numpy() for t in given) if arrays else given

    def run(**kwargs):
        return d2k.connected_components(values, [0.3, 0.6], offsets=offsets, lengths=lengths, **kwargs)

    want = run()
    m = len(want.start)
    for capacity in (m, m + 7):
        got, count = run(capacity=capacity)
        assert int(count) == m and all(c[:m].tolist() == w.tolist() for c, w in zip(got, want, strict=True))
        assert all(c[m:].tolist() == [-1] * (capacity - m) for c in got)
    with pytest.raises(ValueError, match=f"capacity = {m - 1} is too small; {m} is needed"):
        run(capacity=m - 1)


def test_a_capacity_compiles_whole():
    x = random_batch()

    def found(values):
        segments, count = d2k.connected_components(x.with_values(values), [0.3], capacity=900)
        return *segments, count

    call = torch.compile(found, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(call(x.values), found(x.values), strict=True))
