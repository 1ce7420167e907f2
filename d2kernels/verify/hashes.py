"""What each GPU kernel is made of, as one SHA-256. Needs the standard library alone: setup.py loads it as a file.

A kernel is "<op>/native" (csrc/cuda/<op>.cu) or "<op>/triton". Its hash covers the path and the contents of every file
of ours that its result depends on: sources, the headers and the modules that they include, and its binding.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_NOT_KERNELS = {"__init__", "schema", "_library"}  # modules that every backend shares
Files = dict[str, str]  # path inside the tree, with slashes, to the SHA-256 of the contents


@lru_cache(maxsize=1024)
def _read(path: Path, _changed: tuple[int, int]) -> tuple[str, str]:
    """A file's text and digest; the second argument makes a changed file another entry."""
    contents = path.read_bytes()
    return contents.decode(errors="replace"), hashlib.sha256(contents).hexdigest()


def _file(path: Path) -> tuple[str, str]:
    state = path.stat()
    return _read(path, (state.st_mtime_ns, state.st_size))


def _includes(path: Path, root: Path, found: Files) -> None:
    """Adds a C++ source and every header of ours that it includes, directly or not."""
    name = path.relative_to(root).as_posix()
    if name in found:
        return
    text, found[name] = _file(path)
    for header in _INCLUDE.findall(text):
        for folder in (path.parent, root / "csrc/include", root / "csrc"):
            if (folder / header).is_file():
                _includes((folder / header).resolve(), root, found)
                break


def _modules(text: str) -> Iterator[str]:
    """Dotted names under d2kernels.ops that a module's source may import."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("d2kernels.ops"):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("d2kernels.ops"))


def _imports(path: Path, root: Path, found: Files) -> None:
    """Adds a Python module and every module under d2kernels/ops that it imports and that is part of a kernel."""
    name = path.relative_to(root).as_posix()
    if name in found:
        return
    text, found[name] = _file(path)
    for module in _modules(text):
        other = root / (module.replace(".", "/") + ".py")
        if other.stem not in _NOT_KERNELS and other.is_file():
            _imports(other, root, found)


def python_files(root: Path, op: str, backend: str) -> Files:
    """The kernel's Python modules in the tree or in the installed packages' folder; none where there is no kernel."""
    found: Files = {}
    folder = root.resolve() / "d2kernels/ops" / op
    if (folder / f"{backend}.py").is_file():
        _imports(folder / f"{backend}.py", root.resolve(), found)
    return found


def cuda_files(root: Path) -> dict[str, Files]:
    """Op to the files that its native CUDA kernel and its binding are compiled from."""
    root, compiled = root.resolve(), {}
    for source in sorted((root / "csrc/cuda").glob("*.cu")):
        if not (root / "d2kernels/ops" / source.stem / "native.py").is_file():
            continue
        found: Files = {}
        _includes(source, root, found)
        if (device := root / "csrc/cuda/device.cu").is_file():
            _includes(device, root, found)
        binding = root / "csrc/bindings" / f"{source.stem}.cpp"
        if binding.is_file():
            _includes(binding, root, found)
        compiled[source.stem] = found
    return compiled


def digest(files: Mapping[str, str]) -> str:
    """One SHA-256 of all the files, whatever their order."""
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def kernels(root: Path) -> dict[str, str]:
    """Kernel name to its hash, for the source tree at `root`."""
    compiled, found = cuda_files(root), {}
    for folder in sorted(p for p in (root / "d2kernels/ops").iterdir() if p.is_dir()):
        if folder.name in compiled:
            found[f"{folder.name}/native"] = digest(compiled[folder.name] | python_files(root, folder.name, "native"))
        if triton := python_files(root, folder.name, "triton"):
            found[f"{folder.name}/triton"] = digest(triton)
    return found
