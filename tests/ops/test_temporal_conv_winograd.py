"""temporal_conv by Winograd's F(4, 3), where D2K_FLOAT32 asks for it: the same function, a little more rounding."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k
from d2kernels.ops.temporal_conv import products

HERE = d2k.backends.can_run("temporal_conv", "native", "cpu", torch.float32) and products.available()
pytestmark = pytest.mark.skipif(not HERE, reason="no products of our own here")
NAN = float("nan")
LENGTHS = [130, 1, 0, 66, 5, 40, 3, 90]


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.setenv("D2K_FLOAT32", "winograd")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(lengths, c_in, c_out, groups=1, gap=2, kernel=3):
    x = d2k.Ragged.pack([normal(s, c_in, seed=i) for i, s in enumerate(lengths)], gap=gap)
    x = x.with_values(torch.where(x.row_mask()[:, None], x.values, NAN))
    weight = normal(c_out, c_in // groups, kernel, seed=100) * (3 * c_in // groups) ** -0.5
    return x, weight, normal(c_out, seed=101)


def step(backend, x, weight, bias, dtype=torch.float32, **options):
    """(out, gradients of rows, weight and bias)."""
    leaves = [t.to(dtype).requires_grad_() for t in (x.values, weight, bias) if t is not None]
    with d2k.backends.use(backend, "temporal_conv"):
        out = d2k.temporal_conv(x.with_values(leaves[0]), *leaves[1:], **options).values
        seed = normal(*out.shape, seed=102).to(dtype)
        return [out.detach(), *torch.autograd.grad(out, leaves, seed)]


@pytest.fixture
def calls(monkeypatch):
    """Of forward and backward, those by Winograd."""
    found = []
    for name in ("forward", "backward"):
        run = getattr(products, name)

        def watched(*given, run=run, first=name == "forward"):
            weight, dilation, groups = given[1 if first else 2], *given[5 if first else 6 :][:2]
            if products.winograd(weight, dilation, groups):
                found.append(run)
            return run(*given)

        monkeypatch.setattr(products, name, watched)
    return found


@pytest.mark.parametrize(
    ("lengths", "c_in", "c_out", "options"),
    [
        (LENGTHS, 64, 64, {"residual": True}),
        (LENGTHS, 160, 192, {"groups": 2}),
        ([301], 64, 80, {}),
        ([256], 80, 64, {}),  # no gap rows: nothing is moved
        ([1] * 300, 64, 64, {}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_rounds_little_more_than_plain_sums(lengths, c_in, c_out, options, bias, calls):
    x, weight, b = problem(lengths, c_in, c_out, options.get("groups", 1), gap=0 if len(lengths) == 1 else 2)
    b = b if bias else None
    got = step("native", x, weight, b, **options)
    assert len(calls) == 2
    plain, exact = (step("reference", x, weight, b, dtype, **options) for dtype in (torch.float32, torch.float64))
    for mine, low, want in zip(got, plain, exact, strict=True):
        error, own = ((t.double() - want).norm() / want.norm() for t in (mine, low))
        assert error <= 4 * own + 3e-7, (float(error), float(own))
    inside = x.row_mask()
    assert not got[0][~inside].any() and not got[1][~inside].any()


def test_autocast_does_not_reach_the_products(calls):
    x, weight, bias = problem(LENGTHS, 64, 64)
    values, weight = x.values.requires_grad_(), weight.requires_grad_()

    def gradients():
        with torch.autocast("cpu", enabled=False):
            out = d2k.temporal_conv(x.with_values(values), weight, bias).values
        return torch.autograd.grad(out.square().sum(), (values, weight))

    want = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients()
    assert len(calls) == 4 and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_few_rows_among_many_gaps(calls):
    x = d2k.Ragged(torch.full((300, 64), 1.0), [0, 7, 300], [3, 1])
    weight = torch.ones(64, 64, 3)
    out = step("native", x, weight, None)[0]
    assert calls and not out[3:7].any() and not out[8:].any()
    torch.testing.assert_close(out[[0, 1, 2, 7], 0], torch.tensor([128.0, 192.0, 128.0, 64.0]))


def test_strided_arguments(calls):
    x, weight, bias = problem(LENGTHS, 64, 64)
    want = step("native", x, weight, bias)
    wide = torch.stack([x.values, x.values], 2)[:, :, 0]
    weight, bias = weight.permute(2, 1, 0).contiguous().permute(2, 1, 0), torch.stack([bias, bias], 1)[:, 0]
    assert not (wide.is_contiguous() or weight.is_contiguous() or bias.is_contiguous())
    got = step("native", x.with_values(wide), weight, bias)
    assert calls and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_nan_stays_in_its_sequence(calls):
    x, weight, bias = problem([130, 127, 90], 64, 64, gap=0)
    clean = step("native", x, weight, bias)
    values = x.values.clone()
    values[[0, 129, 257]] = torch.tensor([NAN, float("inf"), -float("inf")])[:, None]
    spoilt = step("native", x.with_values(values), weight, bias)
    assert calls and torch.equal(spoilt[0][130:257], clean[0][130:257])
    assert torch.equal(spoilt[1], clean[1])


def test_activation_dropout_and_residual_follow(calls):
    x, weight, bias = problem(LENGTHS, 64, 64)
    options = {"negative_slope": 0.2, "residual": True, "dropout": 0.5, "seed": torch.tensor([3])}
    got, want = (step(b, x, weight, bias, **options) for b in ("native", "reference"))
    assert calls
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_their_neighbours(threads, request):
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(threads)
    sequences = [normal(s, 64, seed=s) for s in (300, 2, 77, 259)]
    _, weight, bias = problem([1], 64, 64)

    def run(order):
        x = d2k.Ragged.pack([sequences[i] for i in order])
        out, grad = step("native", x, weight, bias, residual=True)[:2]
        del grad  # of a random seed by place
        return dict(zip(order, x.with_values(out).unpack(), strict=True))

    whole = run([0, 1, 2, 3])
    for order in ([3, 1, 0, 2], [0], [3, 2], [1], [2], [2, 1]):
        assert all(torch.equal(rows, whole[i]) for i, rows in run(order).items()), order
    again = run([0, 1, 2, 3])
    assert all(torch.equal(again[i], whole[i]) for i in again)


@pytest.mark.parametrize(
    ("c", "kernel", "options", "dtype"),
    [
        (64, 5, {}, torch.float32),
        (64, 3, {"dilation": 2}, torch.float32),
        (48, 3, {}, torch.float32),
        (64, 3, {}, torch.bfloat16),
    ],
)
def test_other_layers_are_as_without(c, kernel, options, dtype, calls, monkeypatch):
    x, weight, bias = problem(LENGTHS, c, c, kernel=kernel)
    asked = step("native", x, weight, bias, dtype, **options)
    monkeypatch.delenv("D2K_FLOAT32")
    assert all(torch.equal(a, b) for a, b in zip(asked, step("native", x, weight, bias, dtype, **options), strict=True))
    assert not calls


@pytest.mark.parametrize("way", [None, "", "ieee", "tf32"])
def test_only_where_asked_for(way, calls, monkeypatch):
    monkeypatch.delenv("D2K_FLOAT32") if way is None else monkeypatch.setenv("D2K_FLOAT32", way)
    step("native", *problem(LENGTHS, 64, 64))
    assert not calls


def test_an_unknown_way_is_an_error(monkeypatch):
    monkeypatch.setenv("D2K_FLOAT32", "fast")
    with pytest.raises(ValueError, match="D2K_FLOAT32 must be one of ieee, tf32, tf32x3, winograd, got 'fast'"):
        step("native", *problem(LENGTHS, 64, 64))
