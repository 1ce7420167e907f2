"""One video's array in a file of its own: .npy, .npz or safetensors with one array, torch's tensor, or text."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.features.headers import Shape
from d2net.data.features.npy import header, npy_rows
from d2net.data.features.store import FeatureError
from d2net.data.features.tensors import Tensor, read_tensor, read_tensor_rows, tensor_headers
from d2net.data.features.text import read_text_array, text_header
from d2net.data.files import check_regular, reading, some

KINDS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
TEXT = (".csv",)
# What the array is called where a file holds other things too.
CALLED = ("feats", "features", "feat", "feature", "data", "x")

_FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")


def array_header(path: Path) -> Shape:
    """Shape and type; of torch's files only, data are mapped and not read."""
    with reading(path, "a NumPy array" if path.suffix == ".npy" else "a file of one array", FeatureError):
        check_regular(path, FeatureError)
        kind = path.suffix.lower()
        if kind == ".npy":
            with open(path, "rb") as file:
                return header(file, os.fstat(file.fileno()).st_size)
        if kind == ".npz":
            with zipfile.ZipFile(path) as archive:
                info = archive.getinfo(_entry(path, archive))
                with archive.open(info) as entry:
                    return header(entry, info.file_size)
        if kind in TEXT:
            return text_header(path)
        if kind == ".safetensors":
            own = _safetensor(path)
            return own.shape, own.dtype
        tensor = _tensor(path)
        return tuple(tensor.shape), _dtype(tensor)


def read_array(path: Path) -> np.ndarray:
    with reading(path, "a NumPy array" if path.suffix == ".npy" else "a file of one array", FeatureError):
        kind = path.suffix.lower()
        if kind == ".npy":
            with open(path, "rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        if kind in TEXT:
            return read_text_array(path)
        if kind == ".safetensors":
            return read_tensor(path, _safetensor(path))
        with zipfile.ZipFile(path) as archive:
            if kind == ".npz":
                with archive.open(_entry(path, archive)) as entry:
                    array = np.lib.format.read_array(entry, allow_pickle=False)
                    entry.read(1)  # the checksum is compared at the end
                return array
            if (damaged := archive.testzip()) is not None:
                raise FeatureError(f"{path}: the checksum of {damaged} does not match; copy or extract it again")
        return np.array(_tensor(path).float().numpy())


def reads_rows(name: str) -> bool:
    """Whether `read_rows` can read rows of such a file alone."""
    return name.lower().endswith((".npy", ".safetensors", ".pt", ".pth"))


def read_rows(path: Path, shape: tuple[int, ...], first: int, end: int) -> np.ndarray | None:
    """Rows first..end - 1 of a file's array of `shape`; None where they cannot be read alone, or the shape differs."""
    with reading(path, "a NumPy array" if path.suffix == ".npy" else "a file of one array", FeatureError):
        kind = path.suffix.lower()
        if kind == ".npy":
            with open(path, "rb") as file:
                return npy_rows(file, shape, first, end)
        if kind == ".safetensors":
            own = _safetensor(path)
            return read_tensor_rows(path, own, shape, first, end) if own.shape in (shape, (1, *shape)) else None
        if kind in (".pt", ".pth"):
            tensor = _tensor(path)
            batch = tuple(tensor.shape) == (1, *shape)
            if batch or tuple(tensor.shape) == shape:
                return np.array((tensor[0] if batch else tensor)[first:end].float().numpy())
    return None


def _entry(path: Path, archive: zipfile.ZipFile) -> str:
    names = [n for n in archive.namelist() if n.endswith(".npy") and not n.rpartition("/")[2].startswith(".")]
    return _one(path, {n.removesuffix(".npy"): n for n in names})


def _safetensor(path: Path) -> Tensor:
    return _one(path, tensor_headers(path).tensors)


def _tensor(path: Path) -> Any:
    """torch's own reader of tensors and plain containers, which executes nothing."""
    import torch

    try:
        str(path).encode()
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnicodeEncodeError:  # torch maps files by name, as Unicode
        with open(path, "rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        content = _one(path, {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)})
    if not isinstance(content, torch.Tensor):
        raise FeatureError(f"{path} holds a {type(content).__name__}, not a tensor")
    if content.layout is not torch.strided or content.is_meta or content.is_nested:
        kind = "a tensor without data" if content.is_meta else "a sparse or nested tensor"
        raise FeatureError(f"{path} holds {kind} ({content.layout}); save it dense, as (snippets, width)")
    if content.is_quantized or (content.is_floating_point() and str(content.dtype) not in _FLOATS):
        kind = str(content.dtype).removeprefix("torch.")
        raise FeatureError(f"{path} holds {kind}; save it as float32, float16 or bfloat16")
    return content.detach()


def _dtype(tensor: Any) -> np.dtype:
    kind = str(tensor.dtype).removeprefix("torch.")
    return np.dtype({"bfloat16": "float32", "complex32": "complex64"}.get(kind, kind))


def _one(path: Path, held: dict[str, Any]) -> Any:
    if len(held) == 1:
        return next(iter(held.values()))
    known = [name for name in CALLED if name in held]
    if len(known) == 1:
        return held[known[0]]
    raise FeatureError(f"{path} holds {len(held)} arrays ({some(list(held))}); keep one, or call it `feats`")
