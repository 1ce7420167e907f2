"""Losses and gradients of W-TALC, 3C-Net and BaS-Net against a plain reading of their equations, video by video."""

from __future__ import annotations

import itertools

import pytest
import torch

import d2kernels as d2k
from d2net.config import make_config
from d2net.methods.basnet.losses import branch_loss, norm_loss
from d2net.methods.pooling import cross_entropy, pooled
from d2net.methods.threecnet.losses import center_loss, class_features, count_loss
from d2net.methods.wtalc.losses import similarity_loss

LENGTHS = (7, 1, 12, 5, 9)
LABELS = [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]]  # one snippet, no label, a class of none
WIDTH, CLASSES = 6, 3
LOSS = make_config(overrides={"loss.min_snippets": 1}).loss
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # the methods' own sums are of float32


@pytest.fixture(params=["reference", "native"])
def videos(request):
    """x and logits of each video in float64, labels, and which videos take part."""
    if request.param == "native" and not d2k.backends.can_run("attention_pool", "native"):
        pytest.skip("no compiled extension")
    generator = torch.Generator().manual_seed(3)
    x, a = ([torch.randn(s, w, generator=generator).double() for s in LENGTHS] for w in (WIDTH, CLASSES))
    labels = torch.tensor(LABELS, dtype=torch.bool)
    with d2k.backends.use(request.param, "attention_pool"), d2k.backends.use(request.param, "topk_pool"):
        yield x, a, labels, labels.any(1)


def ragged(parts):
    """The sequences in float32 with a gap, as a batch has them."""
    return d2k.Ragged.pack([p.float() for p in parts], gap=1)


def compare(ours, theirs, parts):
    """ours(*Ragged) and theirs(*lists) agree, and so do their gradients by every part."""
    leaves = [[v.clone().requires_grad_() for v in part] for part in parts]
    packed = [ragged(part) for part in parts]
    values = [p.values.detach().requires_grad_() for p in packed]
    got = ours(*(p.with_values(v) for p, v in zip(packed, values, strict=True)))
    want = theirs(*leaves)
    torch.testing.assert_close(got.double(), want, **CLOSE)
    flat = list(itertools.chain(*leaves))
    wanted = torch.autograd.grad(want, flat, allow_unused=True)
    wanted = [torch.zeros_like(v) if g is None else g for g, v in zip(wanted, flat, strict=True)]
    found = torch.autograd.grad(got, values, allow_unused=True)
    found = [torch.zeros_like(v) if g is None else g for g, v in zip(found, values, strict=True)]
    found = list(itertools.chain(*(p.with_values(g).unpack() for p, g in zip(packed, found, strict=True))))
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f.double(), w, **CLOSE)
    for p, v in zip(packed, values, strict=True):
        gap = ~p.row_mask()
        assert v.grad is None and gap.any()
    return want.detach()


def top_mean(a, divisor=8):
    """s of W-TALC Sec. 3.3: the mean of the k largest activations of each class, k = ⌈s / divisor⌉."""
    k = -(-len(a) // divisor)
    return a.sort(0, descending=True).values[:k].mean(0)


def mil(a, labels):
    """L_MILL: -(1 / n) Σ_i Σ_j y_ij log p_ij, y normalised, p the softmax of s."""
    rows = []
    for video, own in zip(a, labels, strict=True):
        if own.any():
            p = torch.softmax(top_mean(video), 0)
            y = own.double() / own.sum()
            rows.append(-(y * p.log()).sum())
    return torch.stack(rows).mean()


def test_the_multiple_instance_loss(videos):
    _, a, labels, counted = videos
    value = compare(lambda r: cross_entropy(pooled(r, LOSS), labels, counted), lambda v: mil(v, labels), [a])
    assert value > 0


def cas(x, a, labels, counted, margin=0.5):
    """L_CASL, pair by pair."""
    high, low = [], []
    for features, logits in zip(x, a, strict=True):
        attention = torch.softmax(logits, 0)
        high.append((features.T @ attention).T)
        low.append((features.T @ (1 - attention)).T / max(len(features) - 1, 1))

    def d(u, v):
        size = u.norm() * v.norm()
        return 1 - (u @ v / size if size > 0 else u @ v)

    of_class = []
    for j in range(CLASSES):
        members = [i for i in range(len(x)) if labels[i, j] and counted[i]]
        pairs = []
        for m, n in itertools.combinations(members, 2):
            same = d(high[m][j], high[n][j])
            first = torch.relu(same - d(high[m][j], low[n][j]) + margin)
            second = torch.relu(same - d(low[m][j], high[n][j]) + margin)
            pairs.append((first + second) / 2)
        if pairs:
            of_class.append(torch.stack(pairs).mean())
    return torch.stack(of_class).mean()


def test_the_co_activity_similarity_loss(videos):
    x, a, labels, counted = videos
    value = compare(
        lambda f, r: similarity_loss(f, r, labels, counted, 0.5), lambda f, r: cas(f, r, labels, counted), [x, a]
    )
    assert value > 0


def test_without_a_pair_of_a_shared_class_similarity_is_zero_and_so_is_its_gradient(videos):
    x, a, _, _ = videos
    alone = torch.eye(CLASSES, dtype=torch.bool)[[0, 1, 2, 2, 2]]
    counted = torch.tensor([True, True, True, False, False])  # two more of a class, which do not take part
    f, r = ragged(x), ragged(a)
    values = f.values.requires_grad_()
    loss = similarity_loss(f.with_values(values), r, alone, counted, 0.5)
    loss.backward()
    assert loss == 0 and values.grad.abs().sum() == 0


def features_of_class(x, a):
    """f(c): the mean of x under the softmax attention where it is not below its own mean."""
    attention = torch.softmax(a, 0)
    attention = torch.where(attention.detach() >= attention.detach().mean(0) * (1 - 1e-5), attention, 0)
    return (attention.T @ x) / attention.sum(0)[:, None]


def test_the_center_loss(videos):
    x, a, labels, counted = videos
    centers = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1))

    def theirs(features, logits):
        total = [
            (features_of_class(f, r)[c] - centers[c].double()).square().sum()
            for f, r, own in zip(features, logits, labels, strict=True)
            for c in own.nonzero()[:, 0]
        ]
        return torch.stack(total).sum() / counted.sum()

    compare(lambda f, r: center_loss(class_features(f, r), labels, counted, centers, 0.1).loss, theirs, [x, a])
    moved = center_loss(class_features(ragged(x), ragged(a)), labels, counted, centers, 0.1).centers
    for c in range(CLASSES):
        of = [i for i in range(len(x)) if labels[i, c]]
        apart = sum((centers[c].double() - features_of_class(x[i], a[i])[c] for i in of), torch.zeros(WIDTH))
        want = centers[c].double() - 0.1 * apart / (1 + len(of))
        torch.testing.assert_close(moved[c].double(), want, **CLOSE)
    assert not moved.requires_grad


