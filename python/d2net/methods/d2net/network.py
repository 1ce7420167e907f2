"""The network of Sec. 3: per-stream temporal convolutions, embeddings x and class activations T."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.methods.base import Network, Output, check_features, initialise
from d2net.sections import ModelConfig


class D2Net(Network):
    """D2-Net on ragged batches of snippet features.

    Args:
        width: features per snippet, d; streams: S parallel streams of width d / S each.
        classes: C.
        config: kernel sizes, dilations, residual connections, dropout, initialisation.

    Buffers: ``reference`` (d / S,), x_ref of Eq. 8.
    """

    def __init__(self, width: int, classes: int, streams: int, config: ModelConfig):
        super().__init__()
        if streams < 1 or width % streams:
            raise ValueError(f"D2Net: {width} features cannot be split into {streams} streams of equal width")
        self.width, self.classes, self.streams, self.config = width, classes, streams, config
        hidden = dict(
            kernel_size=config.kernel_size,
            dilation=config.dilation,
            groups=streams,
            negative_slope=config.negative_slope,
            residual=config.residual,
            dtype=torch.float32,  # as the features come, whatever torch's default is
        )
        self.conv1 = TemporalConv1d(width, width, **hidden)
        self.conv2 = TemporalConv1d(width, width, **hidden, dropout=config.dropout)
        self.classifier = TemporalConv1d(
            width,
            streams * classes,
            kernel_size=config.classifier_kernel_size,
            dilation=config.classifier_dilation,
            groups=streams,
            dtype=torch.float32,
        )
        self.register_buffer("reference", torch.zeros(width // streams, dtype=torch.float32))
        initialise(self, config)

    def hidden(self, features: d2k.Ragged) -> d2k.Ragged:
        """Layer 2's output z, rows (total, d), the streams one after the other; features: rows (total, d)."""
        check_features(self, features)
        return self.conv2(self.conv1(features))

    def forward(self, features: d2k.Ragged) -> Output:
        """features: rows (total, d). Embeddings and activations are means over the streams."""
        z = self.hidden(features)
        logits = self.classifier(z).values.unflatten(1, (self.streams, self.classes))
        activations = torch.sigmoid(logits).mean(1)
        x = z.values.unflatten(1, (self.streams, -1)).mean(1)
        # Gap rows must stay zero, and the sigmoid of 0 is not.
        return Output(z.with_values(activations).zero_gaps(), z.with_values(x), z.with_values(logits))

    def foreground(self, embeddings: d2k.Ragged) -> Tensor:
        """λ' (total,) of Eq. 8."""
        return d2k.foreground_score(embeddings, self.reference).values
