"""A function of the user's as a backbone."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np
import torch

from d2net.video.backbones.base import Spec, changed
from d2net.video.backbones.network import NetworkBackbone

SETTINGS = ("fps", "stride", "snippet_frames", "short", "crop", "flow", "mean", "std")


class Custom(NetworkBackbone):
    """`module:function`, called on the device with normalised frames (n, 3, T, h, w), and flow (n, 2, T, h, w) if it
    declares a method of flow; it returns (n, d).

    Attributes of the function named fps, stride, snippet_frames, short, crop, flow, mean and std declare what it reads;
    the rest is as for i3d. A module (torch.nn.Module) is moved to the device and set to eval.

    Raises:
        ValueError: no such module or function, or what it returns of an empty picture is not (n, d).
    """

    def __init__(self, module: str, function: str, device: str = "auto", **changes: Any):
        super().__init__(device)
        self.name = f"{module}:{function}"
        self.function = self._found(module, function)
        declared = {k: getattr(self.function, k) for k in SETTINGS if getattr(self.function, k, None) is not None}
        self.spec = changed(Spec(), declared | changes)
        if isinstance(self.function, torch.nn.Module):
            self.function = self.function.to(self.device).eval()
        side = self.spec.size.crop or self.spec.size.short
        shape = (1, 3, self.spec.snippet_frames, side, side)
        flow = np.zeros((1, 2, *shape[2:]), np.float32) if self.spec.flow else None
        self.streams = (("features", self(np.zeros(shape, np.uint8), flow).shape[1]),)

    def _found(self, module: str, function: str) -> Any:
        sys.path.insert(0, os.getcwd())  # as python -m does
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0] and error.name != module:
                raise
            raise ValueError(f"backbone {self.name}: there is no module {module} here or installed") from error
        finally:
            sys.path.pop(0)
        for part in function.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise ValueError(f"backbone {self.name}: {module} has no function {function}")
        return found

    def forward(self, frames: torch.Tensor, flow: torch.Tensor | None) -> torch.Tensor:
        made = self.function(frames) if flow is None else self.function(frames, flow)
        found = torch.as_tensor(made)
        if found.ndim != 2 or len(found) != len(frames) or not found.shape[1] or not found.is_floating_point():
            raise ValueError(
                f"backbone {self.name}: it must return floats ({len(frames)}, d) of frames {tuple(frames.shape)}, got "
                f"{found.dtype} {tuple(found.shape)}"
            )
        return found
