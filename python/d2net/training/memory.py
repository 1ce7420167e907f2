"""Memory of a training process on the CPU."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _LARGEST = 512 << 20, 32 << 20  # bytes; glibc takes no larger second one


@cache
def keep_freed() -> bool:
    """Has glibc keep up to 512 MiB of what a step frees for the next one, in place of giving it back and having the
    kernel clear the same pages again; whether there is a glibc. What a step holds at most is the same."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return mallopt(_MMAP_THRESHOLD, _LARGEST) == 1 and mallopt(_TRIM_THRESHOLD, _KEPT) == 1
