"""The one thing that every choice of a backend needs to know of the checks; imports nothing."""

from __future__ import annotations


class Later(Exception):
    """A kernel has not been checked and a check cannot start now; asked again at the next call."""
