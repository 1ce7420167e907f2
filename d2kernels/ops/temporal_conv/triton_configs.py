"""Tile shapes of temporal_conv's kernels: a table by architecture, and timing on request (D2K_AUTOTUNE=1)."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

NO_SIGN, BITS, BYTES = 0, 1, 2  # how a kernel reads or writes the activation's branch


class Config(NamedTuple):
    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group_m: int = 8
    waves: int = 0  # programs a multiprocessor, each taking tiles in turn; 0: a program a tile


# None of these has been timed on a GPU yet: they fit registers and shared memory.
_CONVOLVE = {
    (80, "half"): Config(128, 128, 32, 4, 4),
    (90, "half"): Config(128, 256, 64, 8, 3, waves=1),
    (100, "half"): Config(128, 256, 64, 8, 3, waves=1),
    (120, "half"): Config(128, 128, 32, 8, 4),
    (80, "tf32"): Config(128, 128, 32, 8, 3),
    (90, "tf32"): Config(128, 128, 32, 8, 4, waves=1),
    (100, "tf32"): Config(128, 128, 32, 8, 4, waves=1),
    (120, "tf32"): Config(128, 64, 32, 8, 3),
}
_WEIGHT = {
    (80, "half"): Config(128, 64, 32, 8, 3),
    (90, "half"): Config(128, 64, 64, 8, 4),
    (100, "half"): Config(128, 64, 64, 8, 4),
    (120, "half"): Config(128, 64, 32, 8, 3),
    (80, "tf32"): Config(64, 64, 32, 8, 3),
    (90, "tf32"): Config(128, 64, 32, 8, 4),
    (100, "tf32"): Config(128, 64, 32, 8, 4),
    (120, "tf32"): Config(64, 64, 32, 8, 2),
}
_PLAIN_WEIGHT = {"half": Config(128, 128, 64, 4, 4), "tf32": Config(128, 128, 32, 4, 4)}  # one tap a program
_IEEE = Config(64, 64, 16, 8, 2)  # fused multiply-adds: the tile only has to keep loads apart
_CLASSES = (80, 90, 100, 120)


def _power(x: int) -> int:
    return 1 << max(x - 1, 0).bit_length()


def arch_class(arch: int) -> int:
    """The table's row for a compute capability; 86 and 89 have the shared memory of 120."""
    if 80 < arch < 90:
        return 120
    return max((c for c in _CLASSES if c <= arch), default=80)


