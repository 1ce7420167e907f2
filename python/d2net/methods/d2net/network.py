"""The network of Sec. 3: per-stream temporal convolutions, embeddings x and class activations T."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.config import ModelConfig


class Output(NamedTuple):
    """T (total, C) in (0, 1), embeddings x (total, D), each stream's logits (total, S, C); all Ragged."""

    activations: d2k.Ragged
    embeddings: d2k.Ragged
    logits: d2k.Ragged


class D2Net(nn.Module):
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
        if config.init == "normal":
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                else:
                    nn.init.normal_(parameter, std=config.init_std)

    def hidden(self, features: d2k.Ragged) -> d2k.Ragged:
        """Layer 2's output z, rows (total, d), the streams one after the other; features: rows (total, d)."""
        if features.values.dim() != 2 or features.values.shape[1] != self.width:
            raise ValueError(
                f"D2Net: features must have width {self.width}, got rows of shape {tuple(features.shape[1:])}"
            )
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
