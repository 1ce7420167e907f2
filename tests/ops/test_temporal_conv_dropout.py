"""temporal_conv's dropout: the generator's published words, the same mask everywhere, and no mask kept."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k
from d2kernels import _native
from d2kernels.ops.temporal_conv.dropout import drop, keep, philox, rows_from, threshold

BACKENDS = ["reference", "native"]
EYE = torch.eye(6)[:, :, None]


def dropped(x, p, seed=None, backend="native"):
    """Dropout alone: the convolution passes x on."""
    with d2k.backends.use(backend, "temporal_conv"):
        return d2k.temporal_conv(x, EYE.to(x.dtype), offsets=torch.tensor([0, len(x)]), dropout=p, seed=seed)


# kat_vectors of Random123, philox4x32, with words 2 and 3 of the counter 0.
@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        (7, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (10, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ],
)
def test_published_words(rounds, words):
    zero = torch.zeros(1, dtype=torch.int64)
    assert tuple(int(w) for w in philox(zero, zero, rounds)) == words


def by_integers(counter, seed):
    """The same words by Python's whole numbers."""
    c, k = [counter & 0xFFFFFFFF, counter >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(7):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 123456789])
@pytest.mark.parametrize("counter", [0, 1, 2**32 - 1, 2**32, 2**61 + 12345])
def test_words_are_those_of_whole_numbers(counter, seed):
    words = philox(torch.tensor([counter]), torch.tensor([seed]))
    assert [int(w) for w in words] == by_integers(counter, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 300])
@pytest.mark.parametrize("p", [1e-12, 0.25, 0.7, 1 - 1e-12])
def test_native_drops_the_same(channels, p, dtype):
    if _native.extension()[0] is None:
        pytest.skip(_native.extension()[1])
    x = torch.randn(700, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    seed = torch.tensor([3 - 2**50])
    weight = torch.eye(channels, dtype=dtype)[:, :, None]
    made = []
    for backend in BACKENDS:
        leaf = x.clone().requires_grad_()
        with d2k.backends.use(backend, "temporal_conv"):
            out = d2k.temporal_conv(leaf, weight, offsets=torch.tensor([0, 700]), dropout=p, seed=seed)
        made.append((out.detach(), torch.autograd.grad(out, leaf, x)[0]))
    for a, b in zip(*made, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a == 0, ~keep(seed, *x.shape, p))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("channels", "dtype"), [(64, torch.float32), (6, torch.float32), (6, torch.bfloat16)])
