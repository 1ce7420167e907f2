"""temporal_conv's Triton kernels, interpreted where there is no GPU, against conv1d in float64 on every sequence."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels.ops._triton import Launch
from d2kernels.ops.temporal_conv import bits, reference
from d2kernels.ops.temporal_conv.dropout import keep, placed

kernels = importlib.import_module("d2kernels.ops.temporal_conv.triton")
configs = importlib.import_module("d2kernels.ops.temporal_conv.triton_configs")
launch = importlib.import_module("d2kernels.ops.temporal_conv.triton_launch")
product = importlib.import_module("d2kernels.ops.temporal_conv.triton_product")
weights = importlib.import_module("d2kernels.ops.temporal_conv.triton_weight_gradient")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="neither a GPU nor TRITON_INTERPRET=1"
)
NAN = float("nan")
SEED = torch.tensor([7 - 2**63], device=DEVICE)
FIRST = torch.tensor([2**33 + 5], device=DEVICE)
SMALL = configs.Config(16, 16, 16, 4, 2, group_m=2)  # many tiles of few rows


def ship(monkeypatch, chosen):
    """One shape of tiles for every product."""
    for module in (product, weights):
        monkeypatch.setattr(module, "config", lambda *_: chosen)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Layer:
    """Whole numbers, so that sums are exact and rounding cannot choose the activation's branch.

    zeros: gap rows of x are zero, and known to be; else they hold NaN.
    """

    def __init__(self, lengths, c_in, c_out, kernel, dtype=torch.float32, bias=True, gap=2, zeros=False, **options):
        groups = options.get("groups", 1)
        parts = [(normal(s, c_in, seed=i) * 2).round() for i, s in enumerate(lengths)]
        self.x = d2k.Ragged.pack([p.to(DEVICE, dtype) for p in parts], gap=gap)
        self.inside = self.x.row_mask()
        self.gap = gap if zeros else 0
        if not zeros:
            self.x = self.x.with_values(torch.where(self.inside[:, None], self.x.values, NAN))
        self.weight = (normal(c_out, c_in // groups, kernel, seed=50) * 2).round().to(DEVICE, dtype)
        self.bias = normal(c_out, seed=51).round().to(DEVICE, dtype) if bias else None
        seed = normal(len(self.x.values), c_out, seed=52).to(DEVICE, dtype)
        self.seed = torch.where(self.inside[:, None], seed, NAN)
        self.dtype, self.options = dtype, options

    def leaves(self, dtype=None):
        found = (self.x.values, self.weight, self.bias)
        return [t.detach().clone().to(dtype or self.dtype).requires_grad_() for t in found if t is not None]

    def run(self, backend="triton"):
        """(out, gradients of x, weight and bias)."""
        leaves = self.leaves()
        x = d2k.Ragged(leaves[0].detach(), self.x.offsets, self.x.lengths, gap=self.gap)
        x = d2k.Ragged._trusted(leaves[0], x.offsets, x.lengths, gap=self.gap)
        with d2k.backends.use(backend, "temporal_conv"):
            out = d2k.temporal_conv(x, *leaves[1:], **self.options).values
            return [out.detach(), *torch.autograd.grad(out, leaves, self.seed)]

    def exact(self):
        leaves, options = self.leaves(torch.float64), dict(self.options)
        slope, residual = options.pop("negative_slope", None), options.pop("residual", False)
        p, seed, first = options.pop("dropout", 0.0), options.pop("seed", None), options.pop("first_row", None)
        options["padding"] = options.get("dilation", 1) * (self.weight.shape[2] // 2)
        outs, x = [], self.x.with_values(leaves[0])
        for s in (s for s in x.unpack() if len(s)):
            y = F.conv1d(s.T[None], *leaves[1:], **options)[0].T
            y = y if slope is None else F.leaky_relu(y, slope)
            outs.append(y + s if residual else y)
        out = torch.cat(outs)
        if p:
            out = out * keep(placed(seed, first), *self.seed.shape, p)[self.inside] / (1 - p)
        grads = torch.autograd.grad(out, leaves, self.seed[self.inside].double())
        full = torch.zeros(self.seed.shape, dtype=torch.float64, device=DEVICE)
        full[self.inside] = out.detach()
        return [full, *grads]


def close(got, want, low):
    error, own = ((y.double() - want).norm() / want.norm() for y in (got, low))
    # The interpreter cuts float32 to bfloat16 instead of rounding it, which doubles the error.
    factor = 2.5 if DEVICE == "cpu" and got.dtype == torch.bfloat16 else 2
    assert error <= factor * own + 4e-7, (float(error), float(own))
    assert abs(got.double().norm() / want.norm() - 1) < 0.02
    assert F.cosine_similarity(got.double().flatten(), want.flatten(), dim=0) > 0.999


LAYERS = {
    "groups end within a byte": (([1, 0, 5, 33, 2], 24, 24, 3), {"negative_slope": 0.2, "residual": True, "groups": 2}),
    "packed bits": (([20, 3], 32, 32, 3), {"negative_slope": 0.2, "residual": True, "groups": 2}),
    "no residual": (([9, 0, 8], 20, 48, 3), {"negative_slope": 0.3}),
    "kernel wider than the sequence": (([3, 1, 2], 16, 32, 7), {"negative_slope": -0.3, "groups": 2}),
    "dilation beyond the sequence": (([4, 9], 16, 16, 5), {"dilation": 6, "residual": True}),
    "slope 0": (([30], 40, 24, 1), {"negative_slope": 0.0}),
    "classifier": (([17, 6], 48, 40, 3), {"groups": 2}),
    "dropout, packed bits": (
        ([20, 3], 32, 32, 3),
        {"negative_slope": 0.2, "residual": True, "groups": 2, "dropout": 0.5, "seed": SEED},
    ),
    "dropout, no residual": (([9, 0, 8], 20, 48, 3), {"negative_slope": 0.3, "dropout": 0.5, "seed": SEED}),
    "dropout, groups end within four": (([17, 6], 16, 22, 3), {"groups": 2, "dropout": 0.2, "seed": SEED}),
    "dropout, part of a batch": (([9, 0, 8], 20, 48, 3), {"dropout": 0.5, "seed": SEED, "first_row": FIRST}),
    "dropout, two channels": (([9], 16, 2, 1), {"dropout": 0.5, "seed": SEED}),
    "no bias": (([17, 6], 16, 7, 3), {"bias": False, "gap": 0, "dilation": 2}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients(name, dtype):
    shape, options = LAYERS[name]
    layer = Layer(*shape, dtype=dtype, **options)
    for got, want, low in zip(layer.run(), layer.exact(), layer.run("reference"), strict=True):
        assert got.dtype == dtype
        close(got, want, low)
    assert not layer.run()[0][~layer.inside].any() and not layer.run()[1][~layer.inside].any()


@pytest.mark.parametrize("special", [NAN, float("inf"), -float("inf"), 1e-42, 1e37])
def test_special_values_stay_in_reach(special):
    shape, options = LAYERS["packed bits"]
    layer = Layer(*shape, **options)
    rows = layer.inside.nonzero()[:, 0]
    layer.x.values[rows[[0, 11, -1]], 5] = special
    for got, want in zip(layer.run(), layer.exact(), strict=True):
        want = want.float().double()  # sums past float32's range are infinite
        whole = want.isfinite()
        torch.testing.assert_close(got.double()[~whole], want[~whole], equal_nan=True)
        assert (got.double() - want)[whole].abs().max() <= 1e-6 * want[whole].abs().max()


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5),
    st.integers(0, 3),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 5),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 0.25, 0.0, -0.5]),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
)
def test_any_layer(lengths, gap, kernel, dilation, groups, slope, residual, dropout):
    assume(any(lengths))
    options = {"dilation": dilation, "groups": groups, "negative_slope": slope, "residual": residual}
    options |= {"dropout": dropout, "seed": SEED}
    layer = Layer(lengths, 20, 20 if residual else 16, kernel, gap=gap, **options)
    for got, want in zip(layer.run(), layer.exact(), strict=True):
        assert (got.double() - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize("chosen", [SMALL, SMALL._replace(waves=1), SMALL._replace(block_n=256)])
@pytest.mark.parametrize(("arch", "dropout"), [(80, 0.0), (90, 0.0), (90, 0.5)])
def test_tiles_and_tensor_descriptors(monkeypatch, chosen, arch, dropout):
    ship(monkeypatch, chosen)
    monkeypatch.setattr(launch, "_device", lambda _: (arch, 3))
    described, make = [], product.TensorDescriptor
    monkeypatch.setattr(product, "TensorDescriptor", lambda *a: described.append(a) or make(*a))
    # float32 sums of whole numbers are exact whatever their order.
    layer = Layer([20, 0, 11], 64, 64, 3, negative_slope=0.25, residual=True, groups=2, dropout=dropout, seed=SEED)
    for got, want in zip(layer.run(), layer.exact(), strict=True):
        assert (got.double() - want).norm() <= 1e-6 * want.norm()
    assert len(described) == (2 if arch == 90 else 0)


PLAIN = {  # layers whose gap rows are wide enough, and how many of the three products take plain tiles
    "a gap of its own reach": ([20, 0, 11], 64, 64, 3, 1, {"negative_slope": 0.25, "residual": True, "groups": 2}, 3),
    "dilated, a wide gap": ([9, 30], 32, 48, 5, 9, {"dilation": 3, "negative_slope": 0.5}, 3),
    "no activation": ([9, 30], 32, 32, 3, 1, {}, 3),
    "dropout": ([20, 3], 32, 32, 3, 1, {"residual": True, "groups": 2, "dropout": 0.5, "seed": SEED}, 3),
    "too narrow a gap": ([9, 30], 32, 32, 5, 1, {}, 0),
    "rows of no whole 16 bytes": ([9, 30], 20, 32, 3, 1, {}, 0),
}


@pytest.fixture
def plain(monkeypatch):
    """Small tiles on an sm_90 of three multiprocessors; the kernels of plain tiles that are launched."""
    # Two warps: four would share 16 × 16 sums, and store each twice.
    ship(monkeypatch, SMALL._replace(warps=2))
    monkeypatch.setattr(launch, "_device", lambda _: (90, 3))
    launched = []

    call = Launch.__call__

    def record(launch, *arguments):
        if launch.kernel.__name__.startswith("plain"):
            launched.append(launch.kernel.__name__)
        call(launch, *arguments)

    monkeypatch.setattr(Launch, "__call__", record)
    return launched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_tiles_where_gap_rows_suffice(plain, monkeypatch, name, dtype):
    *shape, gap, options, count = PLAIN[name]
    count = 2 if "16 bytes" in name and dtype == torch.float32 else count  # 20 channels are no whole tiles
    monkeypatch.setenv("D2K_FLOAT32", "tf32")
    layer = Layer(*shape, dtype=dtype, gap=gap, zeros=True, **options)
    got = layer.run()
    for mine, want in zip(got, layer.exact(), strict=True):
        assert mine.dtype == dtype and (mine.double() - want).norm() <= (8e-3, 2e-3)[dtype.itemsize // 4] * want.norm()
    assert len(plain) == count
    assert not got[0][~layer.inside].any() and not got[1][~layer.inside].any()


def test_one_tap_reaches_no_gap_row_but_its_weight_gradient_sums_them(plain):
    layer = Layer([9, 30], 32, 32, 1, dtype=torch.bfloat16)
    for got, want in zip(layer.run(), layer.exact(), strict=True):
        assert (got.double() - want).norm() <= 8e-3 * want.norm()
    assert plain == ["plain_kernel", "plain_kernel"]


@pytest.mark.parametrize("special", [NAN, float("inf")])
def test_infinite_rows_beside_plain_tiles(plain, monkeypatch, special):
    """A gap row's zero gradient times infinity is no part of the gradient."""
    monkeypatch.setenv("D2K_FLOAT32", "tf32")
    layer = Layer([20, 3], 32, 32, 3, gap=1, zeros=True, residual=True)
    rows = layer.inside.nonzero()[:, 0]
    layer.x.values[rows[[0, 11, 19]], 5] = special
    for got, want in zip(layer.run(), layer.exact(), strict=True):
        whole = want.isfinite()
        torch.testing.assert_close(got.double()[~whole], want[~whole], equal_nan=True)
        assert (got.double() - want)[whole].abs().max() <= 2e-3 * want[whole].abs().max()
    assert len(plain) == 3


