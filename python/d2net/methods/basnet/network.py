"""BaS-Net's modules: one network of class activations for two branches, and the filter before one of them."""

from __future__ import annotations

import torch
from torch import Tensor

import d2kernels as d2k
from d2kernels.nn import TemporalConv1d
from d2net.config import Config
from d2net.methods.base import Network, Output, check_features, initialise
from d2net.methods.pooling import activated


class BasNet(Network):
    """A = f_conv(X), with an activation of the background last, and W = sigmoid of the filtering module.

    What is localized is the suppression branch, f_conv(W X); λ' is W.

    Args:
        width: features per snippet; classes: C; streams: of the data, which are read as one.
        config: model's fields say kernels, slope, residual and dropout of f_conv.
    """

    def __init__(self, width: int, classes: int, streams: int, config: Config):
        super().__init__()
        self.width, self.classes, self.streams = width, classes, 1
        self.activation, model = config.basnet.activation, config.model
        conv = dict(
            kernel_size=model.kernel_size,
            dilation=model.dilation,
            negative_slope=model.negative_slope,
            residual=model.residual,
            dtype=torch.float32,
        )
        self.conv1 = TemporalConv1d(width, width, **conv)
        self.conv2 = TemporalConv1d(width, width, **conv, dropout=model.dropout)
        self.classifier = TemporalConv1d(
            width,
            classes + 1,
            model.classifier_kernel_size,
            dilation=model.classifier_dilation,
            bias=False,
            dtype=torch.float32,
        )
        filter_width = config.basnet.filter_width
        self.filter1 = TemporalConv1d(width, filter_width, 1, negative_slope=model.negative_slope, dtype=torch.float32)
        self.filter2 = TemporalConv1d(filter_width, 1, 1, dtype=torch.float32)
        initialise(self, model)

    def weights(self, features: d2k.Ragged) -> Tensor:
        """W (total, 1) in (0, 1)."""
        check_features(self, features)
        return torch.sigmoid(self.filter2(self.filter1(features)).values)

    def embedded(self, features: d2k.Ragged) -> d2k.Ragged:
        """Layer 2's output (total, width)."""
        return self.conv2(self.conv1(features))

    def branches(self, features: d2k.Ragged) -> tuple[d2k.Ragged, d2k.Ragged, Tensor]:
        """Both branches' activations (total, C + 1), of X and of W X, and W (total, 1)."""
        weights = self.weights(features)
        base, suppressed = (self.classifier(self.embedded(x)) for x in (features, suppress(features, weights)))
        return base, suppressed, weights

    def forward(self, features: d2k.Ragged) -> Output:
        weights = self.weights(features)
        x = self.embedded(suppress(features, weights))
        logits = self.classifier(x)
        t = activated(logits, self.classes, self.activation)
        by_stream = logits.with_values(logits.values[:, None, : self.classes])
        return Output(t, x, by_stream, weights[:, 0])


def suppress(features: d2k.Ragged, weights: Tensor) -> d2k.Ragged:
    """W X."""
    return features * weights.to(features.dtype)
