"""The kernels that there are: ops, their backends, and what each needs to run."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from types import ModuleType

from d2kernels import _native

OPS = (
    "temporal_conv",
    "topk_pool",
    "attention_pool",
    "foreground_score",
    "lowest_attention",
    "condition_number",
    "pdmi",
    "svd",
    "head",
    "losses",
    "step_record",
    "gather_rows",
    "connected_components",
    "nms",
    "localize",
    "tv_l1",
)
BACKENDS = ("reference", "native", "triton")


@cache
def _has(op: str, backend: str) -> bool:
    return importlib.util.find_spec(f"d2kernels.ops.{op}.{backend}") is not None


@cache
def module(op: str, backend: str) -> ModuleType:
    """The op's module for this backend, imported on first use."""
    return importlib.import_module(f"d2kernels.ops.{op}.{backend}")


@cache
def _interpreter_fault() -> str | None:
    """Triton's interpreter before 3.7 makes numbers of arrays of one element, which NumPy 2.4 no longer does."""
    triton, numpy = (importlib.import_module(name).__version__ for name in ("triton", "numpy"))
    if _numbers(triton) < (3, 7) and _numbers(numpy) >= (2, 4):
        return f"the interpreter of Triton {triton} needs numpy<2.4, this is {numpy}; Triton 3.7 takes it"
    return None


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def why_not(op: str, backend: str, device: str, dtype: object = None) -> str | None:
    """Why this backend cannot serve the op on this kind of device, by what is installed; None where it can."""
    if not _has(op, backend):
        return f"{op} has no {backend} kernel"
    compiled = backend == "native" and getattr(module(op, backend), "NEEDS_EXTENSION", True)
    if compiled and (reason := _native.why_not(device)):
        return reason
    if backend == "triton":
        if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"Triton kernels need a GPU, this is {device}"
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        if device != "cuda" and (reason := _interpreter_fault()):
            return reason
    check = getattr(module(op, backend), "why_not", None)
    return check(device, dtype) if check else None
