"""The checking process with kernels made bad on purpose: FAULT=<op>=<what>[,...]; COUNT names a file of starts.

The process and its protocol are the real ones. With REAL=1 so are the kernels and what they are compared with; else
neither torch nor a kernel is there, and each check does at once what its kernel's fault would.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from types import SimpleNamespace


class OutOfMemoryError(RuntimeError):
    pass


class Wrong(Exception):
    pass


def _raise(error):
    raise error


def _illegal(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")


FAULTS = {
    "wrong": lambda *_: _raise(Wrong("result 1 of 2 is off by 0.5, allowed 1e-06 (small, n = 1, 1, float32)")),
    "raises": _illegal,
    "memory": lambda *_: _raise(OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
    "crash": lambda *_: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda *_: os._exit(7),
    "hang": lambda *_: time.sleep(600),
}
DEVICE = {
    "hang": lambda *_, **__: time.sleep(600),
    "exit": lambda *_, **__: os._exit(9),
    "busy": lambda *_, **__: _raise(RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")),
}


def _pretend(faults: dict[str, str]) -> None:
    number = SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: 1.0))
    torch = SimpleNamespace(
        device=lambda name: SimpleNamespace(type=name),
        ones=DEVICE[faults["device"]] if "device" in faults else lambda *_, **__: number,
        OutOfMemoryError=OutOfMemoryError,
    )

    def check(op, backend, device, sizes):
        if op in faults:
            FAULTS[faults[op]]()
        return 3

    sys.modules["torch"] = torch
    sys.modules["d2kernels.verify.check"] = SimpleNamespace(check=check, Wrong=Wrong)
    sys.modules["d2kernels.verify"].check = sys.modules["d2kernels.verify.check"]


def _break(faults: dict[str, str]) -> None:
    for op, what in faults.items():
        native = importlib.import_module(f"d2kernels.ops.{op}.native")
        right = getattr(native, f"{op}_forward")
        bad = _illegal if what == "raises" else lambda *a, right=right: tuple(x + 1 for x in right(*a))
        setattr(native, f"{op}_forward", bad)


def main() -> int:
    if count := os.environ.get("COUNT"):
        with open(count, "a") as file:
            file.write(f"{os.getpid()} {' '.join(a for a in sys.argv[1:] if not a.startswith('--'))}\n")
    faults = dict(fault.split("=") for fault in os.environ.get("FAULT", "").split(",") if fault)
    from d2kernels.verify import child

    (_break if os.environ.get("REAL") else _pretend)(faults)
    return child.main([*sys.argv[1:], "--sizes=small"])


if __name__ == "__main__":
    sys.exit(main())
