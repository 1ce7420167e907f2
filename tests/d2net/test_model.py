"""The network: against nn.functional one video at a time, independence of the batch, initialisation, compilation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import d2kernels as d2k
from d2net.config import make_config
from d2net.methods.d2net.losses import compute_losses
from d2net.methods.d2net.losses.pairs import Permutations
from d2net.methods.d2net.network import D2Net
from d2net.sections import ModelConfig

WIDTH, CLASSES = 12, 3
LENGTHS = (9, 1, 23, 14)
KINDS = [("release", "thumos14"), ("release", "activitynet12"), ("paper", "thumos14"), ("paper", "activitynet12")]
every_kind = pytest.mark.parametrize(("recipe", "preset"), KINDS)


def network(recipe="release", preset="thumos14", dtype=torch.float64, streams=2, **overrides):
    """With weights large enough for every term to matter, and no dropout unless asked for."""
    config = make_config(preset, recipe, {"model.dropout": 0.0} | overrides)
    torch.manual_seed(0)
    net = D2Net(WIDTH, CLASSES, streams, config.model).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.3)
        net.reference.normal_()
    return net


def videos(dtype=torch.float64, seed=1):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(s, WIDTH, generator=random, dtype=torch.float64).to(dtype) for s in LENGTHS]


def oracle(net, x):
    """T, embeddings and logits (s, S, C) of one video, channels first, with torch's own convolution."""
    config, streams = net.config, net.streams

    def conv(z, layer, kernel, dilation):
        pad = dilation * (kernel - 1) // 2
        return F.conv1d(z, layer.weight, layer.bias, padding=pad, dilation=dilation, groups=streams)

    z = x.T[None]
    for layer in (net.conv1, net.conv2):
        y = F.leaky_relu(conv(z, layer, config.kernel_size, config.dilation), 0.2)
        z = y + z if config.residual else y
    logits = conv(z, net.classifier, config.classifier_kernel_size, config.classifier_dilation)
    logits = logits[0].T.reshape(len(x), streams, CLASSES)
    return logits.sigmoid().mean(1), z[0].T.reshape(len(x), streams, -1).mean(1), logits


