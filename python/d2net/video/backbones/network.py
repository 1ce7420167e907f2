"""What backbones that are torch networks share: device, normalisation, weights out of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2net.data.files import DataError, check_regular, reading
from d2net.video.backbones.base import Backbone

FLOW_RANGE = 20.0  # pixels that become 1


class WeightsError(DataError):
    """Weights that do not fit; names the file."""


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A file's state dict, by torch's reader that executes nothing, or safetensors; on the CPU.

    Raises:
        WeightsError: not a state dict.
    """
    with reading(path, "a state dict", WeightsError):
        check_regular(path, WeightsError)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model", "model_state_dict"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()) or not state:
            raise WeightsError(f"{path} holds no state dict, a dictionary of tensors; save model.state_dict()")
        return state


def load_into(network: torch.nn.Module, path: Path, head: Callable[[str], bool]) -> str:
    """Loads a state dict key for key, but for the head's keys where the network has no head; returns its SHA-256.

    Raises:
        WeightsError: keys are missing or left over, or of other shapes; values are not finite.
    """
    state = read_state(path)
    own = network.state_dict()
    # Counters of batches, which old checkpoints lack, change nothing here.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own and not head(k)]
    if missing or extra:
        lacks = f"lacks {missing[0]!r} and {len(missing) - 1} more" if missing else "has all"
        more = f", and holds {extra[0]!r} and {len(extra) - 1} more that it does not know" if extra else ""
        raise WeightsError(f"{path}: the network needs other weights: it {lacks}{more}")
    odd = [k for k in own if k in state and own[k].shape != state[k].shape]
    if odd:
        raise WeightsError(f"{path}: {odd[0]} is {tuple(state[odd[0]].shape)}, not {tuple(own[odd[0]].shape)}")
    if bad := [k for k, x in state.items() if not x.isfinite().all()]:
        raise WeightsError(f"{path}: {bad[0]} is not finite; get it again")
    network.load_state_dict({k: x for k, x in state.items() if k in own}, strict=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NetworkBackbone(Backbone):
    """Calls `forward` with normalised tensors on the device.

    weights: SHA-256 of each file of weights.
    """

    batch = 8
    weights: tuple[str, ...] = ()

    def __init__(self, device: str = "auto"):
        from d2net.api import pick_device

        self.device = pick_device(device)

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({"weights": list(self.weights)} if self.weights else {})

    def forward(self, frames: torch.Tensor, flow: torch.Tensor | None) -> torch.Tensor:
        """frames (n, 3, T, h, w) float32, normalised; flow (n, 2, T, h, w) in [-1, 1] -> (n, d)."""
        raise NotImplementedError

    def __call__(self, frames: np.ndarray, flow: np.ndarray | None) -> np.ndarray:
        # No timing decides which kernel runs: the same videos give the same bytes.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            x = torch.from_numpy(frames).to(self.device).float() / 255
            shape = (1, 3, 1, 1, 1)
            mean, std = (torch.tensor(v, device=self.device).view(shape) for v in (self.spec.mean, self.spec.std))
            motion = None
            if flow is not None:
                motion = torch.from_numpy(flow).to(self.device).clamp(-FLOW_RANGE, FLOW_RANGE) / FLOW_RANGE
            found = self.forward((x - mean) / std, motion)
            return found.float().cpu().numpy()
