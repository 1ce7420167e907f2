"""Which kernels a GPU machine has passed since their sources last changed, by the JSON under results/."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def _with_headers(path: Path, root: Path, seen: dict[Path, bytes]) -> None:
    """Adds a C++ source and every header of ours that it includes, directly or not."""
    if path in seen:
        return
    seen[path] = path.read_bytes()
    for name in INCLUDE.findall(seen[path].decode()):
        for folder in (path.parent, root / "csrc/include"):
            if (folder / name).is_file():
                _with_headers((folder / name).resolve(), root, seen)
                break


def kernels(root: Path = ROOT) -> dict[str, str]:
    """Kernel name, "<op>/native" or "<op>/triton", to the SHA-256 of everything that it is compiled from."""
    found = {}
    for folder in sorted(p for p in (root / "d2kernels/ops").iterdir() if p.is_dir()):
        cuda = root / "csrc/cuda" / f"{folder.name}.cu"
        triton = [folder / "triton.py", *sorted(folder.glob("triton_*.py")), root / "d2kernels/ops/_triton.py"]
        for backend, sources in (("native", [cuda, folder / "native.py"]), ("triton", triton)):
            if not sources[0].is_file():
                continue
            files: dict[Path, bytes] = {}
            for source in sources:
                _with_headers(source.resolve(), root.resolve(), files)
            digest = hashlib.sha256()
            for path in sorted(files):
                digest.update(f"{path.relative_to(root.resolve())}\0{len(files[path])}\0".encode() + files[path])
            found[f"{folder.name}/{backend}"] = digest.hexdigest()
    return found


def unverified(root: Path = ROOT, results: Path = RESULTS) -> dict[str, str]:
    """Kernel name to why no GPU result vouches for it: none ever did, or its sources have changed since."""
    passed: dict[str, set[str]] = {}
    for path in sorted(results.glob("*.json")):
        for name, entry in json.loads(path.read_text()).get("kernels", {}).items():
            if entry.get("passed"):
                passed.setdefault(name, set()).add(entry["sha256"])
    return {
        name: "changed since its last GPU run" if name in passed else "never run on a GPU"
        for name, digest in kernels(root).items()
        if digest not in passed.get(name, ())
    }