def test_the_count_loss(videos):
    _, a, _, counted = videos
    nan = float("nan")
    counts = torch.tensor([[2, nan, 0], [1, 0, 0], [0, 0, 0], [0, nan, 0], [3, 1, 0]])

    def theirs(logits):
        rows = []
        for video, m, takes_part in zip(logits, counts, counted, strict=True):
            if not takes_part or not (m.isfinite().all() or (m > 0).any()):
                continue
            predicted = (video * torch.softmax(video, 0)).sum(0)
            present = sum((predicted[c] - m[c]).abs() / m[c] for c in range(CLASSES) if m[c] > 0)
            absent = sum(predicted[c].abs() for c in range(CLASSES) if m[c] == 0)
            rows.append(present + 1e-3 * absent)
        assert len(rows) == 3
        return torch.stack(rows).mean()

    compare(lambda r: count_loss(r, counts, 1e-3, counted), theirs, [a])
    unknown = torch.full_like(counts, nan)
    assert count_loss(ragged(a), unknown, 1e-3, counted) == 0


@pytest.mark.parametrize("background", [True, False])
def test_the_losses_of_both_branches(videos, background):
    _, a, labels, counted = videos
    own = labels[:, :2]  # the last activation is the background's

    def theirs(logits):
        rows = []
        for video, y, takes_part in zip(logits, own, counted, strict=True):
            if not takes_part:
                continue
            p = torch.softmax(top_mean(video), 0)
            y = torch.cat([y.double(), torch.tensor([float(background)], dtype=torch.float64)])
            y = y / y.sum()
            rows.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
        return torch.stack(rows).mean()

    compare(lambda r: branch_loss(pooled(r, LOSS), own, background, counted), theirs, [a])


def test_the_norm_of_the_foreground_weights(videos):
    _, a, _, counted = videos

    def theirs(logits):
        kept = [torch.sigmoid(v[:, :1]).abs().sum() for v, c in zip(logits, counted, strict=True) if c]
        return torch.stack(kept).sum() / len(kept)

    compare(lambda r: norm_loss(r, torch.sigmoid(r.values[:, :1]), counted), theirs, [a])


def test_gradients_of_float64_pass_gradcheck():
    x, a = (d2k.Ragged.pack([torch.randn(s, w).double() for s in (3, 4)]) for w in (3, 2))
    labels, counted = torch.tensor([[True, False], [True, True]]), torch.ones(2, dtype=torch.bool)
    centers, counts = torch.randn(2, 3), torch.tensor([[2.0, 0], [1, 1]])
    loss = LOSS.model_copy(update={"pool_divisor": 2})

    def every(xv, av):
        f, r = x.with_values(xv), a.with_values(av)
        return (
            similarity_loss(f, r, labels, counted, 0.5),
            center_loss(class_features(f, r), labels, counted, centers.double(), 0.1).loss,
            count_loss(r, counts.double(), 1e-3, counted),
            branch_loss(pooled(r, loss), labels[:, :1], True, counted),
            cross_entropy(pooled(r, loss), labels, counted),
        )

    torch.manual_seed(0)
    given = [v.detach().clone().requires_grad_() for v in (x.values, a.values)]
    assert torch.autograd.gradcheck(every, given, eps=1e-6, atol=1e-6)