@pytest.mark.parametrize("by", ["argument", "context"])
def test_parts_of_a_batch_drop_what_the_whole_does(backend, channels, dtype, by):
    x = torch.randn(90, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, seed = torch.eye(channels, dtype=dtype)[:, :, None], torch.tensor([5])

    def run(rows, first):
        leaf, first = x[rows].clone().requires_grad_(), torch.tensor([first])
        at = {"offsets": torch.tensor([0, len(leaf)]), "dropout": 0.5, "seed": seed, "negative_slope": 0.5}
        with d2k.backends.use(backend, "temporal_conv"), rows_from(first if by == "context" else None):
            out = d2k.temporal_conv(leaf, weight, first_row=None if by == "context" else first, **at)
        return torch.stack([out.detach(), torch.autograd.grad(out.sum(), leaf)[0]])

    whole = run(slice(0, 90), 0)
    parts = [run(slice(0, 40), 0), run(slice(40, 41), 40), run(slice(41, 90), 41)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert not torch.equal(run(slice(41, 90), 0), parts[2])
    # Far rows, whose counters pass 32 bits.
    far = keep(torch.tensor([5, 2**33]), 1, 6, 0.5)
    words = [w for i in range(2) for w in by_integers(2**34 + i, 5)][:6]
    assert far.tolist() == [[w >= 2**31 for w in words]]


def test_native_without_its_extension(monkeypatch):
    x, seed = torch.randn(50, 6), torch.tensor([4])
    want = dropped(x, 0.4, seed)
    monkeypatch.setattr(_native, "extension", lambda: (None, "not built"))
    torch.testing.assert_close(dropped(x, 0.4, seed), want)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_drop_independently_at_the_rate_asked(p):
    kept = keep(torch.tensor([11]), 4000, 250, p).double()
    others = (kept[:, :-1], kept[1:], keep(torch.tensor([12]), 4000, 250, p).double())
    deviation = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / 1000
    for a, b in zip((kept[:, 1:], kept[:-1], kept), others, strict=True):
        together = ((a - (1 - p)) * (b - (1 - p))).mean() / deviation**2
        assert abs(together) < 5 / 1000


def test_the_mean_stays():
    x = torch.ones(4000, 6, dtype=torch.float64)
    assert abs(dropped(x, 0.7, torch.tensor([1]), "reference").mean() - 1) < 0.05
    assert torch.equal(drop(x, 0.0, None), x) and threshold(0.5) == 2**31


def test_seeds_come_from_torchs_generator():
    x = torch.randn(30, 6)
    torch.manual_seed(5)
    first, second = dropped(x, 0.5), dropped(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropped(x, 0.5), first) and not torch.equal(first, second)
    state = torch.get_rng_state()
    dropped(x, 0.0)
    dropped(x, 0.5, torch.tensor([2]))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("residual", [False, True])
def test_no_mask_is_kept(residual):
    """Training keeps the input, the output or a bit an element of it, and the seed: nothing of dropout's own."""
    kept = {}
    rows, channels = 200, 64
    x = torch.randn(rows, channels, requires_grad=True)
    weight = torch.randn(channels, channels, 3, requires_grad=True)

    def keeping(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keeping, lambda t: t):
        out = d2k.temporal_conv(
            x, weight, offsets=torch.tensor([0, rows]), negative_slope=0.2, residual=residual, dropout=0.7
        )
    for t in (x, weight):
        del kept[t.untyped_storage().data_ptr()]
    assert out.requires_grad
    own = rows * channels // 8 if residual else 4 * rows * channels
    assert sum(kept.values()) <= own + 64


@pytest.mark.parametrize(
    ("p", "seed", "text"),
    [
        (1.0, None, r"dropout must be at least 0 and below 1, got 1\.0"),
        (-0.1, None, "dropout must be at least 0"),
        (float("nan"), None, "dropout must be at least 0"),
        (0.5, torch.tensor(1), r"seed must be \(1,\) torch\.int64, got \(\) torch\.int64"),
        (0.5, torch.tensor([1.0]), "got .* torch.float32"),
    ],
)
def test_errors(p, seed, text):
    with pytest.raises(ValueError, match=text):
        dropped(torch.zeros(3, 6), p, seed)
    if seed is not None:
        with pytest.raises(ValueError, match=text):
            dropped(torch.zeros(3, 6), 0.0, seed)
    else:
        with pytest.raises(ValueError, match="TemporalConv1d: dropout must be at least 0 and below 1"):
            d2k.nn.TemporalConv1d(4, 4, 3, dropout=p)


def test_a_number_is_no_seed():
    with pytest.raises(TypeError, match="got int 5"):
        dropped(torch.zeros(3, 6), 0.5, 5)


def test_a_first_row_of_another_kind():
    at = {"offsets": torch.tensor([0, 3]), "dropout": 0.5}
    with pytest.raises(TypeError, match=r"first_row must be a tensor .* got int 5"):
        d2k.temporal_conv(torch.zeros(3, 6), EYE, first_row=5, **at)
    with pytest.raises(ValueError, match=r"first_row must be \(1,\) torch.int64, got \(2,\)"):
        d2k.temporal_conv(torch.zeros(3, 6), EYE, first_row=torch.tensor([5, 6]), **at)


def test_module_drops_while_training():
    layer = d2k.nn.TemporalConv1d(6, 6, 1, dropout=0.9)
    x, at = torch.randn(100, 6), {"offsets": torch.tensor([0, 100])}
    assert (layer(x, **at) == 0).float().mean() > 0.7 and "dropout=0.9" in repr(layer)
    assert not (layer.eval()(x, **at) == 0).any()


def test_compiles_whole():
    x, seed, at = torch.randn(20, 6, requires_grad=True), torch.tensor([9]), torch.tensor([0, 20])

    def f(x, seed):
        return d2k.temporal_conv(x, EYE, offsets=at, negative_slope=0.2, dropout=0.5, seed=seed)

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, seed), f(x, seed))
    assert compiled(x, None).shape == x.shape
    torch.testing.assert_close(*(torch.autograd.grad(g(x, seed).sum(), x)[0] for g in (compiled, f)))
