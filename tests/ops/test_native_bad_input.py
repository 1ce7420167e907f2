"""Compiled kernels on input that validation would refuse: wrong results, but no foreign memory and no crash.

Run under AddressSanitizer by `make sanitize`, this is where a stray read or write shows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2kernels import _average_precision, backends

TOTAL, CLASSES, WIDTH = 23, 3, 5
SEQUENCES = 4
HUGE = 2**62
ANYWHERE = st.one_of(st.integers(-3, TOTAL + 3), st.sampled_from([-HUGE, HUGE, 2**31, 2**63 - 1, -(2**63)]))
INTEGERS = st.lists(ANYWHERE, min_size=SEQUENCES + 1, max_size=SEQUENCES + 1)
NAN, INF = float("nan"), float("inf")
LEVELS = st.sampled_from([[0.2, 0.5], [0.5, 0.2], [0.5, 0.5], [NAN, 0.5], [0.5, NAN], [INF, -INF], [0.9, 0.1, 0.5]])
VALUES = st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 0.5, 1e38, 1e-45])


def filled(value, *shape, dtype=torch.float32):
    """Random numbers with `value` here and there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return torch.where(torch.rand(*shape, generator=generator) < 0.3, value, x).to(dtype)


def native(op):
    if not backends.can_run(op, "native"):
        pytest.skip(backends.explain(op)["native"])
    return backends.module(op, "native")


def layout(offsets, lengths):
    return torch.tensor(offsets), torch.tensor(lengths[:SEQUENCES])


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, INTEGERS, VALUES, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_topk_pool(offsets, lengths, k, value, dtype):
    module, at, scores = native("topk_pool"), layout(offsets, lengths), filled(value, TOTAL, CLASSES, dtype=dtype)
    k = torch.tensor(k[:SEQUENCES])
    mean, *saved = module.topk_pool_forward(scores, *at, k)
    assert mean.shape == (SEQUENCES, CLASSES)
    assert module.topk_pool_backward(torch.ones_like(mean), scores, *at, k, *saved).shape == scores.shape
    # What the forward pass saved is not to be trusted either.
    lies = [torch.full_like(t, -7) for t in saved]
    module.topk_pool_backward(torch.ones_like(mean), scores, *at, k, *lies)


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, VALUES, st.booleans())
def test_pooling(offsets, lengths, value, normalize):
    at, x, attention = layout(offsets, lengths), filled(value, TOTAL, WIDTH), filled(value, TOTAL, 2)
    module = native("attention_pool")
    rule = ((0.5, 0.5), False, normalize)
    embedding, mass = module.attention_pool_forward(x, attention, *at, *rule)
    assert embedding.shape == (SEQUENCES, 2, WIDTH)
    module.attention_pool_backward(embedding, mass, mass, x, attention, *at, *rule, True, True)
    module = native("foreground_score")
    score = module.foreground_score_forward(x, x[0], *at, 1e-8)
    assert score.shape == (TOTAL,)
    module.foreground_score_backward(score, x, x[0], *at, 1e-8, True, True)
    place = native("lowest_attention").lowest_attention_forward(attention[:, 0].contiguous(), *at)
    assert place.shape == (SEQUENCES,) and bool((place >= -1).all() & (place < TOTAL).all())


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, VALUES, LEVELS, st.booleans(), st.booleans(), ANYWHERE)
def test_connected_components(offsets, lengths, value, levels, own, distinct, min_length):
    scores, levels = filled(value, TOTAL, CLASSES), torch.tensor(levels)
    levels = levels.expand(SEQUENCES, CLASSES, -1) if own else levels
    found, _ = native("connected_components").connected_components_forward(
        scores, *layout(offsets, lengths), levels, None, min_length, distinct, None
    )
    assert found.shape[0] == 5 and bool((found >= 0).all())


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, VALUES, LEVELS, st.integers(1, 3), st.sampled_from([1, 3, 2**31 - 1]), st.booleans())
def test_localize(offsets, lengths, value, levels, upsample, smoothing, relative):
    scores, levels = filled(value, TOTAL, CLASSES), torch.tensor(levels, dtype=torch.float64)
    rules = (0.25, True, None, 1, 0.5, True, None, None, True, upsample, smoothing, "max" if relative else None)
    module = native("localize")
    try:
        found = module.localize_forward(scores, *layout(offsets, lengths), levels, None, *rules, None, None)
    except ValueError as error:  # a NaN where a score is needed
        assert "NaN" in str(error) or "finite" in str(error)
    else:
        assert len({len(column) for column in found[:5]}) == 1


@pytest.mark.parametrize("op", ["condition_number", "connected_components", "nms", "topk_pool"])
def test_tensors_that_stand_for_others_are_refused(op):
    x, at = torch._to_functional_tensor(torch.rand(2, 3, 3)), layout([0, 3, 6, 6, 6], [3, 3, 0, 0])
    with pytest.raises((TypeError, RuntimeError), match=r"memory|storage"):
        if op == "condition_number":
            native(op).condition_number_forward(torch.rand(2, 3, 3), x, 0.0, 0.0, True, False)
        elif op == "nms":
            native(op).nms_forward(x[0, :, :2], torch.rand(3), None, 0.5, True, None)
        elif op == "topk_pool":
            native(op).topk_pool_forward(x[0], *at, None)
        else:
            native(op).connected_components_forward(x[0], *at, torch.tensor([0.5]), None, 1, True, None)


