"""temporal_conv with the tiles that the library ships, which its own tests are too small for, against float64.

PYTHONPATH=tests python -m pytest -p gpuemu --gpuemu-arch 90 tests/gpuemu/library_tests
"""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k

SEED = torch.tensor([3])
LAYERS = {  # lengths, channels in and out, taps, options
    "two groups": ([100, 0, 40], 512, 512, 3, {"groups": 2, "negative_slope": 0.2, "residual": True}),
    "one sequence, one tap": ([130], 128, 256, 1, {"negative_slope": 0.2}),
    "few outputs": ([100, 40], 256, 20, 3, {"groups": 2}),
    "five taps, dilated": ([100, 40], 256, 200, 5, {"groups": 2, "dilation": 2}),
    "gap rows": ([100, 0, 40], 256, 256, 3, {"groups": 2, "negative_slope": 0.2, "residual": True, "gap": 1}),
    "gap rows, dropout": ([70, 60], 128, 192, 5, {"dilation": 2, "dropout": 0.5, "seed": SEED, "gap": 4}),
    "gap rows, few outputs": ([100, 40], 256, 20, 3, {"groups": 2, "gap": 2}),
    "dropout": ([100, 40], 256, 256, 3, {"groups": 2, "residual": True, "dropout": 0.5, "seed": SEED}),
}
KINDS = {  # dtype, D2K_FLOAT32, relative error
    "bf16": (torch.bfloat16, None, 8e-3),
    "fp16": (torch.float16, None, 1e-3),
    "tf32": (torch.float32, "tf32", 2e-3),
    "tf32x3": (torch.float32, "tf32x3", 2e-6),
    "ieee": (torch.float32, "ieee", 2e-6),
}


def whole(*shape: int, seed: int) -> torch.Tensor:
    """Small whole numbers, so that sums are exact and rounding cannot choose the activation's branch."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, c_in, c_out, taps, options = LAYERS[name]
    dtype, products, tolerance = KINDS[kind]
    if products:
        monkeypatch.setenv("D2K_FLOAT32", products)
    options = dict(options)
    gap, groups = options.pop("gap", 0), options.get("groups", 1)
    batch = d2k.Ragged.pack([whole(s, c_in, seed=1 + i) for i, s in enumerate(lengths)], gap=gap)
    total = len(batch.values)
    given = [batch.values, whole(c_out, c_in // groups, taps, seed=2), whole(c_out, seed=3)]
    seed = torch.randn(total, c_out, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)

    def run(backend: str, as_type: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(as_type).requires_grad_() for x in given]
        with d2k.backends.use(backend, "temporal_conv"):
            x = d2k.Ragged._trusted(leaves[0], batch.offsets, batch.lengths, gap=gap)
            out = d2k.temporal_conv(x, *leaves[1:], **options).values
            return [out.detach(), *torch.autograd.grad(out, leaves, seed.to(as_type))]

    for what, got, want in zip(
        ("out", "x", "weight", "bias"), run("triton", dtype), run("reference", torch.float64), strict=True
    ):
        error = float((got.double() - want).norm() / want.norm())
        assert error < tolerance, f"{what}: relative error {error:.1e}"