@lru_cache(maxsize=256)
def config(
    kind: str, arch: int, dtype: torch.dtype, precision: str, c_in: int, c_out: int, together: int = 1
) -> Config:
    """The shipped choice for "convolve", "weight" or "plain weight".

    By the layer alone, so that rows never depend on the batch.
    """
    what = "half" if dtype.itemsize == 2 else "tf32"
    if what == "tf32" and precision != "tf32":
        found = _IEEE
        if kind == "convolve" and (precision == "tf32x3" or arch_class(arch) == 80):
            found = found._replace(warps=4)  # eight have too few registers each, and spill
        if precision == "tf32x3":
            found = found._replace(stages=3)  # two spill on sm_120
    elif kind == "plain weight":
        found, together = _PLAIN_WEIGHT[what], 0
    else:
        found = (_CONVOLVE if kind == "convolve" else _WEIGHT)[arch_class(arch), what]
    if kind == "convolve":
        narrow = max(_power(c_out), 16)
        if narrow < found.block_n:
            # A classifier: few outputs and long sums, so shorter tiles to fill the GPU.
            found = found._replace(block_m=min(found.block_m, 64), block_n=narrow, warps=4, waves=0)
        if c_in % found.block_k and found.block_n >= 128:
            found = found._replace(block_n=found.block_n // 2)  # masks of both operands need registers too
        if c_in <= found.block_k:
            # More on its way out than in products: programs that overlap, and no more buffers than a few taps fill.
            found = found._replace(waves=0, stages=min(found.stages, 3))
        return found._replace(block_k=min(found.block_k, max(_power(c_in), 16)))
    if together == 1:
        found = found._replace(block_n=2 * found.block_n)
    # Warpgroup products have 64 rows at least.
    least = 64 if arch_class(arch) in (90, 100) and found != _IEEE else 16
    return found._replace(
        block_m=min(found.block_m, max(_power(c_out), least)), block_n=min(found.block_n, max(_power(c_in), 16))
    )


def layout_of(c_out: int, c_in: int, taps: int, groups: int, backward: bool, repacked: bool = False) -> dict[str, Any]:
    """Constants that say where the weights of one product lie: (taps, groups · c_out, c_in), of one group each.

    backward: of the way back, from c_out to c_in channels, by those weights or `repacked` (taps, groups · c_in, c_out).
    """
    across = backward and not repacked
    size = {"GROUPS": groups, "TAPS": taps, "BACKWARD": backward, "ACROSS": across}
    size |= {"W_TAP": groups * c_out * c_in, "W_GROUP": c_out * c_in}
    if backward:
        c_out, c_in = c_in, c_out
    return size | {"C_IN": c_in, "C_OUT": c_out} | (
        {"W_OUT": 1, "W_IN": c_out} if across else {"W_OUT": c_in, "W_IN": 1}
    )


def described(arch: int, c_in: int, inner: int, itemsize: int, block_k: int) -> bool:
    """Whether weight tiles come by tensor descriptor: rows of whole 16 bytes, and no tile past a group's inputs."""
    # On sm_120 each descriptor load costs a store to the stack, and there is no warpgroup product to feed.
    return 90 <= arch < 120 and c_in % block_k == 0 and inner * itemsize % 16 == 0


def plain(gap: int, taps: int, dilation: int, x: torch.Tensor) -> bool:
    """Whether x's shifted tiles are plain ones: gap rows wherever a tap leaves a sequence, rows of whole 16 bytes."""
    wide = gap >= taps // 2 * dilation
    return wide and x.stride(0) * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0


def cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "d2kernels" / "temporal_conv.json"


@cache
def _stored(path: Path) -> dict[str, Config]:
    try:
        found = json.loads(path.read_text())
        return {key: Config(*map(int, value)) for key, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"temporal_conv: {path} is no cache of tile shapes and is ignored: {error}", stacklevel=2)
        return {}


def _save(path: Path, key: str, chosen: Config) -> None:
    known = _stored(path)
    known[key] = chosen
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({k: list(v) for k, v in known.items()}, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(f"temporal_conv: cannot write {path}: {error}", stacklevel=2)


def candidates(shipped: Config) -> list[Config]:
    """The shipped choice first, then its neighbours."""
    found = [shipped]
    for stages in (shipped.stages - 1, shipped.stages + 1):
        found.append(shipped._replace(stages=max(stages, 2)))
    found.append(shipped._replace(warps=4 if shipped.warps == 8 else 8))
    for m, n in ((1, 2), (2, 1)):
        found.append(shipped._replace(block_m=max(shipped.block_m // m, 16), block_n=max(shipped.block_n // n, 16)))
    found.append(shipped._replace(waves=0 if shipped.waves else 1))
    if shipped.waves and shipped.warps == 8:
        # Two programs a multiprocessor, one of which multiplies while the other finishes a tile.
        found.append(shipped._replace(block_n=max(shipped.block_n // 2, 16), warps=4, stages=3, waves=2))
    return list(dict.fromkeys(found))


def choose(key: str, shipped: Config, tuning: bool, time: Callable[[Config], float]) -> Config:
    """The choice stored under `key`; with D2K_AUTOTUNE=1 the fastest candidate, timed once and stored; else shipped."""
    if os.environ.get("D2K_AUTOTUNE") != "1":
        return shipped
    path = cache_file()
    if key in (known := _stored(path)):
        return known[key]
    if not tuning:
        return shipped
    best = min(candidates(shipped), key=time)
    _save(path, key, best)
    return best
