"""What has run each GPU kernel since its sources last changed: a GPU, the emulator, or Triton's interpreter alone.

Loads d2kernels' hashes as a file, so that any revision of the package can be timed and reported on.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
EMULATED = ROOT / "build/gpuemu/record.json"  # written by `make emulate`


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"d2kernels_verify_{name}", ROOT / f"d2kernels/verify/{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


_hashes, _records = _module("hashes"), _module("records")


def kernels(root: Path = ROOT) -> dict[str, str]:
    """Kernel name, "<op>/native" or "<op>/triton", to the SHA-256 of everything that it is compiled from."""
    return _hashes.kernels(root)


class Standing(NamedTuple):
    """What ran the kernel as it is now: GPUs by name, and the architectures whose code the emulator ran."""

    gpus: list[str]
    emulated: list[str]
    before: bool  # an earlier version of it has run on a GPU
    failed: list[str]  # architectures whose code the emulator ran, and found wrong

    def says(self, name: str) -> str:
        parts = []
        if self.gpus:
            parts.append(f"run on a GPU ({', '.join(self.gpus)})")
        if self.emulated:
            parts.append(f"emulated ({', '.join(self.emulated)})")
        if self.failed:
            parts.append(f"FAILED in the emulator ({', '.join(self.failed)})")
        if not parts:
            parts.append("interpreted only" if name.endswith("/triton") else "run by the CPU's teams only")
        if self.before and not self.gpus:
            parts.append("changed since its last GPU run")
        return "; ".join(parts)


def _emulated(path: Path) -> dict[str, dict[str, Any]]:
    """The emulator's record; empty where there is none, or one that a run cut short."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}


def standings(root: Path = ROOT, results: Path = RESULTS, emulated: Path = EMULATED) -> dict[str, Standing]:
    """Every GPU kernel to what has run it as it is."""
    vouched, record, found = _records.committed(results), _emulated(emulated), {}
    for name, digest in kernels(root).items():
        gpus = sorted({v.gpu for v in vouched if (v.kernel, v.sha256) == (name, digest)})
        entry = record.get(name, {})
        code = [f"sm_{a}" for a in entry.get("arch", [])] if entry.get("hash") == digest else []
        good, bad = (code, []) if entry.get("passed") is True else ([], code)
        found[name] = Standing(gpus, good, any(v.kernel == name for v in vouched), bad)
    return found


def unverified(root: Path = ROOT, results: Path = RESULTS) -> dict[str, str]:
    """Kernel name to why no GPU result vouches for it: none ever did, or its sources have changed since."""
    return {
        name: "changed since its last GPU run" if standing.before else "never run on a GPU"
        for name, standing in standings(root, results).items()
        if not standing.gpus
    }
