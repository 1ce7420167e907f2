"""torch's elementwise functions and Python's operators on Ragged batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import d2kernels as d2k


def batch(gap=1):
    generator = torch.Generator().manual_seed(0)
    return d2k.Ragged.pack([torch.randn(s, 2, generator=generator) for s in (3, 1, 4)], gap=gap)


FUNCTIONS = [
    torch.sigmoid, torch.relu, torch.exp, torch.abs, torch.neg, torch.tanh, torch.isnan, F.gelu, F.softplus,
    F.leaky_relu, lambda x: F.threshold(x, 0.1, 5.0), lambda x: torch.clamp(x, min=0.5),
    lambda x: torch.where(x > 0, x, 7.0),
    lambda x: x + 1, lambda x: 1 - x, lambda x: 2 * x, lambda x: 2 / x, lambda x: x / 4, lambda x: x**2,
    lambda x: x + x, lambda x: x * torch.tensor([2.0, 3.0]), lambda x: torch.tensor([2.0, 3.0]) * x, lambda x: x >= 0,
    lambda x: torch.maximum(x, x * 2), lambda x: torch.lerp(x, x + 1, 0.25),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gap", [0, 2])
def test_rows_are_as_of_each_sequence_and_gap_rows_zero(function, gap):
    x = batch(gap)
    found = function(x)
    assert isinstance(found, d2k.Ragged) and found.offsets is x.offsets and found.gap == gap
    for ours, sequence in zip(found.unpack(), x.unpack(), strict=True):
        torch.testing.assert_close(ours, function(sequence), rtol=2e-6, atol=0)  # torch's vectors and remainders differ
    assert not found.values[~found.row_mask()].any()
    d2k.Ragged(found.values, found.offsets, found.lengths, gap=found.gap)  # checks that the gap is what it says


def test_dropout_is_torchs_of_the_rows():
    x = batch(0)
    torch.manual_seed(5)
    found = F.dropout(x, 0.5, training=True)
    torch.manual_seed(5)
    assert torch.equal(found.values, F.dropout(x.values, 0.5, training=True))
    assert torch.equal(torch.nn.Dropout(0.5).eval()(batch()).values, batch().values)


def test_gradients_flow_and_stay_out_of_gap_rows():
    x = batch()
    values = x.values.clone().requires_grad_()
    torch.exp(x.with_values(values)).values.sum().backward()
    want = torch.where(x.row_mask()[:, None], x.values.exp(), 0)
    assert torch.equal(values.grad, want)


def test_rows_of_weights_multiply_features():
    x, w = batch(), torch.rand(len(batch().values), 1)
    found = x * w
    assert torch.equal(found.values, x.values * w) and found.gap == 1
    conv = torch.randn(2, 2, 3)
    assert torch.equal(d2k.temporal_conv(found, conv).values, d2k.temporal_conv(found.zero_gaps(), conv).values)


@pytest.mark.parametrize(
    "function",
    [
        torch.sum, lambda x: torch.softmax(x, 0), lambda x: torch.cat([x, x]),
        lambda x: torch.matmul(x, torch.ones(2, 2)), torch.nn.Linear(2, 3), lambda x: torch.cumsum(x, 0),
    ],
)  # fmt: skip
def test_what_is_not_elementwise_says_what_to_do(function):
    with pytest.raises(TypeError, match=r"of a Ragged is not elementwise; use an op of d2kernels, or Ragged\.values"):
        function(batch())


def test_what_does_not_fit_is_refused():
    x = batch()
    for function in (torch.relu_, lambda v: F.relu(v, inplace=True), lambda v: F.dropout(v, inplace=True)):
        with pytest.raises(TypeError, match="read only"):
            function(x)
    with pytest.raises(ValueError, match="other sequences"):
        x + d2k.Ragged(x.values, x.offsets.clone().add_(torch.tensor([0, 1, 0, 0])), x.lengths.clamp(max=1))
    with pytest.raises(ValueError, match="must give"):
        x * torch.ones(1, 1, 2)