@every_kind
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_equals_the_layers_one_video_at_a_time(recipe, preset, streams):
    net = network(recipe, preset, streams=streams)
    xs = videos()
    out = net(d2k.Ragged.pack(xs, gap=2))
    for got, want in zip(out[:3], zip(*(oracle(net, x) for x in xs), strict=True), strict=True):
        for a, b in zip(got.unpack(), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not out.activations.values[~out.activations.row_mask()].any()
    assert not out.embeddings.values[~out.embeddings.row_mask()].any()


def forms(xs):
    """The same videos packed, with gap rows, in reverse order, and as a dense batch padded with NaN."""
    dense = torch.full((len(xs), 60, WIDTH), float("nan"), dtype=xs[0].dtype)
    for row, x in zip(dense, xs, strict=True):
        row[: len(x)] = x
    return {
        "packed": d2k.Ragged.pack(xs),
        "gaps": d2k.Ragged.pack(xs, gap=7),
        "padded": d2k.Ragged.from_padded(dense, lengths=torch.tensor([len(x) for x in xs])),
        "reversed": d2k.Ragged.pack(xs[::-1], gap=1),
    }


def results(net, ragged):
    """Per video: T, λ', and the features' gradient of a sum that weighs every output differently."""
    leaf = ragged.values.detach().clone().requires_grad_()
    out = net(ragged.with_values(leaf))
    score = net.foreground(out.embeddings)
    weight = torch.linspace(0.5, 1.5, CLASSES, dtype=leaf.dtype)
    objective = (out.activations.values @ weight).square().sum() + score.square().sum()
    (gradient,) = torch.autograd.grad(objective, leaf)
    assert gradient.isfinite().all() and not gradient[~ragged.row_mask()].any()
    tables = (out.activations, out.activations.with_values(score), out.activations.with_values(gradient))
    return list(zip(*(t.unpack() for t in tables), strict=True))


@every_kind
@pytest.mark.parametrize("form", ["packed", "gaps", "padded", "reversed"])
def test_a_video_depends_on_neither_batch_nor_padding(recipe, preset, form):
    net = network(recipe, preset)
    xs = videos()
    alone = [results(net, d2k.Ragged.pack([x]))[0] for x in xs]
    together = results(net, forms(xs)[form])
    for got, want in zip(together[::-1] if form == "reversed" else together, alone, strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_kind
@pytest.mark.parametrize("form", ["packed", "gaps", "padded", "reversed"])
def test_float32_is_independent_to_rounding(recipe, preset, form):
    net, exact = network(recipe, preset, torch.float32), network(recipe, preset)
    exact.load_state_dict({k: v.double() for k, v in net.state_dict().items()})
    xs = videos(torch.float32)
    together = results(net, forms(xs)[form])
    for got, x in zip(together[::-1] if form == "reversed" else together, xs, strict=True):
        alone, truth = results(net, d2k.Ragged.pack([x]))[0], results(exact, d2k.Ragged.pack([x.double()]))[0]
        for a, b, t in zip(got, alone, truth, strict=True):
            rounding = 2 * (b.double() - t).norm() + 4e-7 * t.norm()
            assert (a.double() - t).norm() <= rounding


@every_kind
def test_gradients_of_weights_add_up_over_videos(recipe, preset):
    net = network(recipe, preset)
    xs = videos()

    def gradients(ragged):
        out = net(ragged)
        return torch.autograd.grad(
            out.activations.values.square().sum() + net.foreground(out.embeddings).sum(), list(net.parameters())
        )

    whole = gradients(d2k.Ragged.pack(xs, gap=3))
    parts = zip(*(gradients(d2k.Ragged.pack([x])) for x in xs), strict=True)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, sum(b), rtol=1e-12, atol=1e-12)


def test_streams_do_not_mix():
    net = network()
    x = videos()[2]
    other = x.clone()
    other[:, WIDTH // 2 :] += 1
    a, b = (net(d2k.Ragged.pack([v])).logits.values for v in (x, other))
    assert torch.equal(a[:, 0], b[:, 0]) and not torch.equal(a[:, 1], b[:, 1])


def test_initialisation():
    normal = D2Net(256, 20, 2, ModelConfig())
    for name, p in normal.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        else:
            assert p.std().item() == pytest.approx(0.01, rel=0.05) and abs(p.mean().item()) < 1e-3
    assert not normal.reference.any()
    torch.manual_seed(3)
    usual = D2Net(256, 20, 2, make_config("thumos14", "paper").model)
    torch.manual_seed(3)
    conv = torch.nn.Conv1d(256, 256, 3, groups=2)
    assert torch.equal(usual.conv1.weight, conv.weight) and torch.equal(usual.conv1.bias, conv.bias)
    assert usual.conv2.weight.abs().max() <= 1 / math.sqrt(128 * 3)


def test_dropout_only_while_training_and_by_seed():
    net = network(**{"model.dropout": 0.5})
    ragged = d2k.Ragged.pack(videos(), gap=2)

    def embeddings(seed):
        torch.manual_seed(seed)
        return net(ragged).embeddings.values

    assert torch.equal(embeddings(0), embeddings(0))
    assert not torch.equal(embeddings(0), embeddings(1))
    assert (network(**{"model.dropout": 0.5}, streams=1)(ragged).embeddings.values == 0).float().mean() > 0.4
    net.eval()
    assert torch.equal(embeddings(0), embeddings(1))
    # The losses see the dropped embeddings, and so does the classifier: its kernel is 1 here.
    net.train()
    with torch.no_grad():
        net.classifier.bias.zero_()
        net.classifier.weight.fill_(1)
    out = net(ragged)
    torch.testing.assert_close(out.logits.values[..., 0].mean(1), out.embeddings.values.sum(1))


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_a_step_keeps_one_activation_and_a_bit_an_element_of_each_layer(recipe):
    config = make_config("thumos14", recipe)
    net = D2Net(512, CLASSES, 2, config.model)
    ragged = d2k.Ragged.pack([torch.randn(s, 512) for s in (300, 20, 90)])
    labels = torch.eye(CLASSES, dtype=torch.bool)[[0, 1, 1]]
    order = torch.arange(3)
    pairs, kept = Permutations(order.roll(1), order.roll(2), order, order.roll(1)), {}

    def keeping(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keeping, lambda t: t):
        out = net(ragged)
        losses = compute_losses(*out[:2], labels, net.reference, config.loss, iteration=2000, permutations=pairs)
    assert losses.total.requires_grad
    for held in (ragged.values, *net.parameters()):
        kept.pop(held.untyped_storage().data_ptr(), None)
    layers = 2 * ragged.values.numel() + out.embeddings.values.numel()
    assert sum(kept.values()) <= 1.1 * layers * (4 + 1 / 8)


def test_state_dict_round_trip():
    net, other = network(), network(seed_free := "release")
    assert seed_free
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    names = {f"{layer}.{p}" for layer in ("conv1", "conv2", "classifier") for p in ("weight", "bias")}
    assert set(net.state_dict()) == names | {"reference"}
    other.load_state_dict(net.state_dict())
    ragged = d2k.Ragged.pack(videos())
    for a, b in zip(net(ragged)[:3], other(ragged)[:3], strict=True):
        assert torch.equal(a.values, b.values)
    assert torch.equal(net.reference, other.reference)


@pytest.mark.parametrize(("width", "streams"), [(13, 2), (12, 5), (12, 0)])
def test_unequal_streams_are_an_error(width, streams):
    with pytest.raises(ValueError, match=f"{width} features cannot be split into {streams} streams"):
        D2Net(width, CLASSES, streams, ModelConfig())


def test_a_wrong_width_is_an_error_that_says_both():
    with pytest.raises(ValueError, match=r"width 12, got rows of shape \(7,\)"):
        network()(d2k.Ragged.pack([torch.zeros(4, 7, dtype=torch.float64)]))


def test_no_videos_give_no_rows():
    out = network()(d2k.Ragged(torch.zeros(0, WIDTH, dtype=torch.float64), [0]))
    assert out.activations.shape == (0, CLASSES) and out.embeddings.shape == (0, WIDTH // 2)


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_model_and_losses_compile_whole(recipe):
    net = network(recipe, **{"model.dropout": 0.0})
    config = make_config("thumos14", recipe).loss
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()
    order = torch.arange(len(LENGTHS))
    pairs = Permutations(order.roll(1), order.roll(2), order, order.roll(1))
    ragged = d2k.Ragged.pack(videos(), gap=1)

    def objective(values):
        out = net(ragged.with_values(values))
        return compute_losses(
            out.activations, out.embeddings, labels, net.reference, config, iteration=1002, permutations=pairs
        )

    def run(function):
        net.zero_grad()
        losses = function(ragged.values)
        losses.total.backward()
        return [*losses], [p.grad.clone() for p in net.parameters()]

    torch._dynamo.reset()
    eager, compiled = run(objective), run(torch.compile(objective, fullgraph=True, backend="aot_eager"))
    for a, b in zip(eager, compiled, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert float(eager[0][2]) > 0
