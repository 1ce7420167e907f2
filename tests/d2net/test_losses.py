"""The training objective against one-video-at-a-time oracles, for both recipes and every alternative."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

import d2kernels as d2k
from d2net.config import make_config
from d2net.methods.d2net.losses import compute_losses
from d2net.methods.d2net.losses.denoising import video_loss
from d2net.methods.d2net.losses.options import denoising_scale, kept_videos
from d2net.methods.d2net.losses.pairs import Permutations, random_permutations

CLASSES, WIDTH = 4, 6
LENGTHS = (30, 17, 4, 25, 12, 40)
OWN = ((0,), (1,), (2,), (0, 2), (), (1, 3))
ITERATION = 1102

ALTERNATIVES = {
    "as it is": {},
    "CE": {"loss.classification": "CE"},
    "F": {"loss.classification": "F"},
    "all pairs": {"loss.pairs": "all"},
    "random pairs": {"loss.pairs": "random"},
    "no denoising": {"loss.denoising": "none"},
    "snippet": {"loss.denoising": "snippet"},
    "video": {"loss.denoising": "video"},
    "DMI": {"loss.denoising_kind": "DMI"},
    "L1": {"loss.denoising_kind": "L1"},
    "BCE": {"loss.denoising_kind": "BCE"},
    "forward polarity": {"loss.ds_polarity": "forward"},
    "warm-ups": {"loss.denoising_warmup": 2000, "loss.pair_warmup": 3000},
    "other reference": {"loss.reference_source": "embedding"},
    "floor rounding": {"loss.pool_rounding": "floor"},
    "every video": {"loss.min_snippets": 1},
    "one-sided videos count": {"loss.ds_skip_one_sided": False},
}


class Data(NamedTuple):
    activations: d2k.Ragged
    x: d2k.Ragged
    labels: torch.Tensor
    reference: torch.Tensor

    def leaves(self):
        """The same batch, with values that take gradients."""
        t, x = (r.values.clone().requires_grad_() for r in (self.activations, self.x))
        return self._replace(activations=self.activations.with_values(t), x=self.x.with_values(x))


def batch(kind="plain", lengths=LENGTHS, own=OWN, seed=14, gap=0, dtype=torch.float64):
    """`gaps`: one video without foreground, one without background, one whose snippets all lie along x_ref."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    reference = draw(WIDTH)
    t = [torch.sigmoid(1.5 * draw(s, CLASSES) - 1) for s in lengths]
    x = [draw(s, WIDTH) for s in lengths]
    if kind == "gaps":
        t[1], t[3] = 0.4 * t[1], 0.6 + 0.3 * t[3]
        x[5] = reference + 0.1 * x[5]
    labels = torch.zeros(len(lengths), CLASSES, dtype=torch.bool)
    for row, classes in zip(labels, own, strict=True):
        row[list(classes)] = True
    ragged = (d2k.Ragged.pack([v.to(dtype) for v in rows], gap=gap) for rows in (t, x))
    return Data(*ragged, labels, reference.to(dtype))


def config_of(recipe, preset=None, **overrides):
    return make_config(preset, recipe, overrides).loss


def release_or_torch_cosine(a, b, config):
    if config.cosine == "torch":
        return F.cosine_similarity(a, b, dim=0)
    return (a @ b) / torch.sqrt((a @ a + 1e-12) * (b @ b + 1e-12))


