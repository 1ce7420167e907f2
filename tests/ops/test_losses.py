"""The fused objective: native against the differentiable composition, gradients of every term, edge cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops.losses import PAIRS, Options, _checked, losses, reference, schema
from d2net.config import make_config
from d2net.methods.d2net.losses.options import loss_options

F64 = torch.float64
NAN = float("nan")
native_only = pytest.mark.skipif(not d2k.backends.can_run("losses", "native"), reason="no compiled extension")
RECIPES = ("release", "paper")
VARIANTS = {
    "as it is": {},
    "CE": {"loss.classification": "CE"},
    "F": {"loss.classification": "F"},
    "all pairs": {"loss.pairs": "all"},
    "random pairs": {"loss.pairs": "random"},
    "other cosine": {"loss.cosine": "torch"},
    "released cosine": {"loss.cosine": "release"},
    "no denoising": {"loss.denoising": "none"},
    "snippet": {"loss.denoising": "snippet"},
    "video": {"loss.denoising": "video"},
    "forward polarity": {"loss.ds_polarity": "forward"},
    "warm-ups": {"loss.denoising_warmup": 2000, "loss.pair_warmup": 3000},
    "other power": {"loss.beta": 1.5},
    "every video": {"loss.min_snippets": 1},
    "one-sided videos count": {"loss.ds_skip_one_sided": False},
    "no clamp": {"loss.clamp": 0.0},
}


class Inputs:
    """A batch as the head gives it; `rows` are gap rows in part."""

    def __init__(self, lengths=(9, 4, 12, 7, 30, 6), classes=5, width=37, seed=0, dtype=F64, gap=2, device="cpu"):
        random = torch.Generator().manual_seed(seed)
        n = len(lengths)
        total = sum(lengths) + gap * (n + 1)
        starts = torch.tensor([0, *itertools.accumulate(s + gap for s in lengths)]) + gap

        def draw(*shape):
            return torch.rand(*shape, generator=random, dtype=F64).to(dtype)

        self.p = draw(n, classes)
        self.embedding = draw(n, 2, width) - 0.3
        self.mass = (draw(n, 2) > 0.2).to(dtype) * 3
        self.labels = torch.rand(n, classes, generator=random) < 0.4
        self.on, self.off, self.score = draw(total), draw(total), draw(total)
        self.offsets, self.lengths = starts, torch.tensor(lengths, dtype=torch.int64)
        self.keys = torch.rand(4, n, generator=random)
        self.iteration = torch.tensor(1102)

    def call(self, options, **changed):
        """Terms, and the leaves that take gradients."""
        at = {**vars(self), **changed}
        leaves = {k: at[k].detach().clone().requires_grad_() for k in ("p", "embedding", "on", "off")}
        terms = losses(
            leaves["p"], leaves["embedding"], at["mass"], at["labels"], options,
            iteration=at["iteration"], offsets=at["offsets"], lengths=at["lengths"],
            foreground_attention=leaves["on"], background_attention=leaves["off"], foreground=at["score"],
            pairs_drawn=at["keys"],
        )  # fmt: skip
        return terms, list(leaves.values())

    def arguments(self, options):
        rows = self.on, self.off, self.score
        return (self.p, self.embedding, self.mass, *rows, self.labels, self.offsets, self.lengths, self.keys,
                self.iteration, *options)  # fmt: skip


def options_of(recipe, shape, denoise=True, **fields):
    return loss_options(make_config(None, recipe, fields).loss, denoise, shape)


def gradients(value, leaves):
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def both(inputs, options, **changed):
    out = []
    for backend in ("native", "reference"):
        with d2k.backends.use(backend, "losses"):
            terms, leaves = inputs.call(options, **changed)
            values = list(terms)
            out.append((values, [g for v in values if v.requires_grad for g in gradients(v, leaves)]))
    return out


def close(a, b, rtol, atol):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


@native_only
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_native_equals_the_composition(recipe, variant):
    for seed in range(3):
        inputs = Inputs(seed=seed)
        options = options_of(recipe, inputs.p.shape, **VARIANTS[variant])
        (values, grads), (want, want_grads) = both(inputs, options)
        for a, b in zip(values, want, strict=True):
            close(a, b, 1e-10, 1e-12)
        for a, b in zip(grads, want_grads, strict=True):
            close(a, b, 1e-8, 1e-11 * max(1.0, float(b.abs().max())))


@native_only
@pytest.mark.parametrize("recipe", RECIPES)
def test_float32_keeps_to_its_rounding(recipe):
    single = Inputs(dtype=torch.float32, lengths=(40, 75, 33, 20), classes=20, width=200)
    exact = Inputs(lengths=(40, 75, 33, 20), classes=20, width=200)
    for name in ("p", "embedding", "mass", "on", "off", "score"):
        setattr(exact, name, getattr(single, name).double())
    options = options_of(recipe, single.p.shape)
    with d2k.backends.use("native", "losses"):
        terms, leaves = single.call(options)
    want, exact_leaves = exact.call(options)
    for a, b in zip(terms, want, strict=True):
        assert a.dtype == torch.float32
        close(a.double(), b, 2e-6, 1e-9)
    for a, b in zip(gradients(terms.total, leaves), gradients(want.total, exact_leaves), strict=True):
        assert (a.double() - b).norm() <= 2e-6 * b.norm()


@pytest.mark.parametrize("pairs", ["all", "random"])
@pytest.mark.parametrize("cosine", ["torch", "release"])
@pytest.mark.parametrize("backend", [pytest.param("native", marks=native_only), "reference"])
def test_gradcheck(backend, cosine, pairs):
    inputs = Inputs(lengths=(6, 9, 7), classes=3, width=5)
    inputs.mass += 1
    inputs.labels[:, 0] = True
    fields = {"loss.cosine": cosine, "loss.pairs": pairs}
    options = options_of("release", inputs.p.shape, **fields)

    def total(p, embedding, on, off):
        return losses(
            p, embedding, inputs.mass, inputs.labels, options, iteration=inputs.iteration, offsets=inputs.offsets,
            lengths=inputs.lengths, foreground_attention=on, background_attention=off, foreground=inputs.score,
            pairs_drawn=inputs.keys,
        ).total  # fmt: skip

    leaves = [x.clone().requires_grad_() for x in (inputs.p * 0.8 + 0.1, inputs.embedding, inputs.on, inputs.off)]
    with d2k.backends.use(backend, "losses"):
        assert torch.autograd.gradcheck(total, leaves, atol=1e-7)


@native_only
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=7), st.integers(1, 6), st.integers(1, 40), st.integers(0, 999),
    st.sampled_from(RECIPES), st.sampled_from(sorted(VARIANTS)), st.sampled_from([1, 1000, 1001, 1102, 9000]),
)  # fmt: skip
def test_any_batch(lengths, classes, width, seed, recipe, variant, iteration):
    inputs = Inputs(tuple(lengths), classes, width, seed)
    options = options_of(recipe, inputs.p.shape, **VARIANTS[variant])
    (values, grads), (want, want_grads) = both(inputs, options, iteration=torch.tensor(iteration))
    for a, b in zip(values, want, strict=True):
        close(a, b, 1e-8, 1e-9)
    for a, b in zip(grads, want_grads, strict=True):
        close(a, b, 1e-6, 1e-8 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("backend", [pytest.param("native", marks=native_only), "reference"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", ["no labels", "no foreground", "no background", "one video", "none", "short", "rows"])
def test_edges_are_finite(case, recipe, backend):
    inputs = Inputs(lengths=(9,) if case == "one video" else () if case == "none" else (9, 6, 7))
    if case == "no labels":
        inputs.labels[:] = False
    if case == "short":
        inputs.lengths[:] = 0
    if case.startswith("no "):
        inputs.mass[:, {"no foreground": 0, "no background": 1}.get(case, 0)] = 0
        inputs.score[:] = {"no foreground": 0.1, "no background": 0.9}.get(case, 0.5)
    if case == "rows":
        inputs.on, inputs.off, inputs.score = (x[:0] for x in (inputs.on, inputs.off, inputs.score))
        inputs.offsets = torch.zeros_like(inputs.offsets)
    options = options_of(recipe, inputs.p.shape)
    with d2k.backends.use(backend, "losses"):
        terms, leaves = inputs.call(options)
        assert all(t.isfinite() for t in terms)
        for g in gradients(terms.total, leaves):
            assert g.isfinite().all()
        if case in ("no labels", "none") or (case == "short" and recipe == "release"):
            assert terms.classification == 0 and not any(g.any() for g in gradients(terms.classification, leaves))


@native_only
def test_videos_left_out_are_never_read():
    inputs = Inputs()
    inputs.labels[:, 0] = True
    inputs.labels[2] = False
    options = options_of("release", inputs.p.shape)
    with d2k.backends.use("native", "losses"):
        want, leaves = inputs.call(options)
        expected = gradients(want.total, leaves)
        first, last = int(inputs.offsets[2]), int(inputs.offsets[2] + inputs.lengths[2])
        dirty = {}
        for name in ("p", "embedding"):
            dirty[name] = getattr(inputs, name).clone()
            dirty[name][2] = NAN
        for name in ("on", "off"):
            dirty[name] = getattr(inputs, name).clone()
            dirty[name][first:last] = NAN
        got, leaves = inputs.call(options, **dirty)
    for a, b in zip((*got, *gradients(got.total, leaves)), (*want, *expected), strict=True):
        assert torch.equal(a, b)


@native_only
def test_nan_reaches_the_total():
    inputs = Inputs()
    inputs.labels[:, 0] = True
    p = inputs.p.clone()
    p[0, 2] = NAN
    with d2k.backends.use("native", "losses"):
        assert inputs.call(options_of("release", p.shape), p=p)[0].total.isnan()


@native_only
def test_permutations_and_keys_agree_and_bad_ones_stay_inside():
    inputs = Inputs()
    inputs.labels[:, 0] = True
    options = options_of("release", inputs.p.shape)
    keep = reference.kept_videos(inputs.lengths, inputs.labels, options.min_snippets)
    has = (inputs.mass > 0) & keep[:, None]
    drawn = torch.stack(reference.permutations_of(inputs.keys, has[:, 0], has[:, 1]))
    with d2k.backends.use("native", "losses"):
        by_keys, leaves = inputs.call(options)
        by_order, same = inputs.call(options, keys=drawn)
        for a, b in zip(gradients(by_keys.total, leaves), gradients(by_order.total, same), strict=True):
            assert torch.equal(a, b)
        wild = torch.full_like(drawn, 2**40) * torch.tensor([[1], [-1], [1], [-1]])
        assert all(t.isfinite() for t in inputs.call(options, keys=wild)[0])


@native_only
def test_same_bits_on_every_run():
    inputs = Inputs(lengths=(40, 75, 33, 20) * 4, classes=20, width=200, dtype=torch.float32)
    options = options_of("release", inputs.p.shape)
    first = schema.losses(*inputs.arguments(options))
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(schema.losses(*inputs.arguments(options)), first, strict=True))


@native_only
def test_the_schedule_is_read_from_the_device():
    fields = {"loss.denoising_warmup": 100, "loss.denoising_start": 10, "loss.pair_warmup": 50}
    inputs = Inputs()
    inputs.labels[:, 0] = True
    options = options_of("release", inputs.p.shape, **fields)
    totals = []
    for iteration in (5, 10, 20, 60, 110, 500):
        terms, _ = inputs.call(options, iteration=torch.tensor(iteration))
        scale = min(1.0, max(0, iteration - 10) / 100)
        close(terms.total, terms.classification + 0.1 * scale * (terms.ds + terms.dv), 1e-12, 0)
        totals.append(float(terms.total.detach()))
    assert totals[-2] == totals[-1] and len(set(totals[:-1])) == 5


@native_only
@pytest.mark.parametrize("snippet", [True, False])
def test_opcheck(snippet):
    inputs = Inputs()
    options = options_of("release", inputs.p.shape)._replace(snippet=snippet)
    arguments = list(inputs.arguments(options))
    if not snippet:
        arguments[3:6] = [None] * 3
    torch.library.opcheck(schema.losses.op, arguments)
    out = schema.losses(*arguments)
    one = torch.ones((), dtype=F64)
    backward = (one, None, one, None, *out[4:], arguments[5], inputs.offsets, inputs.lengths, 0.5, 0.5)
    torch.library.opcheck(schema.losses_backward.op, backward)


def test_one_attention_for_both_sides():
    inputs = Inputs()
    inputs.labels[:, 0] = True
    options = options_of("paper", inputs.p.shape)
    kept = dict(iteration=inputs.iteration, offsets=inputs.offsets, lengths=inputs.lengths)

    def slope(shared):
        a = inputs.on.clone().requires_grad_()
        other = a if shared else a.clone()
        terms = losses(inputs.p, inputs.embedding, inputs.mass, inputs.labels, options, foreground_attention=a,
                       background_attention=other, foreground=inputs.score, **kept)  # fmt: skip
        return torch.autograd.grad(terms.total, a)[0]

    close(slope(True), slope(False), 1e-12, 1e-14)


def test_says_what_is_wrong():
    inputs = Inputs()
    options = options_of("release", inputs.p.shape)
    for name, bad in (("mass", inputs.mass[:2]), ("labels", inputs.labels.float()), ("keys", inputs.keys[:3]),
                      ("iteration", torch.tensor([1])), ("score", inputs.score[:4])):  # fmt: skip
        with pytest.raises(ValueError, match=r"losses: .* must be"):
            inputs.call(options, **{name: bad})
    with pytest.raises(TypeError, match="losses: p must be float32 or float64"):
        inputs.call(options, p=inputs.p.half())


WRONG = {
    bool: (1, 0.0, "no", None),
    int: (-1, 2.5, NAN, "3", True, 2**63),
    float: (NAN, -1.0, "0.5", True, 10**400),
}


@pytest.mark.parametrize("name", Options._fields)
def test_every_option_is_checked(name):
    inputs = Inputs(lengths=(3, 2), width=4)
    kind = type(Options._field_defaults[name] if name != "relative_floor" else 0.0)
    anything = name in ("foreground_threshold", "background_threshold")  # any number; even an infinite one
    for wrong in WRONG[kind]:
        if anything and wrong == -1.0:
            continue
        with pytest.raises((TypeError, ValueError), match=rf"losses: options\.{name} must "):
            inputs.call(Options(**{name: wrong}))
    if kind is float and not anything:
        with pytest.raises(ValueError, match=rf"losses: options\.{name} must "):
            inputs.call(Options(**{name: math.inf}))
    right = {bool: np.True_, int: np.int32(1), float: np.float64(0.25)}[kind]
    assert inputs.call(Options(**{name: right}))[0].total.isfinite()


def test_options_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match="options must be Options, got tuple"):
        Inputs().call(tuple(Options()))
    with pytest.raises(ValueError, match=r"options\.pairs must be at most 2, got 3"):
        Inputs().call(Options(pairs=len(PAIRS)))


@pytest.mark.parametrize("beta", [1.5, 3.0])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_rounding_makes_no_power_of_a_negative_number(backend, beta):
    if not d2k.backends.can_run("losses", backend):
        pytest.skip("no compiled extension")
    options = options_of("release", Inputs().p.shape, denoise=False, **{
        "loss.pairs": "all", "loss.cosine": "torch", "loss.clamp": 0.0, "loss.beta": beta, "loss.gamma": 1.0,
    })  # fmt: skip
    for seed in range(20):
        inputs = Inputs(seed=seed)
        one = inputs.embedding[:1, :1]
        inputs.embedding = torch.cat([one, -one], 1).expand(6, -1, -1).contiguous()
        inputs.mass = torch.ones_like(inputs.mass)
        inputs.labels = inputs.labels | (torch.arange(5) == 0)
        inputs.p = torch.where(inputs.labels, 1.0, inputs.p)
        with d2k.backends.use(backend, "losses"):
            terms, leaves = inputs.call(options)
        assert terms.total.isfinite() and all(g.isfinite().all() for g in gradients(terms.total, leaves))


@native_only
def test_keys_of_any_size_order_the_same():
    inputs = Inputs()
    options = options_of("release", inputs.p.shape, **{"loss.pairs": "random"})
    totals = []
    for scale, backend in itertools.product((1, 4, 1e6), ("native", "reference")):
        with d2k.backends.use(backend, "losses"):
            totals.append(inputs.call(options, keys=inputs.keys * scale)[0].total)
    for total in totals[1:]:
        torch.testing.assert_close(total, totals[0], rtol=1e-9, atol=1e-12)


def test_options_that_passed_once_excuse_no_others():
    """Options are looked at once, by value and type: True is no 1."""
    options = Options(gamma=1, snippet=True)
    assert _checked(options) is _checked(Options(gamma=1, snippet=True))
    for bad in (Options(gamma=1, snippet=1), Options(gamma=True, snippet=True)):
        with pytest.raises(TypeError, match="losses: options"):
            _checked(bad)


def test_options_are_looked_at_once_however_many_came_before():
    for i in range(200):
        _checked(Options(gamma=i))
    assert _checked(Options(beta=3)) is _checked(Options(beta=3))
