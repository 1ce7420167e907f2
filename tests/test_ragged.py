"""Ragged: building, converting, checking, and travelling through torch.compile."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import d2kernels as d2k
from d2kernels.ragged import _values_can_be_checked, take

Ragged = d2k.Ragged


def sequences(lengths, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, width, generator=generator) for s in lengths]


def offsets(*values):
    return torch.tensor(values, dtype=torch.int64)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 3))
def test_pack_unpack_and_padded_agree(lengths, gap):
    rows = sequences(lengths)
    x = Ragged.pack(rows, gap=gap)
    assert len(x) == len(lengths) and x.lengths.tolist() == lengths and x.max_length == max(lengths)
    assert x.shape == (sum(lengths) + gap * (len(lengths) + 1), 3)
    assert all(torch.equal(a, b) for a, b in zip(x.unpack(), rows, strict=True))
    dense, mask = x.padded(fill=math.nan)
    assert mask.sum(1).tolist() == lengths
    assert all(torch.equal(d[m], r) for d, m, r in zip(dense, mask, rows, strict=True))
    assert dense[~mask].isnan().all()
    back = Ragged.from_padded(dense, mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(back.unpack(), rows, strict=True))
    assert back.values[~back.row_mask()].eq(0).all()


def test_gap_rows_are_zero_and_known():
    x = Ragged.pack(sequences([2, 0, 1]), gap=2)
    valid = [False] * 2 + [True] * 2 + [False] * 4 + [True] + [False] * 2
    assert x.row_mask().tolist() == valid
    assert x.values[~x.row_mask()].eq(0).all()
    assert x.sequence_index()[x.row_mask()].tolist() == [0, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_zero_gaps_clears_garbage_and_keeps_the_dtype(dtype):
    values = torch.ones(5, 2).to(dtype)
    x = Ragged(values, offsets(1, 4), torch.tensor([2])).zero_gaps()
    assert x.dtype == dtype and x.values[:, 0].tolist() == [0, 1, 1, 0, 0]
    if dtype.is_floating_point:
        dirty = Ragged(values * math.nan, offsets(1, 4), torch.tensor([2])).zero_gaps()
        assert dirty.values[0].eq(0).all() and dirty.values[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32, torch.bool])
def test_padded_keeps_the_dtype(dtype):
    dense, _ = Ragged.pack([torch.ones(2).to(dtype), torch.ones(1).to(dtype)], gap=1).padded()
    assert dense.dtype == dtype and dense.tolist() == [[1, 1], [1, 0]]


def test_padded_to_a_given_length():
    x = Ragged.pack(sequences([2, 3]))
    dense, mask = x.padded(5, fill=7.0)
    assert dense.shape == (2, 5, 3) and mask.sum() == 5 and dense[:, 3:].eq(7).all()
    with pytest.raises(ValueError, match="max_length is 2, but the longest sequence has 3 rows"):
        x.padded(2)


def test_padded_of_nothing():
    empty = Ragged(torch.zeros(0, 3), offsets(0))
    assert [tuple(t.shape) for t in empty.padded()] == [(0, 0, 3), (0, 0)] and empty.unpack() == []
    no_rows = Ragged(torch.zeros(0, 3), offsets(0, 0, 0))
    dense, mask = no_rows.padded(4, fill=1.0)
    assert dense.shape == (2, 4, 3) and dense.eq(1).all() and not mask.any()
    assert len(empty) == 0 and empty.row_mask().shape == (0,)


def test_gradients_pass_through_pack_padded_and_from_padded():
    rows = [r.requires_grad_() for r in sequences([2, 3])]
    dense, _ = Ragged.pack(rows, gap=1).padded(fill=5.0)
    (dense * 2).sum().backward()
    assert all(r.grad.eq(2).all() for r in rows)
    leaf = torch.full((2, 3, 1), math.nan).requires_grad_()
    Ragged.from_padded(leaf, lengths=torch.tensor([1, 3])).values.sum().backward()
    assert leaf.grad[..., 0].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_from_padded_shares_the_layout_of_the_dense_batch():
    x = Ragged.from_padded(torch.ones(2, 4, 3), lengths=torch.tensor([1, 4]))
    assert x.offsets.tolist() == [0, 4, 8] and x.lengths.tolist() == [1, 4] and x.max_length == 4


def test_with_values_keeps_the_sequences():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    y = x.with_values(torch.arange(8))
    assert y.offsets is x.offsets and y.lengths is x.lengths and y.max_length == 3
    assert [r.tolist() for r in y.unpack()] == [[1, 2], [4, 5, 6]]
    with pytest.raises(ValueError, match=r"values must have 8 rows, got \(7, 3\)"):
        x.with_values(torch.zeros(7, 3))
    with pytest.raises(ValueError, match="values must have 8 rows"):
        x.with_values(torch.zeros(()))


def test_to_moves_everything_and_converts_only_the_values():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    half = x.to(torch.float16)
    assert half.dtype == torch.float16 and half.offsets.dtype == torch.int64 and half.max_length == 3
    meta = x.to("meta")
    assert {t.device.type for t in (meta.values, meta.offsets, meta.lengths)} == {"meta"}
    assert meta.device.type == "meta"


@pytest.mark.parametrize("gap", [0, 2])
def test_nested_there_and_back(gap):
    rows = sequences([2, 4, 1])
    x = Ragged.pack(rows, gap=gap)
    nested = x.to_nested()
    assert nested.layout == torch.jagged
    assert all(torch.equal(a, b) for a, b in zip(nested.unbind(), rows, strict=True))
    assert nested.values().data_ptr() == x.values.data_ptr()
    assert (nested.lengths() is None) == (gap == 0)
    back = Ragged.from_nested(nested)
    assert all(torch.equal(a, b) for a, b in zip(back.unpack(), rows, strict=True))


def test_from_nested_zeroes_the_rows_between():
    nested = torch.nested.nested_tensor_from_jagged(torch.ones(5, 2), offsets(0, 3, 5), torch.tensor([2, 1]))
    x = Ragged.from_nested(nested)
    assert x.values[:, 0].tolist() == [1, 1, 0, 1, 0]


def test_from_nested_carries_gradients():
    leaf = torch.ones(5, 2, requires_grad=True)
    Ragged.from_nested(torch.nested.nested_tensor_from_jagged(leaf, offsets(0, 3, 5))).values.sum().backward()
    assert leaf.grad.eq(1).all()


def test_from_nested_refuses_other_layouts():
    with pytest.raises(TypeError, match=r"torch.jagged nested tensor, got Tensor"):
        Ragged.from_nested(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="got list"):
        Ragged.from_nested([torch.zeros(2)])
    sideways = torch.nested.nested_tensor_from_jagged(torch.zeros(5, 2), offsets(0, 3, 5)).transpose(1, 2)
    with pytest.raises(ValueError, match="dimension 1 must be the ragged one, got 2"):
        Ragged.from_nested(sideways)


def test_offsets_and_lengths_may_be_lists_or_int32():
    x = Ragged(torch.zeros(5, 2), [0, 2, 5], [1, 3])
    y = Ragged(torch.zeros(5, 2), torch.tensor([0, 2, 5], dtype=torch.int32))
    assert x.offsets.dtype == y.offsets.dtype == y.lengths.dtype == torch.int64
    assert x.lengths.tolist() == [1, 3] and y.lengths.tolist() == [2, 3]
    assert len(Ragged(torch.zeros(0, 2), [0], [])) == 0


def test_repr_says_what_it_holds():
    assert repr(Ragged.pack(sequences([2, 3]))) == "Ragged(2 sequences, values (5, 3) float32 on cpu)"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([1, 2], offsets(0, 2)), TypeError, "values must be a tensor of rows, got list"),
        ((torch.zeros(()), offsets(0)), TypeError, "values must be a tensor of rows"),
        (
            (torch.zeros(5), torch.tensor([0.0, 5.0])),
            TypeError,
            "offsets must be a 1-D int64 tensor, got torch.float32",
        ),
        ((torch.zeros(5), offsets(0, 5)[None]), TypeError, r"offsets must be a 1-D int64 tensor.*\(1, 2\)"),
        ((torch.zeros(5), 5), TypeError, "offsets must be a 1-D int64 tensor"),
        ((torch.zeros(5), []), ValueError, "offsets must hold n \\+ 1 entries, got none"),
        ((torch.zeros(5), offsets(0, 6)), ValueError, r"at most the 5 rows of the values, got \[0, 6\]"),
        ((torch.zeros(5), offsets(-1, 5)), ValueError, r"offsets must rise from at least 0.*got \[-1, 5\]"),
        ((torch.zeros(5), offsets(0, 4, 3)), ValueError, r"offsets must rise.*got \[0, 4, 3\]"),
        ((torch.zeros(5), torch.arange(40)), ValueError, r"offsets must rise.*got 40 of them, 0\.\.39"),
        (
            (torch.zeros(5), offsets(0, 2, 5), torch.tensor([1])),
            ValueError,
            "make 2 sequences, but lengths has 1",
        ),
        (
            (torch.zeros(5), offsets(0, 2, 5), torch.tensor([1, 4])),
            ValueError,
            r"lengths\[1\] = 4 does not fit the 3",
        ),
        ((torch.zeros(5), offsets(0, 5), torch.tensor([-1])), ValueError, r"lengths\[0\] = -1 does not fit"),
        (
            (torch.zeros(5), offsets(0, 5), torch.tensor([2.0])),
            TypeError,
            "lengths must be a 1-D int64 tensor",
        ),
        (
            (torch.zeros(5), offsets(0, 5), None, 4),
            ValueError,
            "max_length is 4, but the longest sequence has 5",
        ),
        (
            (torch.zeros(5, device="meta"), offsets(0, 5)),
            ValueError,
            "offsets is on cpu but the values are on meta",
        ),
    ],
)
def test_a_bad_ragged_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        Ragged(*arguments)


@pytest.mark.parametrize(
    ("given_", "error", "says"),
    [
        (([], 0), ValueError, "got no sequences"),
        (
            ([torch.zeros(2, 3), torch.zeros(2, 4)], 0),
            ValueError,
            r"sequences\[1\] is torch.float32 \(2, 4\)",
        ),
        (([torch.zeros(2), torch.zeros(2).double()], 0), ValueError, r"sequences\[1\] is torch.float64"),
        (([torch.zeros(())], 0), ValueError, r"sequences\[0\]"),
        (([torch.zeros(2), [1.0]], 0), TypeError, r"sequences\[1\] must be a tensor, got list"),
        (([torch.zeros(2)], -1), ValueError, "gap must be at least 0, got -1"),
    ],
)
def test_pack_refuses(given_, error, says):
    rows, gap = given_
    with pytest.raises(error, match=says):
        Ragged.pack(rows, gap=gap)


@pytest.mark.parametrize(
    ("x", "kwargs", "error", "says"),
    [
        (
            Ragged(torch.zeros(5), [0, 5]),
            {"lengths": torch.tensor([5])},
            ValueError,
            "a Ragged brings its own offsets",
        ),
        ([1.0], {}, TypeError, "expected a Ragged or a tensor, got list"),
        (torch.zeros(5, 2), {}, ValueError, "needs offsets.*or exactly one of lengths and mask.*got none"),
        (
            torch.zeros(2, 3),
            {"lengths": torch.tensor([1, 2]), "mask": torch.ones(2, 3, dtype=torch.bool)},
            ValueError,
            "got both",
        ),
        (
            torch.zeros(2, 3),
            {"offsets": offsets(0, 2), "mask": torch.ones(2, 3, dtype=torch.bool)},
            ValueError,
            "give offsets .* or mask .*, not both",
        ),
        (torch.zeros(()), {"offsets": offsets(0)}, ValueError, "at least one dimension"),
        (torch.zeros(5), {"offsets": []}, ValueError, "got none; an empty batch has offsets"),
        (torch.zeros(5), {"offsets": offsets(0, 9)}, ValueError, "at most the 5 rows"),
        (
            torch.zeros(5),
            {"offsets": offsets(0, 5), "lengths": torch.tensor([1, 1])},
            ValueError,
            "lengths has 2 entries",
        ),
        (
            torch.zeros(5),
            {"lengths": torch.tensor([5])},
            ValueError,
            "a dense batch has at least 2 dimensions",
        ),
        (
            torch.zeros(2, 3),
            {"lengths": torch.tensor([1, 2, 3])},
            ValueError,
            "2 dense sequences need 2 lengths, got 3",
        ),
        (
            torch.zeros(2, 3),
            {"lengths": torch.tensor([1, 4])},
            ValueError,
            r"lengths\[1\] = 4 does not fit the 3 rows",
        ),
        (torch.zeros(2, 3), {"mask": torch.ones(2, 3)}, ValueError, r"mask must be bool with shape \(2, 3\)"),
        (
            torch.zeros(2, 3),
            {"mask": torch.ones(2, 4, dtype=torch.bool)},
            ValueError,
            r"got torch.bool \(2, 4\)",
        ),
        (torch.zeros(2, 3), {"mask": [[True] * 3] * 2}, TypeError, "mask must be a bool tensor, got list"),
        (torch.zeros(1, 3), {"mask": torch.tensor([[True, False, True]])}, ValueError, "found a gap in it"),
    ],
)
def test_take_refuses_and_names_the_op(x, kwargs, error, says):
    with pytest.raises(error, match="my_op.*" + says):
        take("my_op", x, **kwargs)


def test_take_restores_the_form_it_was_given():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    rows = torch.arange(8)
    assert isinstance(take("op", x).restore(rows), Ragged)
    assert take("op", x.values, x.offsets, x.lengths).restore(rows) is rows
    dense = take("op", torch.zeros(2, 4, 3), None, torch.tensor([1, 4]))
    assert dense.values.shape == (8, 3) and dense.restore(rows).shape == (2, 4)


def test_align_reads_a_second_input_in_the_same_form():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    form = take("op", x)
    assert form.align("a", x.with_values(torch.arange(8)), 1).shape == (8,)
    assert form.align("a", torch.zeros(8, 2)).shape == (8, 2)
    dense = take("op", torch.zeros(2, 4, 3), None, torch.tensor([1, 4]))
    assert dense.align("a", torch.zeros(2, 4, 5), 2).shape == (8, 5)
    for bad, dim, says in (
        (torch.zeros(7), 1, "a must have 8 rows and 1 dimensions"),
        (torch.zeros(()), None, "a must have 8 rows"),
        (torch.zeros(8, 2), 1, "a must have 8 rows and 1 dimensions"),
        (Ragged.pack(sequences([3, 2]), gap=1), None, "a is a Ragged of other sequences"),
    ):
        with pytest.raises(ValueError, match=says):
            form.align("a", bad, dim)
    with pytest.raises(ValueError, match=r"a must be dense with leading shape \(2, 4\)"):
        dense.align("a", torch.zeros(2, 3))
    with pytest.raises(TypeError, match="a must be a Ragged or a tensor, got list"):
        form.align("a", [1.0])


def test_d2k_check_decides_where_values_are_not_on_the_cpu(monkeypatch):
    elsewhere, meta = SimpleNamespace(is_cpu=False, is_meta=False), torch.zeros(3, dtype=torch.int64, device="meta")
    for asked in (False, True):
        monkeypatch.setenv("D2K_CHECK", str(int(asked)))
        assert _values_can_be_checked(elsewhere) == _values_can_be_checked(torch.zeros(1), elsewhere) == asked
        # meta has no values, whoever asks.
        Ragged(torch.zeros(5, device="meta"), meta)
        take("op", torch.zeros(5, device="meta"), meta)
    monkeypatch.delenv("D2K_CHECK")
    assert not _values_can_be_checked(elsewhere)


def test_is_a_pytree():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    leaves, spec = pytree.tree_flatten({"x": x})
    assert len(leaves) == 3
    back = pytree.tree_unflatten([leaf * 2 for leaf in leaves[:1]] + leaves[1:], spec)["x"]
    assert isinstance(back, Ragged) and torch.equal(back.values, x.values * 2) and back.max_length == 3


def test_travels_through_compile_in_and_out():
    x = Ragged.pack(sequences([2, 3]), gap=1)

    def double(ragged):
        return ragged.with_values(ragged.values * 2), ragged.lengths + 1

    out, lengths = torch.compile(double, fullgraph=True, backend="aot_eager")(x)
    assert isinstance(out, Ragged) and torch.equal(out.values, x.values * 2)
    assert out.max_length == 3 and lengths.tolist() == [3, 4]


def test_is_built_and_used_inside_compile_with_gradients():
    x = Ragged.pack(sequences([2, 3]), gap=1)

    def loss(values, starts, lengths):
        ragged = Ragged(values, starts, lengths)
        dense, _ = ragged.padded(4)
        again = Ragged.from_padded(dense, lengths=lengths)
        return d2k.topk_pool(again, k=1).sum() + ragged.zero_gaps().values.square().sum()

    eager, compiled = (x.values.clone().requires_grad_() for _ in range(2))
    loss(eager, x.offsets, x.lengths).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled, x.offsets, x.lengths).backward()
    torch.testing.assert_close(eager.grad, compiled.grad)


@pytest.mark.parametrize("name", ["values", "offsets", "lengths", "max_length", "gap"])
def test_a_ragged_cannot_be_changed_once_checked(name):
    x = Ragged.pack(sequences([2, 3]))
    before = getattr(x, name)
    with pytest.raises(AttributeError, match=name):
        setattr(x, name, before)
    with pytest.raises(AttributeError):
        delattr(x, name)
    assert getattr(x, name) is before


def test_a_ragged_copies_and_pickles():
    x = Ragged.pack(sequences([2, 3]), gap=1)
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(y.values, x.values) and y.offsets.tolist() == x.offsets.tolist() and y.max_length == 3


FAR = st.one_of(st.integers(-3, 9), st.sampled_from([2**63 - 1, -(2**63), 2**62, -(2**62) - 1, 2**63 - 3]))


@given(st.lists(FAR, min_size=1, max_size=5), st.lists(FAR, min_size=5, max_size=5), st.booleans())
def test_a_layout_is_accepted_only_if_it_lies_within_the_rows(at, sizes, with_lengths):
    """By whole numbers that do not wrap."""
    rows, sizes = 6, sizes[: len(at) - 1] if with_lengths else [b - a for a, b in itertools.pairwise(at)]
    fits = at[0] >= 0 and at[-1] <= rows and all(a <= b for a, b in itertools.pairwise(at))
    fits = fits and all(0 <= s <= b - a for s, (a, b) in zip(sizes, itertools.pairwise(at), strict=True))
    lengths = torch.tensor(sizes, dtype=torch.int64) if with_lengths else None
    scores, floor = torch.zeros(rows, 1), [0.5]
    tries = (
        lambda: Ragged(scores, offsets(*at), lengths),
        lambda: d2k.lowest_attention(scores[:, 0], offsets=offsets(*at), lengths=lengths),
        lambda: d2k.connected_components(
            scores.numpy(), floor, offsets=np.array(at), lengths=None if lengths is None else lengths.numpy()
        ),
    )
    for attempt in tries:
        if fits:
            attempt()
        else:
            with pytest.raises(ValueError, match=r"offsets must rise|does not fit"):
                attempt()


def test_what_is_changed_in_place_reads_no_foreign_memory():
    """Nothing can forbid it; the kernels stay within the rows there are."""
    x = Ragged.pack(sequences([2, 3, 1]))
    for at in ([0, 2, 2**40, 6], [-(2**40), 0, 3, 9], [5, 4, 3, 2]):
        x.offsets.copy_(torch.tensor(at))
        assert d2k.topk_pool(x, k=1).shape == (3, 3)
        assert d2k.attention_pool(x, x.with_values(x.values[:, 0])).embedding.shape == (3, 3)
        assert d2k.foreground_score(x, x.values[0]).shape == (6,)


def test_gap_is_known_where_rows_are_zero():
    x = Ragged.pack(sequences([2, 0, 3]), gap=2)
    assert x.gap == 2 and Ragged.pack(sequences([2])).gap == 0
    assert x.to(torch.float64).gap == 2 and pytree.tree_map(lambda t: t, x).gap == 2
    moved = x.with_values(x.values + 1)
    assert moved.gap == 0 and moved.zero_gaps().gap == 2  # what fills gap rows is not known to be zero
    assert d2k.foreground_score(x, torch.ones(3)).gap == 2
    same = Ragged(x.values, x.offsets, x.lengths, gap=2)
    assert same.gap == 2 and Ragged(x.values, x.offsets, x.lengths).gap == 0
    assert Ragged(torch.zeros(3, 1), offsets(0), gap=3).gap == 3


@pytest.mark.parametrize(
    ("layout", "gap", "message"),
    [
        ((offsets(1, 5), torch.tensor([2])), 2, "gap is 2, but there are 1 rows before the first; pack with gap=2"),
        ((offsets(2, 4, 8), torch.tensor([2, 2])), 2, "gap is 2, but there are 0 rows after sequence 0"),
        ((offsets(2, 7), torch.tensor([5])), 2, "gap is 2, but there are 1 rows after sequence 0"),
        ((offsets(2, 6), torch.tensor([2])), 2, r"not zero; zero_gaps\(\) makes them so"),
        ((offsets(2, 6), torch.tensor([2])), -1, "gap must be at least 0, got -1"),
    ],
)
def test_a_gap_that_is_not_there_is_an_error(layout, gap, message):
    with pytest.raises(ValueError, match=message):
        Ragged(torch.ones(8, 2), *layout, gap=gap)