def average(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def oracle_weights(fg, bg, config, drawn):
    """Three dicts of Eq. 3's weights by video; fg, bg: embeddings by video."""

    def cos(a, b):
        return release_or_torch_cosine(a, b, config)

    ff, bb, fb = (defaultdict(float) for _ in range(3))
    if config.classification != "Dis":
        return ff, bb, fb
    if config.pairs == "all":
        for weights, own in ((ff, fg), (bb, bg)):
            for i in own:
                weights[i] = average(1 - cos(own[i], own[j]) for j in own if j != i)
        for i in fg:
            fb[i] = average(cos(fg[i], bg[j]).clamp(min=0) for j in bg if j != i)
        return ff, bb, fb
    f, b = list(fg), list(bg)
    within_f, within_b, cross_f, cross_b = (p.tolist() for p in drawn)
    for weights, own, names, partner in ((ff, fg, f, within_f), (bb, bg, b, within_b)):
        for j, i in enumerate(names):
            weights[i] = 1 - cos(own[i], own[names[partner[j]]])
    for j in range(min(len(f), len(b))):
        i = f[cross_f[j]]
        fb[i] = cos(fg[i], bg[b[cross_b[j]]]).clamp(min=0)
    return ff, bb, fb


def oracle_snippet(t, x, labels, reference, config):
    """(value, whether it counts) of one video."""
    score = 0.5 * (1 - F.cosine_similarity(x.detach(), reference[None], dim=1))
    on_fg, on_bg = score > config.ds_foreground_threshold, score < config.ds_background_threshold
    attention = t.max(1).values
    own = t[:, labels].max(1).values if config.ds_attention == "labels" else attention
    both_sides = bool(on_fg.any() and on_bg.any())
    if not both_sides:
        return 0.0, config.denoising_kind == "pDMI" and not config.ds_skip_one_sided
    f, b = own[on_fg].mean(), attention[on_bg].mean()
    if config.ds_polarity == "forward" and f < b:
        return 0.0, False
    level = torch.cat([own[on_fg], attention[on_bg]])
    side = torch.cat([torch.ones(int(on_fg.sum())), torch.zeros(int(on_bg.sum()))]).to(level)
    if config.denoising_kind == "L1":
        return (level - side).abs().mean(), True
    if config.denoising_kind == "BCE":
        return -(side * level.log() + (1 - side) * (1 - level).log()).mean(), True
    share = int(on_fg.sum()) / int(on_fg.sum() + on_bg.sum())
    alpha, beta = (share, 1 - share) if config.ds_normalization == "joint" else (1.0, 1.0)
    joint = torch.stack([alpha * torch.stack([f, 1 - f]), beta * torch.stack([b, 1 - b])])
    if config.denoising_kind == "DMI":
        return -torch.linalg.det(joint).abs().log(), True
    s = torch.linalg.svdvals(joint.clamp(min=config.ds_floor))
    return (s[0] / s[1]).log(), True


def oracle_video(p, labels, config):
    """(value, whether it was skipped) of the kept videos; p and labels: (n, C)."""
    y = labels.to(p)
    scores = p
    if config.dv_relative_floor is not None:
        scores = torch.where(p > config.dv_relative_floor * p.max(1, keepdim=True).values, p, 0)
    if config.dv_normalize_rows:
        scores = scores / scores.sum(1, keepdim=True)
    divisor = y.sum(0).clamp(min=1) if config.dv_label_normalization == "class" else len(y)
    joint = (y / divisor).T @ scores
    if config.denoising_kind == "DMI":
        present = labels.any(0)
        if torch.linalg.matrix_rank(y[:, present]) < present.sum():
            return 0.0, 1
        return -torch.linalg.det(joint[present][:, present]).abs().log(), 0
    s = torch.linalg.svdvals(joint)
    s = s[s > (config.dv_atol or 1e-12)]
    return (s[0] / s[-1]).log() if len(s) else 0.0, 0


def oracle(data, config, iteration, drawn=None):
    """Total, classification, ds, dv, x_ref, skipped: one video at a time."""
    videos = list(zip(data.activations.unpack(), data.x.unpack(), strict=True))
    labels, reference = data.labels, data.reference
    kept = [i for i, (t, _) in enumerate(videos) if len(t) >= config.min_snippets and labels[i].any()]
    p, fg, bg, lowest = {}, {}, {}, {}
    for i in kept:
        t, x = videos[i]
        rounded = math.ceil if config.pool_rounding == "ceil" else math.floor
        p[i] = t.topk(max(1, rounded(len(t) / config.pool_divisor)), 0).values.mean(0)
        if config.clamp:
            p[i] = p[i].clamp(config.clamp, 1 - config.clamp)
        attention = t.max(1).values
        lowest[i] = x[attention.argmin()]
        for pooled, weight, threshold in (
            (fg, attention, config.foreground_threshold),
            (bg, 1 - attention, config.background_threshold),
        ):
            chosen = weight >= threshold if config.inclusive else weight > threshold
            if chosen.any():
                pooled[i] = weight[chosen] @ x[chosen]
                if config.normalize_embeddings:
                    pooled[i] = pooled[i] / weight[chosen].sum()
    if drawn is None:
        drawn = drawn_pairs(len(videos), len(fg), len(bg))

    ff, bb, fb = oracle_weights(fg, bg, config, drawn)
    warm = min(1.0, iteration / config.pair_warmup) if config.pair_warmup else 1.0
    beta = 0 if config.classification == "CE" else config.beta
    terms = []
    for i in kept:
        for c in range(CLASSES):
            q = p[i][c]
            if labels[i, c]:
                term = -((1 - q + warm * (fb[i] + config.gamma * ff[i])) ** beta) * q.log()
                terms.append(term * (CLASSES if config.normalization == "release" else 1))
            else:
                terms.append(-((q + warm * (fb[i] + config.gamma * bb[i])) ** beta) * (1 - q).log())
    count = len(kept) * (CLASSES if config.normalization == "release" else 1)
    classification = sum(terms) / count

    source = lowest if config.reference_source == "lowest" else bg
    after = reference
    if bg:
        after = config.reference_momentum * reference + (1 - config.reference_momentum) * average(
            source[i].detach() for i in bg
        )
    since = iteration - config.denoising_start
    weight = 1.0 if since > 0 and iteration % config.denoising_every == 0 else 0.0
    if config.denoising_warmup:
        weight *= min(1.0, since / config.denoising_warmup)
    ds = dv = torch.zeros((), dtype=torch.float64)
    skipped = 0
    if weight and config.denoising in ("snippet", "both"):
        values = [oracle_snippet(*videos[i], labels[i], after, config) for i in kept]
        ds = average(v for v, counts in values if counts)
    if weight and config.denoising in ("video", "both") and config.denoising_kind in ("pDMI", "DMI"):
        dv, skipped = oracle_video(torch.stack([p[i] for i in kept]), labels[kept], config)
    total = classification + weight * (config.ds_weight * ds + config.dv_weight * dv)
    return total, classification, ds, dv, after, skipped


def drawn_pairs(n, n_fg, n_bg, seed=3):
    """Permutations of the two lists, made whole in order; they do not depend on the other videos."""
    random = torch.Generator().manual_seed(seed)
    return Permutations(
        *(torch.cat([torch.randperm(m, generator=random), torch.arange(m, n)]) for m in (n_fg, n_bg, n_fg, n_bg))
    )


def pairs_for(data, config):
    """`drawn_pairs` over the videos that have foreground and background."""
    keep = kept_videos(data.activations.lengths, data.labels, config)
    has = [[], []]
    for t, used in zip(data.activations.unpack(), keep.tolist(), strict=True):
        attention = t.max(1).values
        has[0].append(used and bool((attention > config.foreground_threshold).any()))
        has[1].append(used and bool((1 - attention > config.background_threshold).any()))
    return drawn_pairs(len(keep), sum(has[0]), sum(has[1]))


def run(data, config, iteration=ITERATION, permutations=None):
    permutations = permutations or pairs_for(data, config)
    return compute_losses(
        data.activations,
        data.x,
        data.labels,
        data.reference,
        config,
        iteration=iteration,
        permutations=permutations,
    )


def gradients(total, data):
    grads = torch.autograd.grad(total, (data.activations.values, data.x.values), allow_unused=True)
    leaves = (data.activations.values, data.x.values)
    return [torch.zeros_like(v) if g is None else g for g, v in zip(grads, leaves, strict=True)]


def close(got, want, tolerance=1e-10):
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(want, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("kind", ["plain", "gaps"])
@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_every_alternative_equals_its_oracle(recipe, alternative, kind):
    config = config_of(recipe, **ALTERNATIVES[alternative])
    ours, theirs = batch(kind, gap=2).leaves(), batch(kind).leaves()
    got = run(ours, config)
    want = oracle(theirs, config, ITERATION)
    for name, a, b in zip(got._fields, got, want, strict=True):
        close(a.double(), b)
        assert a.isfinite().all(), name
    rows = ours.activations.row_mask()
    for a, b in zip(gradients(got.total, ours), gradients(want[0], theirs), strict=True):
        close(a[rows], b)
        assert not a[~rows].any()


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_activitynet_settings_equal_the_oracle(recipe):
    config = config_of(recipe, "activitynet12")
    data = batch(seed=4).leaves()
    got, want = run(data, config), oracle(data, config, ITERATION)
    for a, b in zip(got, want, strict=True):
        close(a.double(), b)


def test_the_alternatives_differ():
    for recipe in ("release", "paper"):
        totals = {
            name: round(float(run(batch("gaps"), config_of(recipe, **fields)).total), 9)
            for name, fields in ALTERNATIVES.items()
        }
        same = {name for name in totals if name != "as it is" and totals[name] == totals["as it is"]}
        expected = {
            "release": {"random pairs"},
            "paper": {"all pairs", "other reference", "every video", "one-sided videos count"},
        }
        assert same == expected[recipe]
        assert len(set(totals.values())) == len(totals) - len(same)


@pytest.mark.parametrize("pairs", ["all", "random"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_gradcheck_of_the_total(recipe, pairs):
    config = config_of(recipe, **{"loss.pairs": pairs, "loss.pool_divisor": 3})
    data = batch(lengths=(7, 9, 6), own=((0,), (1, 2), (0, 3)), seed=2)
    permutations = pairs_for(data, config)

    def total(t, x):
        moved = data._replace(activations=data.activations.with_values(t), x=data.x.with_values(x))
        return run(moved, config, permutations=permutations).total

    leaves = data.leaves()
    assert float(run(data, config).ds) > 0 and float(run(data, config).dv) > 0
    assert torch.autograd.gradcheck(total, (leaves.activations.values, leaves.x.values), fast_mode=True)


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_float32_keeps_to_its_rounding(recipe):
    config = config_of(recipe)
    single = batch(dtype=torch.float32).leaves()
    exact = single._replace(activations=single.activations.to(torch.float64), x=single.x.to(torch.float64))
    exact = exact._replace(reference=single.reference.double()).leaves()
    got, want = run(single, config), run(exact, config)
    for a, b in zip(got[:5], want[:5], strict=True):
        assert a.dtype == torch.float32
        close(a.double(), b.detach(), 2e-6)
    for a, b in zip(gradients(got.total, single), gradients(want.total, exact), strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_a_video_that_is_not_kept_changes_nothing(recipe):
    config = config_of(recipe)
    data = batch("gaps").leaves()
    keep = kept_videos(data.activations.lengths, data.labels, config)
    assert not keep.all()
    got = run(data, config)
    grads = [d2k.Ragged.unpack(data.x.with_values(g)) for g in gradients(got.total, data)]

    def only_kept(ragged):
        return d2k.Ragged.pack([v.detach() for v, k in zip(ragged.unpack(), keep, strict=True) if k])

    fewer = Data(only_kept(data.activations), only_kept(data.x), data.labels[keep], data.reference).leaves()
    alone = run(fewer, config)
    for a, b in zip(got, alone, strict=True):
        close(a.double(), b.double(), 1e-13)
    for g, h in zip(grads, gradients(alone.total, fewer), strict=True):
        close(torch.cat([v for v, k in zip(g, keep, strict=True) if k]), h, 1e-13)
        assert not any(v.any() for v, k in zip(g, keep, strict=True) if not k)


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_nothing_kept_is_zero_everywhere(recipe):
    config = config_of(recipe)
    data = batch(own=((),) * len(LENGTHS)).leaves()
    got = run(data, config)
    assert not any(float(v.detach()) for v in (got.total, got.classification, got.ds, got.dv))
    assert torch.equal(got.reference, data.reference)
    assert not any(g.any() for g in gradients(got.total, data))


def test_kept_videos_are_long_enough_and_labelled():
    labels = torch.tensor([[True], [True], [False], [True]])
    lengths = torch.tensor([4, 5, 60, 1])
    assert kept_videos(lengths, labels, config_of("release")).tolist() == [False, True, False, False]
    assert kept_videos(lengths, labels, config_of("paper")).tolist() == [True, True, False, True]


def test_schedule_of_denoising():
    def scales(recipe, iterations, **fields):
        return [denoising_scale(config_of(recipe, **fields), i) for i in iterations]

    assert scales("release", (1, 1000, 1001, 1002, 1003, 1004)) == [0, 0, 0, 1, 0, 1]
    assert scales("paper", (1, 2, 3)) == [1, 1, 1]
    assert scales("paper", (1, 2), **{"loss.denoising": "none"}) == [0, 0]
    warm = {"loss.denoising_start": 10, "loss.denoising_every": 1, "loss.denoising_warmup": 4}
    assert scales("release", (10, 11, 12, 14, 15), **warm) == [0, 0.25, 0.5, 1, 1]


def test_l_d_enters_only_on_schedule():
    config = config_of("release")
    assert float(run(batch(), config, 1001).ds) == 0
    off, on = run(batch(), config, 1001), run(batch(), config, 1002)
    assert float(off.total) == float(off.classification) == float(on.classification)
    close(on.total, on.classification + 0.1 * on.ds + 0.1 * on.dv)


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_saturated_activations_stay_finite(recipe):
    data = batch()
    hard = data._replace(activations=data.activations.with_values(data.activations.values.round()))
    for dtype in (torch.float32, torch.float64):
        cast = hard._replace(
            activations=hard.activations.to(dtype), x=hard.x.to(dtype), reference=hard.reference.to(dtype)
        ).leaves()
        got = run(cast, config_of(recipe))
        assert got.total.isfinite()
        assert all(g.isfinite().all() for g in gradients(got.total, cast))


def test_half_attention_is_both_sides_only_where_inclusive():
    t = torch.full((6, CLASSES), 0.5, dtype=torch.float64)
    x = torch.randn(6, WIDTH, dtype=torch.float64)
    labels = torch.ones(1, CLASSES, dtype=torch.bool)
    data = Data(d2k.Ragged.pack([t]), d2k.Ragged.pack([x]), labels, torch.zeros(WIDTH, dtype=torch.float64))
    permutations = Permutations(*torch.zeros(4, 1, dtype=torch.int64))
    first = run(data, config_of("release"), permutations=permutations)
    close(first.reference, 0.1 * x[0])
    assert not run(data, config_of("paper"), permutations=permutations).reference.any()


def test_forward_polarity_skips_inverted_videos_only():
    ahead, inverted = torch.full((2, 8, CLASSES), 0.3, dtype=torch.float64)
    x = torch.randn(8, WIDTH, dtype=torch.float64).abs()
    x[:4] = -x[:4]
    ahead[:4], inverted[4:] = 0.9, 0.9
    labels = torch.ones(2, CLASSES, dtype=torch.bool)
    reference = torch.ones(WIDTH, dtype=torch.float64)
    data = Data(d2k.Ragged.pack([ahead, inverted]), d2k.Ragged.pack([x, x]), labels, reference)
    fields = {"loss.reference_momentum": 1.0}
    either = run(data, config_of("release", **fields)).ds
    forward = run(data, config_of("release", **fields, **{"loss.ds_polarity": "forward"})).ds
    alone = Data(d2k.Ragged.pack([ahead]), d2k.Ragged.pack([x]), labels[:1], reference)
    close(forward, run(alone, config_of("release", **fields)).ds)
    close(either, forward)  # |det| cannot tell them apart
    both_inverted = data._replace(activations=d2k.Ragged.pack([inverted, inverted]))
    assert float(run(both_inverted, config_of("release", **fields, **{"loss.ds_polarity": "forward"})).ds) == 0


def test_dmi_counts_batches_without_rank():
    config = config_of("release", **{"loss.denoising_kind": "DMI"})
    p = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    keep = torch.ones(3, dtype=torch.bool)
    equal = torch.tensor([[True, True, False], [False, False, True], [True, True, False]])
    term = video_loss(p, equal, keep, config)
    assert (float(term.loss.detach()), int(term.skipped)) == (0, 1)
    assert not torch.autograd.grad(term.loss, p)[0].any()
    term = video_loss(p, torch.eye(3, dtype=torch.bool), keep, config)
    assert int(term.skipped) == 0 and float(term.loss.detach()) != 0


def test_random_permutations_are_uniform_over_each_list():
    has_fg = torch.tensor([True, False, True, True, False])
    has_bg = torch.tensor([True, True, True, True, False])
    generator = torch.Generator().manual_seed(0)
    seen = defaultdict(int)
    for _ in range(600):
        drawn = random_permutations(has_fg, has_bg, generator)
        for permutation, count in zip(drawn, (3, 4, 3, 4), strict=True):
            assert sorted(permutation.tolist()) == list(range(5))
            assert sorted(permutation[:count].tolist()) == list(range(count))
        seen[tuple(drawn.foreground[:3].tolist())] += 1
    assert len(seen) == 6 and min(seen.values()) > 60
    one, two = (random_permutations(has_fg, has_bg, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.background, one.x_background)


@pytest.mark.parametrize("kind", ["pDMI", "DMI", "L1", "BCE"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_nothing_reads_a_value_on_the_host(recipe, kind):
    """Tensors on the meta device have no values, so that reading one raises."""
    config = config_of(recipe, **{"loss.denoising_kind": kind})
    data = batch()
    meta = Data(data.activations.to("meta"), data.x.to("meta"), data.labels.to("meta"), data.reference.to("meta"))
    meta = meta.leaves()
    got = compute_losses(meta.activations, meta.x, meta.labels, meta.reference, config, iteration=ITERATION)
    got.total.backward()
    with pytest.raises((RuntimeError, NotImplementedError)):
        got.total.item()