@settings(max_examples=60)
@given(st.integers(0, 40), VALUES, st.sampled_from([-HUGE, -1, 0, HUGE]))
def test_nms(count, value, group):
    spans, scores = filled(value, count, 2, dtype=torch.float64) * 10, filled(value, count, dtype=torch.float64)
    groups = torch.arange(count) % 3 * group
    module = native("nms")
    for run in (
        lambda: module.nms_forward(spans, scores, groups, 0.5, True, None)[0],
        lambda: module.soft_nms_forward(spans, scores, groups, 0.5, 0.0, None)[0],
    ):
        try:
            kept = run()
        except ValueError as error:
            assert "NaN" in str(error) or "finite" in str(error)
        else:
            assert len(kept) <= count and bool(((kept >= 0) & (kept < max(count, 1))).all())


@settings(max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30), VALUES, st.sampled_from([-1, 0, 2, HUGE]))
def test_average_precision(count, truths, value, label):
    if not _average_precision.use_native():
        pytest.skip("no compiled extension")

    def instances(n):
        spans = filled(value, n, 2, dtype=torch.float64).numpy() * 10
        labels = np.where(np.arange(n) % 4 == 0, label, np.arange(n) % CLASSES)
        return _average_precision.Instances(labels, np.arange(n) % 5, spans[:, 0].copy(), spans[:, 1].copy())

    rules = _average_precision.Rules(False, False, False, True, False, True)
    scores = filled(value, count, dtype=torch.float64).numpy()
    try:
        found = _average_precision.average_precision(
            instances(count), scores, None, instances(truths), CLASSES, np.array([0.3, 0.5]), rules
        )
    except ValueError as error:
        assert "label" in str(error) or "NaN" in str(error)
    else:
        assert found.ap.shape == (2, CLASSES) and found.partner.shape == (2, count)
        assert bool(((found.partner >= -1) & (found.partner < max(truths, 1))).all())


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, VALUES, st.sampled_from([torch.float32, torch.float64, torch.float16]))
def test_pdmi_snippet(offsets, lengths, value, dtype):
    module, at = native("pdmi"), layout(offsets, lengths)
    rows = [filled(value, TOTAL, dtype=dtype) for _ in range(3)]
    out = module.pdmi_snippet_forward(*rows, *at, 0.5, 0.5, True, 0.0, 1e-6)
    assert bool((out[1] >= 0).all() & (out[1] <= TOTAL).all())
    grads = module.pdmi_snippet_backward(out[0], *rows[::2], *at, *out[5:], 0.5, 0.5)
    assert all(g.shape == (TOTAL,) for g in grads)


@settings(max_examples=80)
@given(st.integers(1, 9), st.integers(1, 9), VALUES, st.booleans(), st.floats(-2, 2), st.sampled_from([0.0, 1e308]))
def test_pdmi_video(n, classes, value, flag, floor, atol):
    p, labels = filled(value, n, classes), filled(0.0, n, classes) > 0.5
    args = torch.arange(n) % 5 != 3, floor if flag else None, flag, flag, atol, 1e-13
    out, rank, slope = native("pdmi").pdmi_video_forward(p, labels, *args)
    assert 0 <= rank <= min(n, classes) and bool(out.isfinite()) and bool(slope.isfinite().all())


@pytest.mark.parametrize("byte", [2, 3, 254, 255])
@pytest.mark.parametrize("argument", ["labels", "keep"])
def test_bools_of_any_byte(byte, argument):
    p, labels, keep = filled(0.5, 9, 4), torch.arange(36).view(9, 4) % 3 == 0, torch.arange(9) % 4 != 0
    rule = None, False, False, 0.0, 1e-6, True
    module, given = native("pdmi"), {"labels": labels, "keep": keep}
    want = module.pdmi_video_forward(p, *given.values(), *rule)
    given[argument] = (given[argument].to(torch.uint8) * byte).view(torch.bool)
    got = module.pdmi_video_forward(p, *given.values(), *rule)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@settings(max_examples=80)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), VALUES, st.sampled_from([0.0, 1e-320, 1e308]))
def test_small_matrices(batch, m, n, value, limit):
    a, b = (filled(value, batch, *shape, dtype=torch.float64) for shape in ((m, n), (n, 3)))
    for other in (None, b):
        out = native("condition_number").condition_number_forward(a, other, limit, limit, True)
        finite = torch.stack([x.isfinite().flatten(1).all(1) for x in (a, other) if x is not None]).all(0)
        assert torch.equal(out[0].isfinite(), finite)
        assert not any(bool(s[finite].isnan().any()) for s in out[1:] if s is not None)
    try:
        factors = native("svd").svd_forward(a)
    except torch.linalg.LinAlgError:
        assert not bool(a.isfinite().all())
    else:
        assert all(bool(x.isfinite().all()) for x in factors)
        slopes = [x.new_ones(x.shape) for x in factors]
        assert native("svd").svd_backward(*slopes, *factors).shape == a.shape
        assert bool(native("svd").svd_backward(None, slopes[1], None, *factors).isfinite().all())


@settings(max_examples=80)
@given(INTEGERS, INTEGERS, INTEGERS, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_gather_rows(offsets, lengths, first, stored):
    source, out = filled(0.0, TOTAL, WIDTH, dtype=stored), torch.full((TOTAL + 4, WIDTH), float("nan"))
    at, lengths = layout(offsets, lengths)
    native("gather_rows").gather_rows_forward(source, torch.tensor(first[:SEQUENCES]), at, lengths, out)
    rows = {tuple(row) for row in source.float().tolist()} | {(0.0,) * WIDTH}
    assert {tuple(row) for row in out.tolist()} <= rows  # every row is one of the source's, or zero
