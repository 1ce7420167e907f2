"""gather_rows: native against the composition, bit for bit, and against slices of the source."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.gather_rows import DTYPES, gather_rows, schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("gather_rows", "native"), reason="no compiled extension")
BACKENDS = [pytest.param("native", marks=native_only), "reference"]


def layout(lengths, gap=0):
    lengths = torch.tensor(lengths, dtype=torch.int64)
    return torch.cat([lengths.new_zeros(1), (lengths + gap).cumsum(0)]) + gap, lengths


def rows(count, width, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def gathered(backend, source, first, lengths, gap=0, dtype=torch.float32, more=0):
    offsets, lengths = layout(lengths, gap)
    out = torch.full((int(offsets[-1]) + more, source.shape[1]), float("nan"), dtype=dtype)
    with d2k.backends.use(backend, "gather_rows"):
        assert gather_rows(source, torch.tensor(first, dtype=torch.int64), offsets, lengths, out) is out
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout(backend, stored, dtype):
    source = rows(90, 7, stored)
    source[3, :4] = torch.tensor([float("inf"), -0.0, 1e-7, -65504.0])  # a subnormal and the largest of float16
    first, lengths = [3, 90, 0, 41, 89, 3], [20, 0, 90, 1, 1, 5]
    for gap, more in ((0, 0), (2, 0), (1, 30)):
        got = gathered(backend, source, first, lengths, gap, dtype, more)
        zeros = source.new_zeros(gap, 7)
        parts = [zeros, *(t for a, n in zip(first, lengths, strict=True) for t in (source[a : a + n], zeros))]
        want = torch.cat([*parts, source.new_zeros(more, 7)]).to(dtype)
        assert torch.equal(got, want) and torch.equal(got.signbit(), want.signbit())


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_ones(backend):
    assert gathered(backend, rows(5, 3), [], []).shape == (0, 3)
    assert gathered(backend, rows(5, 3), [], [], gap=2).tolist() == [[0, 0, 0]] * 2
    assert gathered(backend, rows(0, 3), [0], [0], gap=1).tolist() == [[0, 0, 0]] * 2
    assert gathered(backend, rows(5, 0), [1], [3]).shape == (3, 0)
    assert torch.equal(gathered(backend, rows(5, 3), [5, 4], [0, 1]), rows(5, 3)[4:])


@native_only
@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.integers(1, 40), st.integers(0, 3))
def test_native_equals_the_composition(data, stored, dtype, width, gap):
    source = rows(60, width, stored)
    lengths = data.draw(st.lists(st.integers(0, 60), max_size=9))
    first = [data.draw(st.integers(0, 60 - n)) for n in lengths]
    native, reference = (gathered(b, source, first, lengths, gap, dtype, 5) for b in ("native", "reference"))
    assert torch.equal(native, reference)


@native_only
def test_the_same_on_any_number_of_threads():
    source, before = rows(4000, 300, torch.float16), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gathered("native", source, [7, 2000, 0], [1900, 2000, 900], gap=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@native_only
@pytest.mark.parametrize("stored", DTYPES)
def test_opcheck(stored):
    offsets, lengths = layout([3, 0, 2], gap=1)
    first = torch.tensor([1, 0, 4])
    torch.library.opcheck(schema.gather_rows.op, (rows(9, 4, stored), first, offsets, lengths, torch.empty(10, 4)))


BAD = [
    ({"first": [-1, 0]}, r"2 rows from first\[0\] = -1 on are not among the 6 rows"),
    ({"first": [0, 4]}, r"3 rows from first\[1\] = 4 on are not among the 6 rows"),
    ({"first": [2**63 - 1, 0]}, r"first\[0\] = 9223372036854775807"),
    ({"offsets": [0, 2, 9]}, "offsets must rise from at least 0 to at most the 5 rows"),
    ({"lengths": [3, 2]}, r"lengths\[0\] = 3 does not fit the 2 rows"),
    ({"first": [0]}, r"first must be contiguous int64 \(2,\) beside 2 lengths"),
    ({"offsets": [0, 5]}, r"offsets must be contiguous int64 \(3,\)"),
    ({"source": rows(6, 4).double()}, "source must be contiguous rows .* got torch.float64"),
    ({"source": rows(4, 6).T}, "source must be contiguous rows"),
    ({"out": torch.zeros(5, 3)}, "source has 4 columns but out has 3"),
    ({"out": torch.zeros(5)}, "out must be contiguous rows"),
]


@pytest.mark.parametrize(("wrong", "says"), BAD)
def test_says_what_is_wrong(wrong, says):
    given_ = {"source": rows(6, 4), "first": [0, 3], "offsets": [0, 2, 5], "lengths": [2, 3], "out": torch.ones(5, 4)}
    given_ |= wrong
    arguments = [x if isinstance(x, torch.Tensor) else torch.tensor(x) for x in given_.values()]
    with pytest.raises(ValueError, match=f"gather_rows: .*{says}"):
        gather_rows(*arguments)
    assert "out" in wrong or arguments[-1].eq(1).all()
