"""Whether a GPU kernel may serve: vouched for by a committed record, or checked once on this machine."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from d2kernels.verify import cache, machine, process
from d2kernels.verify.cache import Result
from d2kernels.verify.later import Later

BACKENDS = ("native", "triton")
_mine: dict[tuple[machine.Machine, str], Result] = {}  # hash to what this process found, should the cache not keep it
_unchecked: dict[tuple[machine.Machine, str], str] = {}  # hash to why this process could not check it
_said: set[str] = set()
_once = threading.RLock()


class State(NamedTuple):
    """How a kernel stands on a GPU.

    status: "off" (D2K_VERIFY=off), "vouched", "passed", "failed", "unchecked" (it could not be checked), "unknown"
    (nobody tried).
    """

    status: str
    says: str
    details: str = ""

    @property
    def usable(self) -> bool:
        return self.status in ("off", "vouched", "passed")


def is_off() -> bool:
    """Whether D2K_VERIFY=off, by which every kernel is trusted.

    Raises:
        ValueError: another value than "on" and "off".
    """
    value = os.environ.get("D2K_VERIFY", "on")
    if value not in ("", "on", "off"):
        raise ValueError(f"D2K_VERIFY={value} is unknown; use on or off")
    return value == "off"


def _state(kernel: str, sha: str, here: machine.Machine, results: dict[str, Result]) -> State:
    if is_off():
        return State("off", "not checked: D2K_VERIFY=off")
    result = _mine.get((here, sha)) or results.get(sha)
    if result is not None and not result.passed:
        return State("failed", result.error, result.details)
    gpus = sorted({v.gpu for v in machine.vouched() if (v.kernel, v.sha256, v.arch) == (kernel, sha, here.arch)})
    if gpus:
        return State("vouched", f"passed the GPU tests on {', '.join(gpus)}")
    if result is not None:
        return State("passed", f"checked on this {here.gpu} {result.date}")
    if why := _unchecked.get((here, sha)):
        return State("unchecked", why)
    return State("unknown", "not checked on this GPU yet")


def states(kind: str = "cuda", index: int = 0) -> dict[str, State]:
    """Every GPU kernel's state on the device; starts nothing."""
    here = machine.this(kind, index)
    results = cache.read(here)
    return {kernel: _state(kernel, sha, here, results) for kernel, sha in machine.kernels(kind).items()}


def cannot_start() -> str | None:
    """Why no check can start at this moment, or None."""
    import multiprocessing

    import torch

    if torch.compiler.is_compiling():
        return "during compilation"
    if torch.cuda.is_current_stream_capturing():
        return "while a CUDA graph is captured"
    if torch.utils.data.get_worker_info() is not None or multiprocessing.current_process().daemon:
        return "in a worker process"
    return None


def _warn_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _keep(here: machine.Machine, results: dict[str, Result]) -> None:
    _mine.update({(here, sha): result for sha, result in results.items()})
    try:
        cache.add(here, results)
    except OSError as error:
        _warn_once(
            f"d2kernels: the checks' results cannot be kept in {cache.folder()} ({error}), so every process that uses "
            "the GPU checks its kernels again; set XDG_CACHE_HOME to a folder that can be written to"
        )


def ensure(kind: str = "cuda", index: int = 0, *, again: Sequence[str] = ("unknown",)) -> dict[str, State]:
    """Checks what has not been checked on the device, in a process of its own; returns every kernel's state.

    However many processes ask, one checks at a time, and what it found serves the others.

    Args:
        kind, index: the device, "cuda" and its number.
        again: the statuses that ask for a check.
    """
    with _once:
        before = states(kind, index)
        if not any(s.status in again for s in before.values()):
            return before
        here = machine.this(kind, index)
        with cache.locked():
            now = states(kind, index)
            # What another process checked while this one waited need not be checked again.
            wanted = [k for k, s in now.items() if s.status in again and (s == before[k] or s.status == "unknown")]
            if wanted:
                _check(here, kind, index, wanted)
        return states(kind, index)


def _check(here: machine.Machine, kind: str, index: int, wanted: list[str]) -> None:
    print(
        f"d2kernels: checking {len(wanted)} kernels once on this {here.gpu} ({here.arch}), which no GPU record covers; "
        f"takes minutes, at the very most {process.KERNEL_SECONDS / 60:.0f} a kernel (D2K_VERIFY=off skips it)",
        file=sys.stderr,
        flush=True,
    )
    shas = machine.kernels(kind)
    try:
        outcome = process.check(f"{kind}:{index}" if kind == "cuda" else kind, wanted)
    except process.Unavailable as error:
        outcome = process.Outcome({}, dict.fromkeys(wanted, str(error)))
    _unchecked.update({(here, shas[k]): why for k, why in outcome.unchecked.items()})
    for kernel in outcome.results:
        _unchecked.pop((here, shas[kernel]), None)
    if outcome.results:
        _keep(here, {shas[k]: result for k, result in outcome.results.items()})


def _device(index: int | None) -> int | None:
    """The GPU's number, None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.current_device() if index is None else index


def known(op: str, backend: str, index: int | None = None) -> str | None:
    """Why the kernel may not serve on the GPU as far as is known, or None; starts nothing."""
    index = _device(index)
    if backend not in BACKENDS or index is None or is_off():
        return None
    state = states("cuda", index).get(f"{op}/{backend}")
    return None if state is None or state.usable or state.status == "unknown" else _reason(state)


def _reason(state: State) -> str:
    where = f"; details: {state.details}" if state.details else ""
    what = "it failed its check on this GPU" if state.status == "failed" else "it could not be checked on this GPU"
    return f"{what} ({state.says}){where}"


def refuse(op: str, backend: str, index: int | None = None) -> str | None:
    """Why the kernel may not serve on the GPU, or None; checks it first where nobody has.

    Raises:
        Later: it has not been checked, and a check cannot start now.
    """
    index = _device(index)
    if backend not in BACKENDS or index is None or is_off():
        return None
    kernel = f"{op}/{backend}"
    state = states("cuda", index)[kernel]
    if state.status == "unknown":
        if why := cannot_start():
            raise Later(
                f"it has not been checked on this GPU, and a check cannot start {why}; call the op once before, or run "
                "python -m d2kernels verify"
            )
        state = ensure("cuda", index)[kernel]
    return None if state.usable else _reason(state)


def warn_replaced(op: str, backend: str, by: str, reason: str) -> None:
    """One warning a process for each kernel that does not serve."""
    _warn_once(f"{op}: the {backend} kernel does not serve, {by} does: {reason}")
