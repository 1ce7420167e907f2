"""Which backend serves an op on a device, and why another does not."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType, ModuleType, TracebackType

from d2kernels import _kernels
from d2kernels._environment import Variable
from d2kernels._kernels import BACKENDS, OPS
from d2kernels._kernels import module as module

_PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("triton", "native", "reference")}
# op or "*" -> backend; each thread and each asyncio task has its own.
_asked: ContextVar[Mapping[str, str]] = ContextVar("d2kernels_backends", default=MappingProxyType({}))
_BACKEND, _VERIFY = Variable("D2K_BACKEND"), Variable("D2K_VERIFY")


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot serve the op."""


def _known(op: str) -> None:
    if op not in OPS:
        raise ValueError(f"unknown op {op!r}; the ops are {', '.join(OPS)}")


def _known_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; the backends are {', '.join(BACKENDS)}")


@lru_cache(maxsize=16)
def _parse(text: str) -> Mapping[str, str]:
    """`native`, or `connected_components=native,nms=reference`."""
    asked = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        op, _, backend = part.rpartition("=")
        if op:
            _known(op)
        _known_backend(backend)
        asked[op or "*"] = backend
    return MappingProxyType(asked)


class use:
    """Asks for a backend by name, for every op or for one; as a context manager, until it ends.

    It holds for the thread or the asyncio task that asks (a context variable), and for the backward passes of what ran
    under it, on whichever thread autograd runs them, unless another is asked for there. For a whole process there is
    D2K_BACKEND in the environment.

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
        self._before = _asked.get()
        asked = {**self._before, op or "*": backend}
        _asked.set(MappingProxyType({key: name for key, name in asked.items() if name is not None}))

    def __enter__(self) -> use:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _asked.set(self._before)


class resumed:
    """Asks for what was asked for where a forward pass ran, unless something is asked for here."""

    def __init__(self, asked: Mapping[str, str]):
        self._asked = asked

    def __enter__(self) -> None:
        self._before = _asked.get()
        if not self._before:
            _asked.set(self._asked)

    def __exit__(self, *_: object) -> None:
        _asked.set(self._before)


def asked() -> Mapping[str, str]:
    """What `use` has asked for here: op, or "*" for every op, to backend."""
    return _asked.get()


def asked_for(op: str) -> str | None:
    """The backend named for this op by `use`, else by the environment's D2K_BACKEND, else None."""
    here = _asked.get()
    if here and (op in here or "*" in here):
        return here.get(op, here.get("*"))
    text = _BACKEND.value()
    if text is None:
        return None
    environment = _parse(text)
    return environment.get(op, environment.get("*"))


def can_run(op: str, backend: str, device: str = "cpu", dtype: object = None, raise_error: bool = False) -> bool:
    """Whether `backend` can serve `op` on this kind of device.

    Args:
        op: one of `OPS`; pdmi_snippet and pdmi_video are `pdmi`, soft_nms is `nms`, svdvals is `svd`.
        backend: "reference", "native" or "triton".
        device: "cpu" or "cuda".
        dtype: of the op's rows, where it matters; None asks for any.
        raise_error: raise the reason why not.

    Raises:
        ValueError: an unknown name.
        BackendUnavailable: it cannot, and raise_error was given.
    """
    _known(op)
    _known_backend(backend)
    reason = _kernels.why_not(op, backend, device, dtype) or _known_to_fail(op, backend, device)
    if reason and raise_error:
        raise BackendUnavailable(_unavailable(op, backend, device, reason))
    return reason is None


def _unavailable(op: str, backend: str, device: str, reason: object) -> str:
    return f"{op}: the {backend} backend cannot run on {device}: {reason}"


def _known_to_fail(op: str, backend: str, device: str, index: int | None = None) -> str | None:
    """Why a GPU kernel may not serve, as far as a check or record says; starts none."""
    if device != "cuda":
        return None
    from d2kernels.verify import gate

    return gate.known(op, backend, index)


def _refused(op: str, backend: str, device: str, index: int | None = None) -> str | None:
    """As _known_to_fail, after checking a GPU kernel that nobody vouches for; may raise gate.Later."""
    if device != "cuda":
        return None
    from d2kernels.verify import gate

    return gate.refuse(op, backend, index)


class _NotKept(Exception):
    """Carries a choice that holds for this call alone."""


@lru_cache(maxsize=1024)
def _choose(op: str, device: str, dtype: object, asked: str | None, index: int | None, verify: str) -> ModuleType:
    from d2kernels.verify.later import Later

    _known(op)
    if asked is not None:
        can_run(op, asked, device, dtype, raise_error=True)
        try:
            reason: object = _refused(op, asked, device, index)
        except Later as later:
            reason = later
        if reason:
            raise BackendUnavailable(_unavailable(op, asked, device, reason))
        return _kernels.module(op, asked)
    refused: dict[str, object] = {}
    for backend in _PREFERENCE.get(device, ("reference",)):
        if _kernels.why_not(op, backend, device, dtype) is not None:
            continue
        try:
            reason = _refused(op, backend, device, index)
        except Later as later:
            reason = later
        if reason is None:
            break
        refused[backend] = reason
    else:
        raise BackendUnavailable(f"{op}: no backend can run on {device}")
    if refused:
        from d2kernels.verify import gate

        for other, reason in refused.items():
            gate.warn_replaced(op, other, backend, str(reason))
        if any(isinstance(reason, Later) for reason in refused.values()):
            raise _NotKept(_kernels.module(op, backend))
    return _kernels.module(op, backend)


def select(op: str, device: str = "cpu", dtype: object = None, index: int | None = None) -> ModuleType:
    """The module that serves `op` on this kind of device: the one asked for, or the fastest that can run.

    A GPU kernel that no GPU record vouches for is checked first, once on this machine (see `d2kernels.verify`).

    Args:
        op, device, dtype: as `can_run`.
        index: the device's number; None for the current one.

    Raises:
        ValueError: an unknown op.
        BackendUnavailable: none can, or the one asked for by name cannot.
    """
    verify = (_VERIFY.value() or "") if device == "cuda" else ""
    try:
        return _choose(op, device, dtype, asked_for(op), index, verify)
    except _NotKept as choice:
        return choice.args[0]


def explain(op: str, device: str = "cpu", dtype: object = None) -> dict[str, str]:
    """For each backend, 'used', 'available', or the reason why it cannot serve `op` on this device; checks nothing.

    Args:
        op, device, dtype: as `can_run`.

    Raises:
        ValueError: an unknown op.
    """
    _known(op)
    reasons = {b: _kernels.why_not(op, b, device, dtype) or _known_to_fail(op, b, device) for b in BACKENDS}
    order = _PREFERENCE.get(device, ("reference",)) if (asked := asked_for(op)) is None else (asked,)
    used = next((b for b in order if reasons[b] is None), None)
    return {b: "used" if b == used else (reason or "available") for b, reason in reasons.items()}
