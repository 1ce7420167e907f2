"""torch.compile of another peer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from harness import Side, Skipped


@cache
def missing(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler on the CPU"
    return None


def peer(
    device: torch.device,
    function: Callable[..., Any],
    side: Callable[[str, Callable[..., Any]], Side],
    name: str = "torch.compile, padded",
) -> Side | Skipped:
    """side(name, function compiled for fixed shapes), or why it cannot run here."""
    if reason := missing(device.type):
        return Skipped(name, reason)
    torch._dynamo.reset()
    return side(name, torch.compile(function, dynamic=False))