def test_tiles_of_gap_rows_alone(monkeypatch):
    ship(monkeypatch, SMALL)
    layer = Layer([20, 0, 11], 16, 16, 5, negative_slope=0.25, dilation=9, gap=50)
    got = layer.run()
    for mine, want in zip(got, layer.exact(), strict=True):
        assert (mine.double() - want).norm() <= 1e-6 * want.norm()
    assert not got[0][~layer.inside].any() and not got[1][~layer.inside].any()


def test_rows_of_the_weight_gradient_are_split_in_a_fixed_order(monkeypatch):
    layer = Layer([300, 0, 280], 16, 16, 3, negative_slope=0.2, groups=1)
    first, second = layer.run(), layer.run()
    assert weights.split(580, 1, 16)[1] == 3
    for got, again, want in zip(first, second, layer.exact(), strict=True):
        assert torch.equal(got, again)
        assert (got.double() - want).norm() <= 1e-6 * want.norm()


def test_neighbours_do_not_matter_to_the_bit():
    sequences, weight = [normal(s, 16, seed=s).float().to(DEVICE) for s in (70, 9, 33)], normal(16, 16, 3, seed=3)
    weight = weight.float().to(DEVICE)
    if DEVICE == "cpu":
        # NumPy's products, which the interpreter takes, round a row differently at another place: exact ones do not.
        sequences, weight = [s.round() for s in sequences], weight.round()

    def run(order):
        x = d2k.Ragged.pack([sequences[i] for i in order])
        values = x.values.clone().requires_grad_()
        with d2k.backends.use("triton", "temporal_conv"):
            out = d2k.temporal_conv(x.with_values(values), weight, negative_slope=0.25, residual=True)
        (g,) = torch.autograd.grad(out.values.square().sum(), values)
        made = zip(order, out.unpack(), x.with_values(g).unpack(), strict=True)
        return {i: torch.cat([y.detach(), dx]) for i, y, dx in made}

    whole = run([0, 1, 2])
    for order in ([2, 1, 0], [1], [0, 2]):
        assert all(torch.equal(rows, whole[i]) for i, rows in run(order).items()), order


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [
        ([0, 6, 10**12], [6, 10**12]),  # past the end
        ([0, 6, 2], [6, -4]),  # backwards
        ([0, -(10**12), 14], [6, 5]),
        ([10**12, -3, 4], [3, 10**15]),
    ],
)
def test_bad_offsets_never_reach_other_memory(offsets, lengths):
    x = torch.full((40, 16), NAN, device=DEVICE)
    x[10:24] = 1
    x, weight = x[10:24], torch.ones(16, 16, 3, device=DEVICE)
    offsets, lengths = (torch.tensor(t, device=DEVICE) for t in (offsets, lengths))
    options = (1, 1, 0.2, True, 0.0, None)
    out, sign = kernels.temporal_conv_forward(x, weight, None, offsets, lengths, *options)
    grads = kernels.temporal_conv_backward(out, x, weight, offsets, lengths, sign, *options, True, True, True)
    assert all(t.isfinite().all() for t in (out, *grads))
    if offsets[0] == 0 and lengths[0] == 6 and offsets[1] == 6:
        assert (out[1:5] == 49).all() and (out[0] == 33).all()


