"""Launches of the Triton kernels: a fake in place of the kernels says what the host does for each call."""

from __future__ import annotations

import importlib

import pytest
import torch
from capturing import Captured

import d2kernels as d2k
from d2kernels.ops import _triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that would have been launched, none of which runs."""
    names = []
    monkeypatch.setattr(_triton.Launch, "__call__", lambda self, grid, *arguments: names.append(self.kernel.__name__))
    return names


def batch(rows, width, dtype=torch.bfloat16, gap=0):
    parts = [torch.zeros(s, width, dtype=dtype, device=DEVICE) for s in (rows, 0, rows)]
    return d2k.Ragged.pack(parts, gap=gap)


def leaf(x):
    return d2k.Ragged._trusted(x.values.requires_grad_(), x.offsets, x.lengths, gap=x.gap)


def convolution(arch, dtype, gap, **options):
    def call():
        x = leaf(batch(40, 64, dtype, gap))
        weight = torch.zeros(32, 64, 3, dtype=dtype, device=DEVICE, requires_grad=True)
        with Captured():
            out = d2k.temporal_conv(x, weight, weight[:, 0, 0].detach(), **options).values
            return torch.autograd.grad(out, (x.values, weight), out.detach())

    return call


def pooling(rows, normalize):
    def call():
        x = leaf(batch(rows, 8))
        attention = x.with_values(torch.zeros(len(x.values), 3, device=DEVICE, requires_grad=True))
        with Captured():
            out = d2k.attention_pool(x, attention, threshold=0.3, normalize=normalize)
            return torch.autograd.grad(list(out), (x.values, attention.values), [o.detach() for o in out])

    return call


def scoring():
    x, reference = leaf(batch(40, 8)), torch.ones(8, device=DEVICE, requires_grad=True)
    with Captured():
        out = d2k.foreground_score(x, reference).values
        return torch.autograd.grad(out, (x.values, reference), out.detach())


def lowest(rows):
    def call():
        x = d2k.Ragged(torch.zeros(rows, device=DEVICE), torch.tensor([0, rows], device=DEVICE))
        with Captured():
            return d2k.lowest_attention(x)

    return call


CALLS = {
    "convolution": (convolution(80, torch.float32, 0, negative_slope=0.2), "convolve_kernel weight_gradient_kernel"),
    "convolution of gap rows": (
        convolution(90, torch.bfloat16, 1, negative_slope=0.2),
        "plain_kernel plain_weight_kernel mend_weight_kernel",
    ),
    "pooling": (pooling(40, False), "pool_chunks add_chunks spread add_through"),
    "pooling of long sequences": (pooling(30_000, True), "pool_chunks fold_chunks weighted_chunks through_sums"),
    "score": (scoring, "score differentiate weighted_parts"),
    "lowest": (lowest(40), "lowest"),
    "lowest of a long sequence": (lowest(40_000), "lowest_of_chunks lowest_chunk"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_graph_can_capture_every_op(name, launched, monkeypatch):
    call, kernels = CALLS[name]
    module = importlib.import_module("d2kernels.ops.temporal_conv.triton_launch")
    monkeypatch.setattr(module, "_device", lambda _: (90 if "gap" in name else 80, 3))
    with d2k.backends.use("triton"):
        call()
    assert set(kernels.split()) <= set(launched)


def test_the_fake_refuses_what_waits():
    x = torch.arange(3, device=DEVICE)
    for wait in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 1], lambda: torch.tensor([1.0])):
        with pytest.raises(AssertionError, match="cannot be captured"), Captured():
            wait()


def test_forms_are_kept_apart_by_what_triton_compiles_anew(monkeypatch):
    made, ran = [], []

    class Compiled:
        function, packed_metadata = 7, ()

        def run(self, *arguments):
            ran.append(arguments)

    class Kernel:
        arg_names = ("x", "n", "BLOCK")

        def __getitem__(self, grid):
            return lambda *arguments, **named: made.append((grid, arguments, named)) or Compiled()

    class Driver:
        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 5

    monkeypatch.setattr(_triton, "INTERPRETED", False)
    monkeypatch.setattr(_triton.triton.runtime.driver, "_active", Driver())
    launch = _triton.Launch(Kernel(), {"BLOCK": 16, "num_warps": 4})
    x = torch.zeros(32)
    for arguments in ((x, 3), (x, 5), (x[1:], 3), (x, 16), (x, 1), (x.double(), 3), (x, 2**40)):
        launch((2, 3), *arguments)
    assert len(made) == 6 and made[0] == ((2, 3), (x, 3), {"BLOCK": 16, "num_warps": 4})
    ((x_, y, z, stream, function, *_, tensor, n, block),) = ran
    assert (x_, y, z, stream, function, n, block) == (2, 3, 1, 5, 7, 5, 16) and tensor is x
