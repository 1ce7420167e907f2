"""The fused head: native against the composition, against the public ops it replaces, and its edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.head import head, reference_score, schema

F64 = torch.float64
NAN = float("nan")
native_only = pytest.mark.skipif(not d2k.backends.can_run("head", "native"), reason="no compiled extension")
BACKENDS = [pytest.param("native", marks=native_only), "reference"]
OPTIONS = [
    dict(foreground_threshold=0.5, background_threshold=0.5, inclusive=True, normalize=True),
    dict(foreground_threshold=0.5, background_threshold=0.5, inclusive=False, normalize=False),
    dict(foreground_threshold=0.4, background_threshold=0.3, inclusive=True, normalize=True),
]


class Inputs:
    def __init__(self, lengths=(9, 1, 0, 70, 300), streams=2, width=21, classes=5, seed=0, dtype=F64, gap=2):
        random = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=random, dtype=F64).to(dtype)

        self.streams = streams
        rows = [draw(s, streams * width) for s in lengths]
        self.z = d2k.Ragged.pack(rows, gap=gap)
        self.logits = draw(self.z.shape[0], streams * classes) - 0.7
        self.labels = torch.rand(len(lengths), classes, generator=random) < 0.4
        wide = F64 if dtype == F64 else torch.float32
        self.reference = torch.randn(width, generator=random, dtype=wide)

    def call(self, options, labels=True):
        """Outputs by name, and the two leaves."""
        z, logits = (x.detach().clone().requires_grad_() for x in (self.z.values, self.logits))
        out = head(
            self.z.with_values(z), logits, streams=self.streams, labels=self.labels if labels else None, **options
        )
        return out, (z, logits)

    def score(self, out, **fields):
        return reference_score(
            self.z, self.reference, out.lowest, out.mass, self.labels, streams=self.streams, **fields
        )  # fmt: skip


def weigh(out, seed=5):
    """A scalar of every differentiable output."""
    random = torch.Generator().manual_seed(seed)
    chosen = [x for x in out[:4] if x is not None]
    return sum((x * torch.randn(x.shape, generator=random, dtype=F64).to(x.dtype)).sum() for x in chosen)


def composed(inputs, options, z, logits):
    """The same by the public ops."""
    streams, rows = inputs.streams, inputs.z
    activations = rows.with_values(torch.sigmoid(logits.unflatten(1, (streams, -1))).mean(1)).zero_gaps()
    attention = activations.values.amax(1)
    own = inputs.labels[activations.sequence_index()]
    best = activations.values.masked_fill(~own, float("-inf")).amax(1)
    x = rows.with_values(z.unflatten(1, (streams, -1)).mean(1))
    both = torch.stack([attention, 1 - attention], 1)
    thresholds = options["foreground_threshold"], options["background_threshold"]
    pooled = d2k.attention_pool(
        x, both, threshold=thresholds, inclusive=options["inclusive"], normalize=options["normalize"]
    )
    return (activations.values, attention, torch.where(own.any(1), best, 0), *pooled), x


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_public_ops(backend, streams, options):
    inputs = Inputs(streams=streams)
    inside = inputs.z.row_mask()
    with d2k.backends.use(backend, "head"):
        got, leaves = inputs.call(options)
        grads = torch.autograd.grad(weigh(got), leaves)
    others = [x.detach().clone().requires_grad_() for x in leaves]
    want, x = composed(inputs, options, *others)
    for a, b in zip(got[:5], want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(weigh(want), others)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        assert not a[~inside].any()
    place = d2k.lowest_attention(inputs.z.with_values(got.attention.detach()))
    for i, s in enumerate(inputs.z.lengths.tolist()):
        row = x.values[inputs.z.offsets[i] + place[i]] if s else torch.zeros(x.shape[1], dtype=F64)
        torch.testing.assert_close(got.lowest[i], row.detach())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("min_snippets", [1, 5, 1000])
def test_reference_and_score(backend, min_snippets):
    inputs = Inputs()
    inputs.labels[4] = False
    with d2k.backends.use(backend, "head"):
        out, _ = inputs.call(OPTIONS[0])
        updated, score = inputs.score(out, min_snippets=min_snippets, momentum=0.75)
        again, none = inputs.score(out, min_snippets=min_snippets, momentum=0.75, score=False)
    assert torch.equal(updated, again) and none is None
    has = (out.mass[:, 1] > 0) & inputs.labels.any(1) & (inputs.z.lengths >= min_snippets)
    mean = out.lowest[has].sum(0) / max(1, int(has.sum()))
    want = 0.75 * inputs.reference + 0.25 * mean if has.any() else inputs.reference
    torch.testing.assert_close(updated, want)
    x = inputs.z.with_values(inputs.z.values.unflatten(1, (2, -1)).mean(1))
    torch.testing.assert_close(score, d2k.foreground_score(x, want).values)


@native_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_to_its_rounding(dtype):
    low = Inputs(lengths=(300, 41, 700), width=96, classes=20, dtype=dtype)
    exact = Inputs(lengths=(300, 41, 700), width=96, classes=20, dtype=dtype)
    exact.z, exact.logits, exact.reference = low.z.to(F64), low.logits.double(), low.reference.double()
    # Nothing lies on these thresholds, where rounding would decide.
    options = dict(OPTIONS[0], foreground_threshold=0.50003, background_threshold=0.50003)
    got, leaves = low.call(options)
    want, others = exact.call(options)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() <= 3e-6 * b.norm()
    wide = torch.finfo(dtype).eps
    for a, b in zip(torch.autograd.grad(weigh(got), leaves), torch.autograd.grad(weigh(want), others), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= max(wide, 1e-5) * b.norm()
    for a, b in zip(low.score(got), exact.score(want), strict=True):
        assert (a.double() - b).norm() <= 3e-6 * b.norm()


@native_only
@given(
    st.lists(st.integers(0, 300), min_size=0, max_size=5), st.integers(1, 3), st.integers(1, 40), st.integers(1, 5),
    st.integers(0, 99), st.sampled_from(OPTIONS), st.integers(0, 2),
)  # fmt: skip
def test_any_batch(lengths, streams, width, classes, seed, options, gap):
    if not lengths:
        return
    inputs = Inputs(tuple(lengths), streams, width, classes, seed, gap=gap)
    out = []
    for backend in ("native", "reference"):
        with d2k.backends.use(backend, "head"):
            got, leaves = inputs.call(options)
            out.append((*got, *torch.autograd.grad(weigh(got), leaves), *inputs.score(got)))
    for a, b in zip(*out, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    inputs = Inputs(lengths=(6, 9), width=4, classes=3)

    def outputs(z, logits):
        return head(inputs.z.with_values(z), logits, streams=2, labels=inputs.labels, **OPTIONS[0])[:4]

    leaves = [x.clone().requires_grad_() for x in (inputs.z.values, inputs.logits)]
    inside = inputs.z.row_mask()[:, None]

    def masked(z, logits):
        return outputs(torch.where(inside, z, 0), logits)

    with d2k.backends.use(backend, "head"):
        assert torch.autograd.gradcheck(masked, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_share_and_saturated_rows_are_finite(backend):
    z = d2k.Ragged.pack([torch.randn(4, 6, dtype=F64)])
    logits = torch.tensor([[2.0, 2.0, 1.0], [900.0, -900.0, 0.0], [-900.0, -900.0, -900.0], [0.0, 0.0, 0.0]], dtype=F64)
    logits.requires_grad_()
    labels = torch.tensor([[True, True, False]])
    with d2k.backends.use(backend, "head"):
        out = head(z, logits, labels=labels, inclusive=True)
        (of_max,) = torch.autograd.grad(out.attention.sum(), logits, retain_graph=True)
        (of_own,) = torch.autograd.grad(out.own_attention.sum(), logits)
    assert of_max[0, 0] == of_max[0, 1] > 0 and of_max[0, 2] == 0
    assert of_own[3].tolist() == [0.125, 0.125, 0]
    assert of_max.isfinite().all() and all(x.isfinite().all() for x in out)


@native_only
def test_sigmoid_is_accurate_everywhere():
    x = torch.cat([torch.linspace(-120, 120, 200001), torch.tensor([float("inf"), -float("inf"), 0.0, -0.0, 1e-30])])
    got = head(d2k.Ragged.pack([x.new_zeros(len(x), 1)]), x[:, None]).activations[:, 0]
    want = torch.sigmoid(x.double())
    error = (got.double() - want).abs()
    assert ((error < 4e-7 * want) | (error < 2e-38)).all()
    nan = head(d2k.Ragged.pack([x.new_zeros(1, 1)]), torch.tensor([[NAN]])).activations
    assert nan.isnan().all()


@native_only
def test_rows_that_are_not_selected_are_never_read():
    inputs = Inputs(lengths=(40, 9))
    options = dict(OPTIONS[0], foreground_threshold=0.7, background_threshold=0.7)
    want, _ = inputs.call(options)
    outside = (want.attention < 0.7) & (1 - want.attention < 0.7)
    assert outside.any()
    inputs.z = inputs.z.with_values(inputs.z.values.masked_fill(outside[:, None], NAN))
    got, _ = inputs.call(options)
    assert torch.equal(got.embedding, want.embedding) and torch.equal(got.mass, want.mass)


@native_only
def test_same_bits_whatever_the_threads():
    inputs = Inputs(lengths=(300, 41, 700, 5), width=96, classes=20, dtype=torch.float32)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            got, leaves = inputs.call(OPTIONS[0])
            found.append((*got, *torch.autograd.grad(weigh(got), leaves), *inputs.score(got)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@native_only
@pytest.mark.parametrize("labels", [True, False])
def test_opcheck(labels):
    inputs = Inputs()
    z = inputs.z
    given = inputs.labels if labels else None
    arguments = (z.values, inputs.logits, given, z.offsets, z.lengths, 2, 0.5, 0.5, True, True)
    torch.library.opcheck(schema.head.op, arguments)
    out = schema.head(*arguments)
    grads = out[0], None, out[2] if labels else None, out[3]
    torch.library.opcheck(schema.head_backward.op, (*arguments[:5], *out[:5], *grads, *arguments[5:]))
    scored = (z.values, inputs.reference, out[5], out[4], inputs.labels, z.offsets, z.lengths, 2, 5, 0.9, labels)
    torch.library.opcheck(schema.reference_score.op, scored)


@native_only
def test_bad_offsets_stay_inside():
    inputs = Inputs()
    total = inputs.z.shape[0]
    offsets = torch.tensor([-5, total + 9, 3, 2**40, -(2**40), 7])
    lengths = torch.tensor([total * 3, 4, -7, 2**40, 5])
    schema.head(inputs.z.values, inputs.logits, inputs.labels, offsets, lengths, 2, 0.5, 0.5, True, True)


def test_says_what_is_wrong():
    inputs = Inputs()
    for fields, match in (({"streams": 4}, "streams"), ({"labels": inputs.labels[:2]}, "labels must be"),
                          ({"labels": inputs.labels[:, :2]}, "as many labels")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            head(inputs.z, inputs.logits, **{"streams": 2, **fields})
    with pytest.raises(ValueError, match="logits must be"):
        head(inputs.z, inputs.logits.float(), streams=2)
    out = head(inputs.z, inputs.logits, streams=2)
    with pytest.raises(ValueError, match="reference_score: candidate"):
        reference_score(inputs.z, inputs.reference, out.lowest[:2], out.mass, inputs.labels, streams=2)


@pytest.mark.parametrize("backend", BACKENDS)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 2, 3]))
def test_scores_do_not_depend_on_size(backend, rows, reference, streams):
    inputs = Inputs((9, 1, 70), streams=streams)
    out, _ = inputs.call(OPTIONS[0])

    def scored(of_rows, of_reference):
        with d2k.backends.use(backend, "head"):
            return reference_score(
                inputs.z.with_values(inputs.z.values * of_rows), inputs.reference * of_reference,
                out.lowest.detach() * of_reference, out.mass.detach(), inputs.labels, streams=streams,
            )[1]  # fmt: skip

    torch.testing.assert_close(scored(10.0**rows, 10.0**reference), scored(1.0, 1.0), rtol=1e-12, atol=1e-14)