def test_strided_arguments_and_weights_by_tap():
    layer = Layer([9, 4], 16, 16, 3, groups=2, negative_slope=0.2)
    want = layer.run()
    wide = torch.full((len(layer.x.values), 40), NAN, device=DEVICE)
    wide[:, 8:24] = layer.x.values
    for values in (wide[:, 8:24], layer.x.values.T.contiguous().T):
        layer.x = layer.x.with_values(values)
        with d2k.backends.use("triton", "temporal_conv"):
            for weight in (layer.weight, layer.weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
                out = d2k.temporal_conv(layer.x, weight, layer.bias, **layer.options).values
                assert torch.equal(out, want[0])


def test_nothing_to_convolve():
    weight = torch.randn(4, 4, 3, device=DEVICE, requires_grad=True)
    for rows, offsets in ((0, [0]), (0, [0, 0]), (3, [0])):
        x = torch.randn(rows, 4, device=DEVICE, requires_grad=True)
        with d2k.backends.use("triton", "temporal_conv"):
            out = d2k.temporal_conv(x, weight, offsets=torch.tensor(offsets, device=DEVICE), negative_slope=0.1)
        grads = torch.autograd.grad(out.sum(), (x, weight))
        assert not out.any() and not any(g.any() for g in grads)


def test_compiles_whole():
    layer = Layer([9, 4], 16, 16, 3, negative_slope=0.2, residual=True)
    want = layer.run()
    call = lambda v, w, b: d2k.temporal_conv(layer.x.with_values(v), w, b, **layer.options).values  # noqa: E731
    leaves = layer.leaves()
    with d2k.backends.use("triton", "temporal_conv"):
        out = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
        got = [out.detach(), *torch.autograd.grad(out, leaves, layer.seed)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("channels", [1, 7, 8, 20, 64])
def test_bits(channels):
    flags = normal(5, channels, seed=channels) > 0
    packed = bits.pack(flags)
    assert packed.shape == (5, (channels + 7) // 8)
    plain = [[sum(int(f) << i for i, f in enumerate(row[c : c + 8])) for c in range(0, channels, 8)] for row in flags]
    assert packed.tolist() == plain
    assert torch.equal(bits.unpack(packed, channels), flags)
    assert bits.pack(flags[:0]).shape == (0, packed.shape[1]) and bits.unpack(packed[:0], channels).shape[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_before_the_activation(dtype):
    grad, flags = normal(6, 24, seed=1).to(dtype), normal(6, 24, seed=2) > 0
    got = bits.before_activation(grad, bits.pack(flags), 0.2)
    assert torch.equal(got, torch.where(flags, grad, grad * 0.2))


def test_saved_bits_are_the_references():
    layer = Layer([20, 3], 32, 32, 3, gap=0)
    arguments = (layer.x.values, layer.weight, layer.bias, layer.x.offsets, layer.x.lengths, 1, 1, 0.2, True, 0.0, None)
    mine, theirs = (b.temporal_conv_forward(*arguments)[1] for b in (kernels, reference))
    assert torch.equal(mine, theirs)


def test_float32_products(monkeypatch):
    before = torch.backends.cuda.matmul.fp32_precision
    monkeypatch.delenv("D2K_FLOAT32", raising=False)
    for setting in ("ieee", "tf32"):
        torch.backends.cuda.matmul.fp32_precision = setting
        try:
            assert launch.precision(torch.float32) == setting and launch.precision(torch.float16) == "ieee"
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
    monkeypatch.setenv("D2K_FLOAT32", "tf32x3")
    assert launch.precision(torch.float32) == "tf32x3"
    monkeypatch.setenv("D2K_FLOAT32", "winograd")
    assert launch.precision(torch.float32) in ("ieee", "tf32")
    monkeypatch.setenv("D2K_FLOAT32", "fp8")
    with pytest.raises(ValueError, match="got 'fp8'"):
        launch.precision(torch.float32)


def test_float64_is_left_to_the_reference():
    with pytest.raises(d2k.backends.BackendUnavailable, match="accumulate in float32"):
        d2k.backends.can_run("temporal_conv", "triton", DEVICE, torch.float64, raise_error=True)


def test_tuning_only_on_request_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = []

    def time(chosen):
        times.append(chosen)
        return 1.0 if chosen.stages == 3 else 2.0

    monkeypatch.delenv("D2K_AUTOTUNE", raising=False)
    assert configs.choose("a", SMALL, True, time) == SMALL and not times
    monkeypatch.setenv("D2K_AUTOTUNE", "1")
    assert configs.choose("a", SMALL, False, time) == SMALL and not times
    best = configs.choose("a", SMALL, True, time)
    assert best.stages == 3 and len(times) > 3
    configs._stored.cache_clear()
    assert configs.choose("a", SMALL, True, time) == best and len(times) == len(configs.candidates(SMALL))
    configs._stored.cache_clear()
    configs.cache_file().write_text("{")
    with pytest.warns(UserWarning, match="is ignored"):
        assert configs.choose("a", SMALL, False, time) == SMALL
    configs._stored.cache_clear()


def test_tuning_passes_over_what_does_not_compile(monkeypatch):
    from triton.runtime.errors import OutOfResources, PTXASError

    errors = [OutOfResources(1, 0, "shared memory"), PTXASError("spills"), IndexError("map::at")]
    fails = iter([None, *errors])
    timed = []

    def bench(run, return_mode):
        error = next(fails, None)
        if error:
            raise error
        return 1.0

    def choose(key, shipped, tuning, time):
        timed.extend(time(SMALL) for _ in range(5))
        return shipped

    x = torch.ones(4, 16, device=DEVICE)
    monkeypatch.setenv("D2K_AUTOTUNE", "1")
    monkeypatch.setattr(launch, "choose", choose)
    monkeypatch.setattr(launch.triton.testing, "do_bench", bench)
    inf = float("inf")
    assert launch.tuned("forward", x, SMALL, (16,), None) == SMALL and timed == [1, inf, inf, inf, 1]
    fails = iter([RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")])
    with pytest.raises(RuntimeError, match="illegal memory access"):
        launch.tuned("forward", x, SMALL, (16,), None)
