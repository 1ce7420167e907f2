"""W-TALC's module: a layer on the features of all streams together, and class activations A."""

from __future__ import annotations

import torch

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.config import Config
from d2net.methods.base import Network, Output, check_features, initialise
from d2net.methods.pooling import activated


class Wtalc(Network):
    """X = dropout(ReLU(W_f [x^r; x^o] + b_f)) and A = W_a X + b_a.

    Args:
        width: features per snippet; classes: C; streams: of the data, which are read as one.
        config: model's fields say kernels, slope, residual and dropout; the paper's layers have kernel 1.
    """

    def __init__(self, width: int, classes: int, streams: int, config: Config):
        super().__init__()
        self.width, self.classes, self.streams = width, classes, 1
        self.activation, model = config.wtalc.activation, config.model
        self.hidden = TemporalConv1d(
            width,
            width,
            model.kernel_size,
            dilation=model.dilation,
            negative_slope=model.negative_slope,
            residual=model.residual,
            dropout=model.dropout,
            dtype=torch.float32,
        )
        self.classifier = TemporalConv1d(
            width, classes, model.classifier_kernel_size, dilation=model.classifier_dilation, dtype=torch.float32
        )
        initialise(self, model)

    def features_and_logits(self, features: d2k.Ragged) -> tuple[d2k.Ragged, d2k.Ragged]:
        """X (total, width) and A (total, C)."""
        check_features(self, features)
        x = self.hidden(features)
        return x, self.classifier(x)

    def forward(self, features: d2k.Ragged) -> Output:
        x, logits = self.features_and_logits(features)
        t = activated(logits, self.classes, self.activation)
        by_stream = logits.with_values(logits.values[:, None])
        return Output(t, x, by_stream, torch.ones_like(t.values[:, 0]))
