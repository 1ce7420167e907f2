"""``python -m d2kernels``: what is installed and built, which backend serves each op and why, and whether it runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import d2kernels
from d2kernels import _native, backends

PACKAGES = ("torch", "triton", "numpy", "cupy", "numba")
DEVICES = ("cpu", "cuda")
Lines = Iterator[str]


def _import(name: str) -> tuple[Any, str]:
    """The module, and its version or why it cannot be imported."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return None, "not installed" if error.name == name else f"cannot be imported: {error}"
    except Exception as error:
        return None, f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return module, getattr(module, "__version__", "unknown version")


def build_facts() -> dict[str, Any] | None:
    """What setup.py wrote down when this package was built; None where it was not built."""
    path = Path(__file__).with_name("_build_info.json")
    return json.loads(path.read_text()) if path.exists() else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> Lines:
    yield f"d2kernels {d2kernels.__version__} in {Path(__file__).parent}"
    yield f"python    {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    for name in PACKAGES:
        yield f"{name:9} {_import(name)[1]}"
    for variable in ("D2K_BACKEND", "D2K_CHECK", "D2K_VERIFY", "TRITON_INTERPRET"):
        if variable in os.environ:
            yield f"{variable}={os.environ[variable]}"


def _devices(torch: Any) -> Lines:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"cpu       {_cpu_name()}, {cores} cores usable"
    if torch is None:
        yield "cuda      unknown to torch, which is not there"
    elif not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield f"cuda      none that torch can use ({built})"
    else:
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            yield f"cuda:{i}    {torch.cuda.get_device_name(i)}, sm_{major}{minor}, torch's CUDA {torch.version.cuda}"
    extension = _native.extension()[0]
    if extension is not None and extension.has_cuda:
        version = extension.cuda_runtime_version()
        try:
            seen = ", ".join(extension.cuda_devices()) or "no GPU"
        except RuntimeError as error:
            seen = f"no GPU ({error})"
        yield f"          the extension, with CUDA {version // 1000}.{version % 1000 // 10}, sees {seen}"


def _quota() -> float | None:
    """Cores that the container may use, where that is bounded."""
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    except (OSError, ValueError):
        return None


def _threads(torch: Any) -> Lines:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads() if torch is not None else cores
    asked = os.environ.get("OMP_NUM_THREADS")
    yield f"threads   {used} of {cores} cores (OMP_NUM_THREADS {'is ' + asked if asked else 'is not set'})"
    quota = _quota()
    if quota is not None and used > quota + 0.5:
        yield f"note      the container may use {quota:g} cores: set OMP_NUM_THREADS={max(1, round(quota))}"
    policy = next((f"{n}={os.environ[n]}" for n in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if n in os.environ), None)
    yield f"waiting   {policy or 'OMP_WAIT_POLICY is not set: threads spin before they sleep'}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if policy is None or load > 1.5 * cores:
        busy = f"{load:.1f} processes want the {cores} cores now: " if load > 1.5 * cores else ""
        yield (
            f"note      {busy}where others use the machine, set OMP_WAIT_POLICY=passive (the command d2net does), and "
            "OMP_NUM_THREADS to the cores that are yours"
        )


def _build() -> Lines:
    from d2kernels.verify import machine

    extension, why = _native.extension()
    yield f"extension {'loaded from ' + str(extension.__file__) if extension else why}"
    facts = build_facts()
    if facts is None:
        yield "no record: this source tree was never built; pip install . builds it"
        return
    yield f"built     {', '.join(facts['built']) or 'nothing'} (D2K_BUILD={facts['D2K_BUILD']})"
    for part, reason in facts["left_out"].items():
        yield f"left out  {part}: {reason}"
    for name, compiler in facts["compilers"].items():
        yield f"{name:9} {compiler}"
    if facts["cuda_archs"]:
        yield f"for       {' '.join(facts['cuda_archs'])}"
    if (spent := machine.build().get("cpu_seconds")) is not None:
        yield f"took      {spent:.0f} CPU seconds to compile; scripts/build_time.py measures that afresh, file by file"
    for note in facts["notes"]:
        yield f"note      {note}"


def _explain(op: str, device: str) -> dict[str, str]:
    try:
        return backends.explain(op, device)
    except ImportError as error:
        reason = f"{error.name} is not installed" if error.name else str(error)
        arrays = _serves_arrays(op, device)
        return {b: "used for NumPy arrays" if arrays and b == "native" else reason for b in backends.BACKENDS}


def _serves_arrays(op: str, device: str) -> bool:
    try:
        return (_ops_folder(op) / "native.py").exists() and backends.can_run(op, "native", device)
    except ImportError:
        return False


def _ops_folder(op: str) -> Path:
    return Path(__file__).parent / "ops" / op


