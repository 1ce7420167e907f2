"""Every form that the ops ask for, launched as on a GPU: the driver must take grids, shared memory and tensor maps.

PYTHONPATH=tests python -m pytest -p gpuemu --gpuemu-launches --gpuemu-arch 90 tests/gpuemu/launch_tests
"""

from __future__ import annotations

import importlib

import pytest
import torch

import d2kernels as d2k

kernels = importlib.import_module("d2kernels.ops.temporal_conv.triton_launch")
configs = importlib.import_module("d2kernels.ops.temporal_conv.triton_configs")

LAYERS = {  # channels in and out, taps, options
    "target": (2048, 2048, 3, {"groups": 2, "negative_slope": 0.2, "residual": True}),
    "classifier": (2048, 40, 3, {"groups": 2}),
    "ActivityNet": (2048, 2048, 5, {"groups": 2, "dilation": 2, "negative_slope": 0.2, "residual": True}),
    "classifier of 100": (2048, 200, 5, {"groups": 2, "dilation": 2}),
    "dropout": (2048, 2048, 3, {"groups": 2, "residual": True, "dropout": 0.7}),
    "narrow": (128, 128, 3, {"groups": 2, "negative_slope": 0.2, "dropout": 0.5}),
    "one channel": (1, 1, 1, {}),
    "odd": (200, 72, 7, {"negative_slope": 0.0}),
    "a row of no whole 16 bytes": (100, 260, 3, {}),
}
KINDS = {
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "tf32": (torch.float32, "tf32"),
    "tf32x3": (torch.float32, "tf32x3"),
    "ieee": (torch.float32, "ieee"),
}
BATCHES = {"one row": [1], "a batch": [100, 0, 41], "one sequence of whole tiles": [256]}
GAPS = (0, 12)


@pytest.fixture(autouse=True)
def _launches_alone(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("gpuemu_launches"):
        pytest.skip("the kernels would run: --gpuemu-launches is not given")


def convolve(
    layer: str, kind: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch, shift: int = 0, gap: int = 0
) -> None:
    """Forward and both gradients; weights begin `shift` elements into their storage; `gap` rows between sequences."""
    c_in, c_out, taps, options = LAYERS[layer]
    dtype, products = KINDS[kind]
    if products:
        monkeypatch.setenv("D2K_FLOAT32", products)
    groups = options.get("groups", 1)
    size = c_out * (c_in // groups) * taps
    batch = d2k.Ragged.pack([torch.zeros(s, c_in, dtype=dtype) for s in lengths], gap=gap)
    x = batch.values.requires_grad_()
    weight = torch.zeros(size + shift, dtype=dtype)[shift:]
    weight = weight.view(taps, c_out, c_in // groups).permute(1, 2, 0).requires_grad_()
    if "dropout" in options:
        options = options | {"seed": torch.tensor([3])}
    with d2k.backends.use("triton", "temporal_conv"):
        out = d2k.temporal_conv(batch, weight, torch.zeros(c_out, dtype=dtype), **options).values
        torch.autograd.grad(out, (x, weight), torch.zeros_like(out))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for lengths in BATCHES.values():
        for gap in GAPS:
            convolve(layer, kind, lengths, monkeypatch, gap=gap)


@pytest.mark.parametrize("kind", ["bf16", "tf32"])
def test_weights_at_odd_addresses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shift in (1, 2, 4, 8):
        convolve("narrow", kind, [20, 3], monkeypatch, shift)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_candidates_of_autotuning(layer: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a GPU has no room for are passed over, never launched; the shipped one always has room."""
    tried = []

    def choose(key: str, shipped: configs.Config, tuning: bool, time: object) -> configs.Config:
        tried.append([time(chosen) for chosen in configs.candidates(shipped)])
        return shipped

    monkeypatch.setenv("D2K_AUTOTUNE", "1")
    monkeypatch.setattr(kernels, "choose", choose)
    monkeypatch.setattr(kernels.triton.testing, "do_bench", lambda run, **options: run() or 1.0)
    for gap in GAPS:
        convolve(layer, kind, [100, 0, 41], monkeypatch, gap=gap)
    assert len(tried) == 6 and all(times[0] == 1 and times.count(1) > 2 for times in tried), tried


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 1, 1), (141, 40, 2), (300, 2048, 3), (2_000_000, 8, 2)])
def test_pooling(rows: int, width: int, columns: int, dtype: torch.dtype) -> None:
    x = torch.empty(rows, width, dtype=dtype, requires_grad=True)
    attention = torch.empty(rows, columns, dtype=dtype, requires_grad=True)
    reference = torch.ones(width, dtype=dtype, requires_grad=True)
    offsets = torch.tensor([0, rows // 2, rows])
    with d2k.backends.use("triton"):
        for normalize in (False, True):
            out = d2k.attention_pool(x, attention, offsets=offsets, normalize=normalize)
            torch.autograd.grad(out, (x, attention), [torch.empty_like(o) for o in out])
        score = d2k.foreground_score(x, reference, offsets=offsets)
        torch.autograd.grad(score, (x, reference), torch.empty_like(score))
        d2k.lowest_attention(attention.detach()[:, 0].contiguous(), offsets=offsets)
