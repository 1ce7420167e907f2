"""lowest_attention against torch.argmin of each sequence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.lowest_attention import schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("lowest_attention", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "lowest_attention"):
        yield request.param



def batch(sequences, gap=0, dtype=torch.float64):
    return d2k.Ragged.pack([torch.tensor(s, dtype=dtype) for s in sequences], gap=gap)


def oracle(ragged):
    """The first of each sequence's lowest rows; torch.argmin leaves open which of a tie it gives."""
    found = []
    for rows in ragged.unpack():
        values = rows.tolist()
        nans = [i for i, v in enumerate(values) if math.isnan(v)]
        found.append(nans[0] if nans else values.index(min(values)) if values else -1)
    return torch.tensor(found, dtype=torch.int64)


# Few distinct values, so that ties are common.
values = st.sampled_from([0.0, -0.0, 0.25, 0.5, -1.0, math.inf, -math.inf, math.nan])


@settings(deadline=None)
@given(st.lists(st.lists(values, max_size=12), min_size=1, max_size=6), st.integers(0, 3))
def test_equals_the_loop(sequences, gap):
    x = batch(sequences, gap)
    got = d2k.lowest_attention(x)
    assert got.dtype == torch.int64 and torch.equal(got, oracle(x))


def test_equals_argmin_where_it_is_unique():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(s, generator=generator) for s in (5, 1, 300, 17)]
    assert d2k.lowest_attention(d2k.Ragged.pack(rows)).tolist() == [int(r.argmin()) for r in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["random", "tied", "nan"])
def test_long_sequences(dtype, kind):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(s, generator=generator) for s in (64, 65, 4097, 128, 1)]
    if kind == "tied":
        rows = [r.round() for r in rows]
    if kind == "nan":
        rows = [r.where(torch.rand(len(r), generator=generator) < 0.99, math.nan) for r in rows]
    x = d2k.Ragged.pack([r.to(dtype) for r in rows], gap=1)
    assert torch.equal(d2k.lowest_attention(x), oracle(x))


def test_ties_go_to_the_first_and_nan_is_lowest():
    nan = math.nan
    x = batch([[0.5, 0.1, 0.1], [0.0, -0.0], [-math.inf, nan, nan], [], [math.inf, math.inf]])
    assert d2k.lowest_attention(x).tolist() == [1, 0, 1, -1, 0]
    assert int(torch.tensor([-math.inf, nan]).argmin()) == 1


def test_three_forms_agree():
    x = batch([[0.5, 0.1, 0.1, 0.3], [0.2], [], [0.9, 0.8]], gap=1)
    dense, mask = x.padded(fill=math.nan)
    want = [1, 0, -1, 1]
    for got in (
        d2k.lowest_attention(x),
        d2k.lowest_attention(x.values, offsets=x.offsets, lengths=x.lengths),
        d2k.lowest_attention(dense, lengths=x.lengths),
        d2k.lowest_attention(dense, mask=mask),
        d2k.lowest_attention(dense.masked_fill(~mask, -math.inf), mask=mask),
    ):
        assert got.tolist() == want


def test_empty_batch():
    got = d2k.lowest_attention(torch.zeros(0), offsets=torch.tensor([0]))
    assert got.shape == (0,) and got.dtype == torch.int64
    assert d2k.lowest_attention(torch.zeros(3), offsets=torch.tensor([0])).shape == (0,)
    assert d2k.lowest_attention(torch.zeros(0), offsets=torch.tensor([0, 0, 0])).tolist() == [-1, -1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_dtype(dtype):
    x = batch([[0.5, 0.1, 0.1], [0.75, 0.5]], dtype=dtype)
    assert d2k.lowest_attention(x).tolist() == [1, 1]


def test_needs_no_gradient():
    leaf = torch.rand(5, requires_grad=True)
    got = d2k.lowest_attention(leaf, offsets=torch.tensor([0, 5]))
    assert not got.requires_grad


def test_opcheck_and_compile():
    x = batch([[0.5, 0.1], [0.2, 0.1, 0.3], []], gap=1, dtype=torch.float32)
    torch.library.opcheck(schema.lowest_attention.op, (x.values, x.offsets, x.lengths))

    def find(values):
        return d2k.lowest_attention(x.with_values(values)) + 1

    compiled = torch.compile(find, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x.values.clone().requires_grad_()), find(x.values))


def test_the_same_bits_on_every_run():
    x = batch([[0.5, 0.1] * 200] * 5)
    assert all(d2k.lowest_attention(x).tolist() == [1] * 5 for _ in range(3))


@pytest.mark.parametrize(
    ("attention", "says"),
    [
        (torch.zeros(4, 2), r"attention must be float rows \(total,\), got torch.float32 \(4, 2\)"),
        (torch.zeros(4, dtype=torch.int64), "attention must be float.*int64"),
    ],
)
def test_errors_name_the_argument(attention, says):
    with pytest.raises(ValueError, match=says):
        d2k.lowest_attention(attention, offsets=torch.tensor([0, 4]))
