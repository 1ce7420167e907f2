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
        name: motion, i3d, torchvision:NAME, timm:NAME, transformers:FOLDER, or module:function.
        weights: files of state dicts, for those that need them.
        device: auto, cpu, cuda or cuda:N.
        batch: snippets at once.
        changes: fields of its Spec, and `short` and `crop` of its size, in pixels.

    Returns:
        what `extract` takes: frames to features, with the frame rate, stride and snippet frames that it reads.

    Raises:
        ValueError: unknown, weights too many or too few, or fields that do not fit.
    """
    if batch is not None and not 1 <= batch <= 65_536:
        raise ValueError(f"batch must be 1 to 65536, got {batch}")
    made = _make(name, [Path(w) for w in weights], device, changes)
    if batch is not None:
        made.batch = batch
    return made


def is_code(name: str) -> bool:
    """Whether making the backbone imports a module or opens a folder that the name gives."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library not in ("torchvision", "timm")


def _make(name: str, weights: list[Path], device: str, changes: dict[str, Any]) -> Backbone:
    if name == "motion":
        from d2net.video.backbones.motion import Motion

        if weights:
            raise ValueError("backbone motion takes no weights; leave --weights out")
        return Motion(**changes)
    if name == "i3d":
        from d2net.video.backbones.i3d import I3d

        return I3d(weights, device, **changes)
    library, colon, model = name.partition(":")
    if not colon or not library or not model:
        raise ValueError(
            f"backbone {name!r} is unknown; use motion, i3d, torchvision:NAME, timm:NAME, transformers:FOLDER or "
            "module:function"
        )
    if library in ("torchvision", "timm", "transformers"):
        from d2net.video.backbones.named import Named

        return Named(library, model, weights, device, **changes)
    from d2net.video.backbones.custom import Custom

    if weights:
        raise ValueError(f"backbone {name}: a function loads its own weights; leave --weights out")
    return Custom(library, model, device, **changes)
