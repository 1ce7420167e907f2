"""Backbones by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2net.video.backbones.base import Backbone as Backbone
from d2net.video.backbones.base import Spec as Spec


def make_backbone(
    name: str, *, weights: Sequence[str | Path] = (), device: str = "auto", batch: int | None = None, **changes: Any
) -> Backbone:
    """The backbone of that name.

    Args:
        weights: files of state dicts, for those that need them.
        batch: snippets at once. changes: fields of its Spec, and `short` and `crop` of its size.

    Raises:
        ValueError: unknown, weights too many or too few, or fields that do not fit.
    """
    if batch is not None and not 1 <= batch <= 65_536:
        raise ValueError(f"batch must be 1 to 65536, got {batch}")
    if name != "motion":
        raise ValueError(f"backbone {name!r} is unknown; use motion")
    if weights:
        raise ValueError("backbone motion takes no weights; leave --weights out")
    from d2net.video.backbones.motion import Motion

    made = Motion(**changes)
    if batch is not None:
        made.batch = batch
    return made