def _served(op: str, device: str) -> tuple[str, list[str]]:
    """The backend that serves the op there, and why each other one does not."""
    used, others = "none", []
    for backend, says in _explain(op, device).items():
        if says.startswith("used"):
            used = backend
        elif says != "available" and says != f"{op} has no {backend} kernel":
            others.append(f"not {backend} on {device}: {says}")
    return used, others


def _table() -> Lines:
    yield f"{'':22}{'cpu':12}{'cuda':12}has kernels for"
    reasons: dict[str, list[str]] = {}
    for op in backends.OPS:
        served = []
        for device in DEVICES:
            used, others = _served(op, device)
            served.append(used)
            for reason in others:
                reasons.setdefault(reason, []).append(op)
        kernels = [b for b in backends.BACKENDS if (_ops_folder(op) / f"{b}.py").exists()]
        yield f"{op:22}{served[0]:12}{served[1]:12}{', '.join(kernels) or 'nothing'}"
    for reason, ops in reasons.items():
        yield f"{reason} ({'every op' if len(ops) == len(backends.OPS) else ', '.join(ops)})"


def _check(op: str, device: str) -> str | None:
    """What went wrong in one small call by the backend that serves there, or None."""
    import torch

    from d2kernels.verify.cases import cases
    from d2kernels.verify.check import Wrong, check_case

    try:
        backend = backends.select(op, device, torch.float32).__name__.rpartition(".")[2]
        check_case(next(cases(op, ("small",))), op, backend, torch.device(device), torch.float32)
    except Wrong as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def _verification(torch: Any) -> Lines:
    """What vouches for each GPU kernel here; starts no check."""
    if torch is None or not torch.cuda.is_available():
        yield "torch sees no GPU; on one, what no GPU record covers is checked before it first serves"
        return
    from d2kernels.verify import gate, machine

    seen = set()
    for i in range(torch.cuda.device_count()):
        here = machine.this("cuda", i)
        if here in seen:
            continue
        seen.add(here)
        yield f"{here.gpu} ({here.arch}), driver {here.driver}"
        for kernel, state in gate.states("cuda", i).items():
            details = f"; details: {state.details}" if state.details else ""
            yield f"{kernel:30}{state.status}: {state.says}{details}"
    yield "python -m d2kernels verify checks what is unknown or has failed"


def _check_without_torch() -> dict[str, str | None]:
    """The ops that take NumPy arrays."""
    import numpy as np

    scores, spans, offsets = np.array([[0.0], [1.0], [1.0]]), np.array([[0, 3], [1, 3], [8, 9]]), np.array([0, 3])
    calls = {
        "connected_components": lambda: d2kernels.connected_components(scores, [0.5], offsets=offsets),
        "nms": lambda: [d2kernels.nms(spans, np.array([0.25, 0.5, 0.75]), 0.5)],
        "localize": lambda: d2kernels.localize(scores, thresholds=[0.5], iou_threshold=0.5, offsets=offsets),
    }
    right = {
        "connected_components": [[0], [0], [0], [1], [3]],
        "nms": [[2, 1]],
        "localize": [[0], [0], [1], [3], [1], [1]],
    }
    checked: dict[str, str | None] = {}
    for op, call in calls.items():
        if not backends.can_run(op, "native"):
            continue
        try:
            checked[op] = None if [column.tolist() for column in call()] == right[op] else "wrong result"
        except Exception as error:
            checked[op] = f"{type(error).__name__}: {error}"
    return checked


def _runs(torch: Any) -> Iterator[tuple[str, bool]]:
    """One line for each op and device, and whether it is well."""
    if torch is None:
        checked = _check_without_torch()
        for op, wrong in checked.items():
            yield f"{op:22}cpu   {'ok, on NumPy arrays' if wrong is None else 'FAILED: ' + wrong}", wrong is None
        yield f"{'others' if checked else 'every op':22}cpu   not run: they need torch", True
        return
    for device in DEVICES if torch.cuda.is_available() else DEVICES[:1]:
        for op in backends.OPS:
            wrong = _check(op, device)
            says = f"ok, {_served(op, device)[0]}" if wrong is None else f"FAILED: {wrong}"
            yield f"{op:22}{device:6}{says}", wrong is None


def main() -> int:
    """Prints the report; 1 if an op that should run failed."""
    torch, _ = _import("torch")
    well = True
    try:
        for title, lines in (
            ("Versions", _versions()),
            ("Devices", _devices(torch)),
            ("Threads", _threads(torch)),
            ("Build", _build()),
            ("Backend that would be used", _table()),
            ("GPU kernels", _verification(torch)),
        ):
            print(f"{title}\n  " + "\n  ".join(lines) + "\n")
        print("Each op once, with gradients, against its reference")
        for line, fine in _runs(torch):
            print(f"  {line}")
            well &= fine
    except ValueError as error:
        print(f"\n{error}")
        return 1
    print("\nEverything that should run here runs." if well else "\nSomething that should run here failed.")
    return 0 if well else 1
