"""Tiles of temporal_conv's Triton kernels by GPU, precision and width."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton


class Tile(NamedTuple):
    """Blocks of rows, outputs and inputs, warps, and loads in flight."""

    rows: int
    out: int
    inner: int
    warps: int
    stages: int


def tile_of(arch: int, dtype: torch.dtype, mode: str, c_in: int, c_out: int) -> Tile:
    """The tile of a convolution of c_in to c_out channels a group; shared memory bounds it on sm_86, 89 and 120."""
    large = arch in (80, 90, 100, 103)
    if c_in <= 64 < c_out:  # a class layer's way back writes much more than it reads
        return Tile(64, 64 if mode == "ieee" else 128, max(16, triton.next_power_of_2(c_in)), 8, 2)
    if c_out <= 64:
        narrow = max(16, triton.next_power_of_2(c_out))
        return Tile(128, narrow, 64, 4, 3) if dtype.itemsize == 2 else Tile(64, narrow, 32, 4, 3)
    if dtype.itemsize == 2:
        if arch >= 90 and large:
            return Tile(128, 256, 64, 8, 3) if c_out > 128 else Tile(128, 128, 64, 8, 3)
        return Tile(128, 128, 32, 8, 3)
    if mode == "ieee":
        return Tile(64, 64, 16, 4, 2)
    return Tile(128, 128, 32, 8, 3) if arch >= 90 and large else Tile(128, 64, 32, 8, 2)


def weight_tile(arch: int, dtype: torch.dtype, mode: str) -> Tile:
    large = arch in (80, 90, 100, 103)
    if dtype.itemsize == 2:
        return Tile(64, 128, 128, 8, 3) if large else Tile(32, 128, 128, 8, 3)
    if mode == "ieee":
        return Tile(16, 64, 64, 8, 2)
    return Tile(32, 128, 128, 8, 3 if large else 2)
