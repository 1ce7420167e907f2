"""Variables of the environment that are read at every call, so that a change takes effect at once."""

from __future__ import annotations

import os
from typing import Any

# What os.environ holds, encoded: a look at it costs a fifth of os.environ.get, which no op's call can afford.
_HELD: Any = getattr(os.environ, "_data", None)


class Variable:
    """One variable, by name."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str):
        self.name = name
        self._key = os.environ.encodekey(name)

    def value(self) -> str | None:
        """Its text now, or None where it is not set or empty."""
        if _HELD is None:
            return os.environ.get(self.name) or None
        held = _HELD.get(self._key)
        return os.environ.decodevalue(held) if held else None
