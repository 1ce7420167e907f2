"""How float32 is multiplied, where the user says so: the environment variable D2K_FLOAT32."""

from __future__ import annotations

from d2kernels._environment import Variable

WAYS = ("ieee", "tf32", "tf32x3", "winograd")
_ASKED = Variable("D2K_FLOAT32")


def float32() -> str | None:
    """The way asked for, or None: ieee, tf32 and tf32x3 are a GPU's, winograd is a CPU's."""
    asked = _ASKED.value()
    if asked is not None and asked not in WAYS:
        raise ValueError(f"D2K_FLOAT32 must be one of {', '.join(WAYS)}, got {asked!r}")
    return asked
