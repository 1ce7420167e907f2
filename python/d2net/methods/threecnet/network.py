"""3C-Net's network: a T-CAM of each stream, and their sum weighted by class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.config import Config
from d2net.methods.base import Network, Output, check_features, initialise
from d2net.methods.pooling import activated


class Maps(NamedTuple):
    """X (total, S · D) of the streams one after the other, their T-CAMs (total, S, C), and the final one (total, C)."""

    features: d2k.Ragged
    by_stream: d2k.Ragged
    final: d2k.Ragged


class ThreeCNet(Network):
    """Two layers and a classifier for each stream, C_s, and C_F = Σ_s w_s C_s.

    Args:
        width: features per snippet, d; classes: C; streams: S parallel streams of width d / S each.
        config: model's fields say kernels, slope, residual and dropout; the paper's layers have kernel 1.

    Buffers: ``centers`` (S · C · d / S,) of each stream's features in each class.
    """

    centers: torch.Tensor

    def __init__(self, width: int, classes: int, streams: int, config: Config):
        super().__init__()
        if streams < 1 or width % streams:
            raise ValueError(f"3cnet: {width} features cannot be split into {streams} streams of equal width")
        self.width, self.classes, self.streams = width, classes, streams
        self.activation, model = config.threecnet.activation, config.model
        conv = dict(
            kernel_size=model.kernel_size,
            dilation=model.dilation,
            groups=streams,
            negative_slope=model.negative_slope,
            residual=model.residual,
            dtype=torch.float32,
        )
        self.conv1 = TemporalConv1d(width, width, **conv)
        self.conv2 = TemporalConv1d(width, width, **conv, dropout=model.dropout)
        self.classifier = TemporalConv1d(
            width,
            streams * classes,
            model.classifier_kernel_size,
            dilation=model.classifier_dilation,
            groups=streams,
            dtype=torch.float32,
        )
        initialise(self, model)
        self.stream_weights = nn.Parameter(torch.ones(streams, classes, dtype=torch.float32))
        self.register_buffer("centers", torch.randn(classes * width, dtype=torch.float32))

    def maps(self, features: d2k.Ragged) -> Maps:
        """Features and T-CAMs."""
        check_features(self, features)
        x = self.conv2(self.conv1(features))
        by_stream = self.classifier(x).values.unflatten(1, (self.streams, self.classes))
        final = (by_stream * self.stream_weights).sum(1)
        return Maps(x, x.with_values(by_stream), x.with_values(final))

    def forward(self, features: d2k.Ragged) -> Output:
        x, by_stream, final = self.maps(features)
        t = activated(final, self.classes, self.activation)
        return Output(t, x, by_stream, torch.ones_like(t.values[:, 0]))
