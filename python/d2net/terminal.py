"""Text for a terminal."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # part of words in Persian and of emoji


def printable(text: str) -> str:
    r"""Control, direction and other invisible characters as escapes: names out of files must not act on a terminal."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )
