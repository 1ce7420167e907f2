"""What torch makes where nobody names a dtype has no part in training, loading and localizing."""

from __future__ import annotations

import warnings

import pytest
import torch

import d2net
from d2net.config import make_config
from d2net.data.synth import make_synthetic, write_synthetic


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def test_another_default_dtype_changes_no_bit(tmp_path, default_dtype):
    features, annotations = write_synthetic(tmp_path, make_synthetic(12, 3, 32))
    config = make_config("hapt", "release", {"train.iterations": 3, "loss.denoising_start": 0})
    found = []
    for dtype in (torch.float32, torch.float64):
        default_dtype(dtype)
        out = tmp_path / str(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the synthetic videos have a timing of their own
            d2net.train(features, annotations, out, config, progress=False)
            model = d2net.load(out)
            found.append((model.network.state_dict(), d2net.localize(model, features).detections))
    (weights, detections), (others, again) = found
    assert all(torch.equal(weights[k], others[k]) and weights[k].dtype == torch.float32 for k in weights)
    for column in ("label", "start", "end", "score"):
        assert getattr(detections, column).tolist() == getattr(again, column).tolist()
