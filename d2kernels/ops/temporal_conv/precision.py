"""How float32 is multiplied, where the user says so: the environment variable D2K_FLOAT32."""

from __future__ import annotations

import os

WAYS = ("ieee", "tf32", "tf32x3", "winograd")


def float32() -> str | None:
    """The way asked for, or None: ieee, tf32 and tf32x3 are a GPU's, winograd is a CPU's."""
    asked = os.environ.get("D2K_FLOAT32") or None
    if asked is not None and asked not in WAYS:
        raise ValueError(f"D2K_FLOAT32 must be one of {', '.join(WAYS)}, got {asked!r}")
    return asked
