"""attention_pool against a loop over sequences and its own closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.attention_pool import reference, schema

native_only = pytest.mark.skipif(not d2k.backends.can_run("attention_pool", "native"), reason="no compiled extension")
NATIVE = pytest.param("native", marks=native_only)


@pytest.fixture(params=["reference", NATIVE], autouse=True)
def backend(request):
    with d2k.backends.use(request.param, "attention_pool"):
        yield request.param


F64 = torch.float64


def batch(lengths, width=5, columns=2, dtype=F64, seed=0, gap=0):
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(s, width, generator=generator, dtype=F64).to(dtype) for s in lengths]
    a = [torch.rand(s, columns, generator=generator, dtype=F64).to(dtype) for s in lengths]
    return d2k.Ragged.pack(x, gap=gap), d2k.Ragged.pack(a, gap=gap)


def oracle(x, attention, thresholds, inclusive=False, normalize=False):
    """One sequence and column at a time, in float64."""
    embeddings, masses = [], []
    for rows, weights in zip(x.unpack(), attention.unpack(), strict=True):
        for column, t in zip(weights.unbind(1), thresholds, strict=True):
            t = torch.tensor(t, dtype=column.dtype)
            chosen = column >= t if inclusive else column > t
            mass = column[chosen].double().sum()
            total = (column[chosen].double()[:, None] * rows[chosen].double()).sum(0)
            embeddings.append(total / mass if normalize and mass != 0 else total)
            masses.append(mass)
    shape = (len(x), len(thresholds))
    if not len(x):
        return torch.zeros(*shape, x.shape[1], dtype=F64), torch.zeros(shape, dtype=F64)
    return torch.stack(embeddings).view(*shape, -1), torch.stack(masses).view(shape)


def value_and_gradients(function, *inputs):
    leaves = [t.clone().requires_grad_() for t in inputs]
    embedding, mass = function(*leaves)
    # Small fractions, exact in every dtype.
    cotangents = [
        torch.arange(t.numel()).remainder(7).sub(3.5).div(4).view(t.shape).to(t) for t in (embedding, mass)
    ]
    return embedding, mass, *torch.autograd.grad((embedding, mass), leaves, cotangents)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_equals_the_loop(lengths, gap, seed, columns, inclusive, normalize):
    x, attention = batch(lengths, columns=columns, seed=seed, gap=gap)
    thresholds = [0.5, 0.3, 0.8][:columns]
    got = d2k.attention_pool(x, attention, threshold=thresholds, inclusive=inclusive, normalize=normalize)
    want = oracle(x, attention, thresholds, inclusive, normalize)
    torch.testing.assert_close(got.embedding, want[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.mass, want[1], rtol=1e-12, atol=1e-12)


def test_long_sequences_are_summed_in_chunks():
    x, attention = batch([3000, 1, 257, 256, 0, 511], columns=1, dtype=torch.float32)
    x, attention = x.with_values(x.values.abs()), attention
    got = d2k.attention_pool(x, attention, threshold=-1.0)
    want, _ = oracle(x, attention, [-1.0])
    error = (got.embedding.double() - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1)
    assert error.max() < 16 * torch.finfo(torch.float32).eps


def test_one_column_is_the_first_of_two():
    x, attention = batch([4, 7])
    both = d2k.attention_pool(x, attention)
    one = d2k.attention_pool(x, attention.with_values(attention.values[:, 0]))
    assert one.embedding.shape == (2, 5) and one.mass.shape == (2,)
    assert torch.equal(one.embedding, both.embedding[:, 0]) and torch.equal(one.mass, both.mass[:, 0])


@pytest.mark.parametrize("columns", [1, 2])
def test_three_forms_agree(columns):
    x, attention = batch([4, 7, 2], gap=1)
    attention = attention.with_values(
        attention.values[:, :columns].squeeze(-1) if columns == 1 else attention.values
    )
    (dense, mask), (weights, _) = x.padded(fill=math.nan), attention.padded(fill=math.nan)
    weights = weights.masked_fill(weights.isnan(), 0.9)
    want = value_and_gradients(
        lambda x_, a: d2k.attention_pool(x.with_values(x_), attention.with_values(a)),
        x.values,
        attention.values,
    )
    packed = value_and_gradients(
        lambda x_, a: d2k.attention_pool(x_, a, offsets=x.offsets, lengths=x.lengths),
        x.values,
        attention.values,
    )
    for got, expected in zip(packed, want, strict=True):
        assert torch.equal(got, expected)
    for keywords in ({"lengths": x.lengths}, {"mask": mask}):
        got = value_and_gradients(lambda x_, a, k=keywords: d2k.attention_pool(x_, a, **k), dense, weights)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        for gradient, expected in zip(got[2:], want[2:], strict=True):
            assert (gradient[~mask] == 0).all()
            assert torch.equal(gradient, x.with_values(expected).padded()[0])


def test_threshold_is_compared_in_the_dtype_of_attention():
    attention = torch.tensor([0.8, 0.8], dtype=torch.float32)
    x, offsets = torch.ones(2, 1), torch.tensor([0, 2])
    assert d2k.attention_pool(x, attention, threshold=0.8, offsets=offsets).mass == 0
    assert d2k.attention_pool(x, attention, threshold=0.8, inclusive=True, offsets=offsets).mass == 1.6
    half = attention.bfloat16()
    assert d2k.attention_pool(x, half, threshold=0.8, offsets=offsets).mass == 0
    assert d2k.attention_pool(x, half, threshold=[0.8], inclusive=True, offsets=offsets).mass > 1.5


def test_background_of_the_release_recipe():
    level = torch.tensor([0.1, 0.2, 0.5, 0.9])
    x = torch.eye(4)
    pooled = d2k.attention_pool(
        x,
        torch.stack([level, 1 - level], 1),
        threshold=(0.5, 0.8),
        inclusive=True,
        offsets=torch.tensor([0, 4]),
    )
    torch.testing.assert_close(pooled.embedding[0], torch.tensor([[0, 0, 0.5, 0.9], [0.9, 0.8, 0, 0]]))
    torch.testing.assert_close(pooled.mass[0], torch.tensor([1.4, 1.7]))


def test_empty_batch_empty_sequence_and_nothing_selected():
    nothing = d2k.attention_pool(torch.zeros(0, 3), torch.zeros(0, 2), offsets=torch.tensor([0]))
    assert nothing.embedding.shape == (0, 2, 3) and nothing.mass.shape == (0, 2)
    gaps_only = d2k.attention_pool(torch.zeros(4, 3), torch.zeros(4), offsets=torch.tensor([0]))
    assert gaps_only.embedding.shape == (0, 3)
    for normalize in (False, True):
        x, a = torch.randn(4, 3, requires_grad=True), torch.tensor([0.9, 0.6, 0.2, 0.1], requires_grad=True)
        offsets = torch.tensor([0, 0, 2, 4])
        out = d2k.attention_pool(x, a, offsets=offsets, normalize=normalize)
        assert torch.equal(out.embedding[0], torch.zeros(3)) and torch.equal(out.embedding[2], torch.zeros(3))
        assert out.mass.tolist() == [0, 1.5, 0]
        (out.embedding.sum() + out.mass.sum()).backward()
        assert x.grad[2:].eq(0).all() and a.grad[2:].eq(0).all()
        assert x.grad[:2].ne(0).all() and a.grad[:2].ne(0).all()


def test_empty_batch_gives_zero_gradients():
    x, a = torch.randn(4, 3, requires_grad=True), torch.rand(4, requires_grad=True)
    out = d2k.attention_pool(x, a, offsets=torch.tensor([0]))
    (out.embedding.sum() + out.mass.sum()).backward()
    assert x.grad.eq(0).all() and a.grad.eq(0).all()


def test_rows_that_are_not_selected_never_leak():
    nan = math.nan
    x = torch.tensor([[nan], [1.0], [nan], [2.0], [math.inf]], requires_grad=True)
    a = torch.tensor([0.9, 0.9, 0.1, 0.8, nan], requires_grad=True)
    out = d2k.attention_pool(x, a, offsets=torch.tensor([1, 5]), lengths=torch.tensor([4]))
    torch.testing.assert_close(out.embedding, torch.tensor([[2.5]]))
    torch.testing.assert_close(out.mass, torch.tensor([1.7]))
    (out.embedding + out.mass).sum().backward()
    torch.testing.assert_close(x.grad[:, 0], torch.tensor([0, 0.9, 0, 0.8, 0]))
    torch.testing.assert_close(a.grad, torch.tensor([0, 2.0, 0, 3.0, 0]))


def test_a_nan_gradient_stays_with_its_sequence():
    x, attention = batch([4, 7], gap=1)
    leaves = [t.values.clone().requires_grad_() for t in (x, attention)]
    out = d2k.attention_pool(x.with_values(leaves[0]), attention.with_values(leaves[1]), threshold=0.2)
    gradient = torch.ones_like(out.embedding)
    gradient[0] = math.nan
    for g in torch.autograd.grad(out.embedding, leaves, gradient):
        assert g[6:].isfinite().all() and g[0].eq(0).all() and g[5].eq(0).all() and g[1:5].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("normalize", [False, True])
def test_low_precision_accumulates_in_float32(dtype, normalize):
    x, attention = batch([700, 17], dtype=dtype)
    got = value_and_gradients(
        lambda v, a: d2k.attention_pool(
            x.with_values(v), attention.with_values(a), threshold=[0.5, 0.25], normalize=normalize
        ),
        x.values,
        attention.values,
    )
    want = value_and_gradients(
        lambda v, a: reference.attention_pool(v, a, x.offsets, x.lengths, [0.5, 0.25], False, normalize),
        x.values.double(),
        attention.values.double(),
    )
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        error = (g.double() - w).norm() / w.norm()
        assert error <= 2 * (w.to(dtype).double() - w).norm() / w.norm() + 1e-6


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
def test_gradcheck_backward_and_reference(normalize, columns):
    x, attention = batch([6, 11, 3, 0], gap=2, columns=columns)
    inputs = [x.values.clone().requires_grad_(), attention.values.clone().requires_grad_()]
    options = dict(threshold=0.3, normalize=normalize)

    def ours(v, a):
        return tuple(d2k.attention_pool(x.with_values(v), attention.with_values(a), **options))

    def plain(v, a):
        return reference.attention_pool(v, a, x.offsets, x.lengths, [0.3] * columns, False, normalize)

    assert torch.autograd.gradcheck(ours, inputs)
    for got, want in zip(
        value_and_gradients(ours, *inputs), value_and_gradients(plain, *inputs), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_gradients_through_one_output_or_to_one_input():
    x, attention = batch([6, 3])
    v, a = x.values.clone().requires_grad_(), attention.values.clone().requires_grad_()
    full = torch.autograd.grad(
        d2k.attention_pool(x.with_values(v), attention.with_values(a)).embedding.sum(), (v, a)
    )
    only_x = torch.autograd.grad(d2k.attention_pool(x.with_values(v), attention).embedding.sum(), v)[0]
    only_a = torch.autograd.grad(d2k.attention_pool(x, attention.with_values(a)).embedding.sum(), a)[0]
    assert torch.equal(only_x, full[0]) and torch.equal(only_a, full[1])
    of_mass = torch.autograd.grad(d2k.attention_pool(x, attention.with_values(a)).mass.sum(), a)[0]
    assert torch.equal(of_mass, (attention.values > 0.5).double())


def test_second_derivative_raises():
    x, a = torch.randn(5, 2, requires_grad=True), torch.rand(5, requires_grad=True)
    out = d2k.attention_pool(x, a, threshold=-1.0, offsets=torch.tensor([0, 5])).embedding.square().sum()
    gradients = torch.autograd.grad(out, (x, a), create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        sum(g.square().sum() for g in gradients).backward()


def test_opcheck():
    x, attention = batch([4, 7], dtype=torch.float32, gap=1)
    arguments = (x.values, attention.values, x.offsets, x.lengths, [0.5, 0.3], False, True)
    torch.library.opcheck(schema.attention_pool.op, arguments)
    mass = schema.attention_pool(*arguments)[1]
    for need in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            schema.attention_pool_backward.op, (torch.randn(2, 2, 5), torch.randn(2, 2), mass, *arguments, *need)
        )


@pytest.mark.parametrize("wrt", ["both", "x", "attention"])
def test_compiles_whole_with_gradients(wrt):
    x, attention = batch([4, 7], dtype=torch.float32, gap=1)

    def loss(v, a):
        out = d2k.attention_pool(
            x.with_values(v), attention.with_values(a), threshold=(0.5, 0.3), inclusive=True, normalize=True
        )
        return out.embedding.square().sum() + out.mass.square().sum()

    needs = (wrt != "attention", wrt != "x")
    eager, compiled = (
        [r.values.clone().requires_grad_(n) for r, n in zip((x, attention), needs, strict=True)]
        for _ in range(2)
    )
    loss(*eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled).backward()
    for e, c, need in zip(eager, compiled, needs, strict=True):
        assert (e.grad is not None) == need
        if need:
            torch.testing.assert_close(e.grad, c.grad)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("width", [3, 16, 33])
def test_neighbours_do_not_matter(dtype, width):
    x, attention = batch([5, 301, 1, 30], width=width, dtype=dtype, gap=1)

    def rows_and_weights(x, a):
        v, w = (r.values.clone().requires_grad_() for r in (x, a))
        out = d2k.attention_pool(x.with_values(v), a.with_values(w), normalize=True)
        (out.embedding.square().sum() + out.mass.square().sum()).backward()
        return out, x.with_values(v.grad).unpack(), a.with_values(w.grad).unpack()

    whole = rows_and_weights(x, attention)
    for i, (xi, ai) in enumerate(zip(x.unpack(), attention.unpack(), strict=True)):
        alone = rows_and_weights(d2k.Ragged.pack([xi]), d2k.Ragged.pack([ai]))
        assert torch.equal(alone[0].embedding[0], whole[0].embedding[i])
        assert torch.equal(alone[0].mass[0], whole[0].mass[i])
        assert torch.equal(alone[1][0], whole[1][i]) and torch.equal(alone[2][0], whole[2][i])


def test_the_same_bits_on_every_run():
    x, attention = batch([375] * 4, width=64, dtype=torch.float32)
    runs = [
        value_and_gradients(
            lambda v, a: d2k.attention_pool(x.with_values(v), attention.with_values(a)),
            x.values,
            attention.values,
        )
        for _ in range(3)
    ]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_with_any_threads(dtype):
    x, attention = batch([900, 3, 0, 411, 70], width=1300, columns=3, dtype=dtype, gap=2)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(
                value_and_gradients(
                    lambda v, a: d2k.attention_pool(x.with_values(v), attention.with_values(a), normalize=True),
                    x.values,
                    attention.values,
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("types", [("float32", "float64"), ("bfloat16", "float32"), ("float64", "float16")])
def test_dtypes_that_differ(types):
    x, attention = batch([40, 7], width=21)
    v, a = x.values.to(getattr(torch, types[0])), attention.values.to(getattr(torch, types[1]))
    got = value_and_gradients(lambda v, a: d2k.attention_pool(v, a, offsets=x.offsets, normalize=True), v, a)
    want = value_and_gradients(
        lambda v, a: reference.attention_pool(v, a, x.offsets, x.lengths, [0.5, 0.5], False, True), v, a
    )
    for g, w in zip(got, want, strict=True):
        eps = 4 * torch.finfo(torch.promote_types(g.dtype, torch.float16)).eps
        assert (g.double() - w.double()).norm() <= max(eps, 1e-6) * w.double().norm()


def test_strided_inputs_give_the_same():
    x, attention = batch([4, 7])
    want = d2k.attention_pool(x, attention)
    wide = torch.randn(11, 10, dtype=F64)
    wide[:, ::2] = x.values
    got = d2k.attention_pool(wide[:, ::2], attention.values.t().contiguous().t(), offsets=x.offsets)
    assert torch.equal(got.embedding, want.embedding) and torch.equal(got.mass, want.mass)


@pytest.mark.parametrize(
    ("arguments", "kwargs", "error", "says"),
    [
        ((torch.zeros(4, 3), torch.zeros(5)), {}, ValueError, r"attention must have 4 rows, got \(5,\)"),
        ((torch.zeros(4, 3), torch.zeros(4, 2, 1)), {}, ValueError, r"attention must be float rows"),
        ((torch.zeros(4, 3), torch.zeros(4, 0)), {}, ValueError, "at least one column"),
        (
            (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)),
            {},
            ValueError,
            "attention must be float.*int64",
        ),
        ((torch.zeros(4), torch.zeros(4)), {}, ValueError, r"x must be float rows \(total, D\)"),
        ((torch.zeros(4, 3).int(), torch.zeros(4)), {}, ValueError, "x must be float rows.*int32"),
        (
            (torch.zeros(4, 3), torch.zeros(4, 2)),
            {"threshold": [0.1, 0.2, 0.3]},
            ValueError,
            "2 thresholds.*got 3",
        ),
        (
            (torch.zeros(4, 3), torch.zeros(4)),
            {"threshold": math.nan},
            ValueError,
            "threshold must be a number",
        ),
        (
            (torch.zeros(4, 3), torch.zeros(4)),
            {"threshold": torch.tensor(0.5)},
            TypeError,
            "threshold must be",
        ),
        ((torch.zeros(4, 3), [0.5] * 4), {}, TypeError, "attention must be a Ragged or a tensor, got list"),
    ],
)
def test_errors_name_the_argument(arguments, kwargs, error, says):
    with pytest.raises(error, match=says):
        d2k.attention_pool(*arguments, offsets=torch.tensor([0, 4]), **kwargs)


def test_attention_of_other_sequences_is_refused():
    x, _ = batch([4, 7])
    _, attention = batch([5, 6])
    with pytest.raises(ValueError, match="attention is a Ragged of other sequences"):
        d2k.attention_pool(x, attention)
    with pytest.raises(ValueError, match=r"attention must be dense with leading shape \(2, 3\)"):
        d2k.attention_pool(torch.zeros(2, 3, 4), torch.zeros(2, 4), lengths=torch.tensor([3, 1]))


@pytest.mark.parametrize("starts", [[0, 10**9], [-(10**9), 20], [10**12, -(10**12), 10], [15, 10, 5, 0]])
def test_unchecked_offsets_touch_no_foreign_memory(starts):
    x, a = torch.ones(20, 3), torch.ones(20, 1)
    offsets = torch.tensor(starts)
    arguments = (x, a, offsets, torch.full((len(starts) - 1,), 10**9), [0.5], False, False)
    try:
        embedding, mass = schema.attention_pool(*arguments)
        grads = schema.attention_pool_backward(embedding, mass, mass, *arguments, True, True)
    except RuntimeError as error:
        assert "offsets" in str(error)
    else:
        assert embedding.max() <= 20 and mass.max() <= 20 and grads[0].max() <= 20


def test_the_reference_takes_its_options_by_name():
    x, attention, offsets = torch.randn(9, 3), torch.rand(9), torch.tensor([0, 4, 9])
    options = {"threshold": [0.3], "inclusive": True, "normalize": True}
    given = x, attention, offsets, offsets.diff()
    want = reference.attention_pool(*given, *options.values())
    assert all(map(torch.equal, reference.attention_pool(*given, **options), want))
