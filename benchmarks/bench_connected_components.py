"""connected_components on the lengths of THUMOS14's test set: native and reference, two classes a video or all."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

VIDEOS, CLASSES = 210, 20
THRESHOLDS = torch.arange(1, 21) / 40


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    quantiles = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
    at = torch.rand(VIDEOS, generator=generator)
    right = torch.bucketize(at, quantiles).clamp(1, 4)
    lengths = torch.tensor([20.0, 48.0, 235.0, 1094.0, 2202.0])
    part = (at - quantiles[right - 1]) / (quantiles[right] - quantiles[right - 1])
    lengths = torch.lerp(lengths[right - 1], lengths[right], part).long()
    noise = torch.randn(CLASSES, int(lengths.sum()), generator=generator)
    scores = torch.nn.functional.avg_pool1d(noise, 9, 1, 4).mul(3).sigmoid().t().contiguous()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return d2k.Ragged(scores, offsets)


@pytest.mark.parametrize("classes", [2, CLASSES])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_connected_components(benchmark, batch, backend, classes):
    mask = torch.zeros(VIDEOS, CLASSES, dtype=torch.bool)
    mask[:, :classes] = True
    with d2k.backends.use("reference", "connected_components"):
        want = d2k.connected_components(batch, THRESHOLDS, class_mask=mask)
    with d2k.backends.use(backend, "connected_components"):
        got = benchmark(d2k.connected_components, batch, THRESHOLDS, class_mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
