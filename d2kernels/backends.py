"""Which backend serves an op on a device, and why another does not."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from types import ModuleType, TracebackType

OPS = (
    "temporal_conv",
    "topk_pool",
    "attention_pool",
    "foreground_score",
    "lowest_attention",
    "condition_number",
    "pdmi",
    "svd",
    "connected_components",
    "nms",
    "localize",
)
BACKENDS = ("reference", "native", "triton")
_PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("triton", "native", "reference")}
_asked: dict[str, str] = {}  # op or "*" -> backend


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot serve the op."""


def _known(op: str) -> None:
    if op not in OPS:
        raise ValueError(f"unknown op {op!r}; the ops are {', '.join(OPS)}")


def _known_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; the backends are {', '.join(BACKENDS)}")


def _parse(text: str) -> dict[str, str]:
    """`native`, or `connected_components=native,nms=reference`."""
    asked = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        op, _, backend = part.rpartition("=")
        if op:
            _known(op)
        _known_backend(backend)
        asked[op or "*"] = backend
    return asked


class use:
    """Asks for a backend by name, for every op or for one; as a context manager, until it ends.

    Args:
        backend: "reference", "native" or "triton"; None goes back to the automatic choice.
        op: the op's name, or None for every op.

    Raises:
        ValueError: an unknown name. An op that the backend cannot serve raises BackendUnavailable at its call.
    """

    def __init__(self, backend: str | None, op: str | None = None):
        if backend is not None:
            _known_backend(backend)
        if op is not None:
            _known(op)
        key = op or "*"
        self._before = dict(_asked)
        if backend is None:
            _asked.pop(key, None)
        else:
            _asked[key] = backend
        _choose.cache_clear()

    def __enter__(self) -> use:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _asked.clear()
        _asked.update(self._before)
        _choose.cache_clear()


def asked_for(op: str) -> str | None:
    """The backend named for this op by `use`, else by the environment's D2K_BACKEND, else None."""
    if op in _asked or "*" in _asked:
        return _asked.get(op, _asked.get("*"))
    environment = _parse(os.environ.get("D2K_BACKEND", ""))
    return environment.get(op, environment.get("*"))


@cache
def _has(op: str, backend: str) -> bool:
    return importlib.util.find_spec(f"d2kernels.ops.{op}.{backend}") is not None


@cache
def module(op: str, backend: str) -> ModuleType:
    """The op's module for this backend, imported on first use."""
    return importlib.import_module(f"d2kernels.ops.{op}.{backend}")


def _why_not(op: str, backend: str, device: str, dtype: object = None) -> str | None:
    if not _has(op, backend):
        return f"{op} has no {backend} kernel"
    if backend == "native" and getattr(module(op, backend), "NEEDS_EXTENSION", True):
        from d2kernels import _native

        if reason := _native.why_not(device):
            return reason
    if backend == "triton":
        if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"Triton kernels need a GPU, this is {device}"
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
    check = getattr(module(op, backend), "why_not", None)
    return check(device, dtype) if check else None


def can_run(op: str, backend: str, device: str = "cpu", dtype: object = None, raise_error: bool = False) -> bool:
    """Whether `backend` can serve `op` on this kind of device; with raise_error, the reason why not is raised."""
    _known(op)
    _known_backend(backend)
    reason = _why_not(op, backend, device, dtype)
    if reason and raise_error:
        raise BackendUnavailable(f"{op}: the {backend} backend cannot run on {device}: {reason}")
    return reason is None


@cache
def _choose(op: str, device: str, dtype: object, environment: str) -> ModuleType:
    asked = asked_for(op)
    if asked is not None:
        can_run(op, asked, device, dtype, raise_error=True)
        return module(op, asked)
    for backend in _PREFERENCE.get(device, ("reference",)):
        if _why_not(op, backend, device, dtype) is None:
            return module(op, backend)
    raise BackendUnavailable(f"{op}: no backend can run on {device}")


def select(op: str, device: str = "cpu", dtype: object = None) -> ModuleType:
    """The module that serves `op` on this kind of device: the one asked for, or the fastest that can run."""
    if op not in OPS:
        _known(op)
    return _choose(op, device, dtype, os.environ.get("D2K_BACKEND", ""))


def explain(op: str, device: str = "cpu", dtype: object = None) -> dict[str, str]:
    """For each backend, 'used', 'available', or the reason why it cannot serve `op` on this device."""
    _known(op)
    try:
        used = select(op, device, dtype).__name__.rpartition(".")[2]
    except BackendUnavailable:
        used = None
    return {b: "used" if b == used else (_why_not(op, b, device, dtype) or "available") for b in BACKENDS}
