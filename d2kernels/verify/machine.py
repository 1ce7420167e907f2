"""What a check's result depends on beside the kernel: GPU, driver, torch, Triton and the compiler."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from d2kernels import _kernels, _native
from d2kernels.verify import hashes, records

PACKAGE = Path(__file__).resolve().parents[1]


class Machine(NamedTuple):
    """The key under which results are kept; a change of any of them asks for a new check."""

    gpu: str
    arch: str
    driver: str
    torch: str
    triton: str
    compiler: str

    def file_name(self) -> str:
        """Readable, and different for every machine."""
        start = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-")[:40]
        return f"{start}-{hashes.digest(self._asdict())[:16]}.json"


def _triton() -> str:
    for name in ("triton", "pytorch-triton"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def _driver() -> str:
    """The kernel driver's version, and the CUDA version that it speaks."""
    import torch

    try:
        kernel = Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        kernel = "unknown"
    version = getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown")()
    return f"{kernel}, CUDA {version}"


@cache
def build() -> dict[str, Any]:
    """What setup.py wrote down when the extension was compiled: hashes of its sources, GPU records, the compiler."""
    path = PACKAGE / "_compiled.json"
    return json.loads(path.read_text()) if path.is_file() else {}


@cache
def this(kind: str, index: int) -> Machine:
    """The machine as torch sees it; `kind` is "cuda", or "cpu" to check the CPU's kernels by the same means."""
    import torch

    versions = torch.__version__, _triton(), str(build().get("nvcc") if kind == "cuda" else build().get("cxx"))
    if kind == "cpu":
        return Machine("cpu", platform.machine(), "none", *versions)
    major, minor = torch.cuda.get_device_capability(index)
    return Machine(torch.cuda.get_device_name(index), f"sm_{major}{minor}", _driver(), *versions)


@cache
def _extension_files() -> hashes.Files:
    """The compiled module itself, where nobody wrote down what it was compiled from."""
    module = _native.extension()[0]
    if module is None:
        return {}
    return {"_C": hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()}


@cache
def kernels(kind: str) -> dict[str, str]:
    """Each kernel that can run on this kind of device to its hash: of its modules, and of what it is compiled from."""
    found = {}
    compiled = build().get("cuda") if kind == "cuda" else None
    for op in _kernels.OPS:
        for backend in ("native", "triton"):
            if _kernels.why_not(op, backend, kind) is not None:
                continue
            files = hashes.python_files(PACKAGE.parent, op, backend)
            if backend == "native":
                files |= _extension_files() if compiled is None else compiled.get(op, {})
            found[f"{op}/{backend}"] = hashes.digest(files)
    return found


@cache
def vouched() -> frozenset[records.Vouched]:
    """The committed GPU records: the source tree's, else those that the package was built with."""
    results = PACKAGE.parent / "benchmarks/results"
    if (PACKAGE.parent / "csrc").is_dir():
        return frozenset(records.committed(results))
    return frozenset(records.Vouched(*row) for row in build().get("records", ()))
