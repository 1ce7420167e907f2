"""One kernel against its reference: values, gradients, and the same bits from junk of two kinds in fresh memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d2kernels import backends
from d2kernels.verify import compare
from d2kernels.verify.cases import SIZES, Case, cases, ragged_on


class Wrong(Exception):
    """A kernel's result is not the reference's."""


def _junk(device: torch.device, value: float) -> None:
    """Leaves blocks full of `value` where torch's allocator takes the next ones from."""
    large = [2**25] * 4 if device.type == "cuda" else []  # what target-sized results are taken from
    kept = [torch.full((size,), value, device=device) for size in [*(2**i for i in range(6, 23, 2)), *large]]
    del kept


def _run(case: Case, backend: str, op: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The call's results, then the gradients of the inputs."""
    inputs = [t.to(device, dtype) for t in case.inputs]
    if not case.exact:
        inputs = [t.requires_grad_() for t in inputs]
    with backends.use(backend, op):
        out = case.call(ragged_on(device, case.lengths), *inputs)
        results = [out] if isinstance(out, Tensor) else list(out)
        smooth = [t for t in results if t.requires_grad]
        seeds = [torch.rand(t.shape, generator=torch.Generator().manual_seed(i)) for i, t in enumerate(smooth)]
        seeds = [s.to(device, t.dtype) for s, t in zip(seeds, smooth, strict=True)]
        gradients = torch.autograd.grad(smooth, inputs, seeds, allow_unused=True) if smooth else ()
    return [t.detach() for t in results] + [g for g in gradients if g is not None]


def check_case(case: Case, op: str, backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """
    Raises:
        Wrong: a result differs from the reference's by more than rounding, or from itself on a second run.
    """
    where = f"{case.name}, {str(dtype).removeprefix('torch.')}"
    rounded = case._replace(inputs=tuple(t.to(dtype).double() for t in case.inputs))
    low = _run(rounded, "reference", op, device, dtype)
    want = low if case.exact else _run(rounded, "reference", op, device, torch.float64)
    _junk(device, float("nan"))
    got = _run(rounded, backend, op, device, dtype)
    _junk(device, 1e30)
    again = _run(rounded, backend, op, device, dtype)
    if len(got) != len(want):
        raise Wrong(f"{len(got)} results, the reference has {len(want)} ({where})")
    for i, (g, w, o, a) in enumerate(zip(*map(compare.tensors, (got, want, low, again)), strict=True)):
        name = f"result {i + 1} of {len(got)}"
        band = "float64" if case.exact else str(dtype).removeprefix("torch.")
        error, allowed = compare.one_error(g, w), compare.bound(band, compare.one_error(o, w))
        if not error <= allowed:
            raise Wrong(f"{name} is off by {error:.3g}, allowed {allowed:.3g} ({where})")
        if not torch.equal(g.nan_to_num(), a.nan_to_num()):
            raise Wrong(f"{name} differs between two runs ({where})")


def check(op: str, backend: str, device: torch.device, sizes: Sequence[str] = SIZES) -> int:
    """Runs every case in every precision that the backend takes; returns how many.

    Raises:
        Wrong: naming result, error and case. Whatever else the kernel raises.
    """
    done = 0
    for case in cases(op, sizes):
        for dtype in case.dtypes:
            if backends.can_run(op, backend, device.type, dtype):
                check_case(case, op, backend, device, dtype)
                done += 1
    if not done:
        raise Wrong("no case of it could be run")
    return done
