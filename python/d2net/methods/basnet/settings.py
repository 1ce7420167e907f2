"""BaS-Net's fields and defaults; docs/methods.md says where each comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from d2net.section import Section


class BasNetConfig(Section):
    """Of method basnet: L = α L_base + β L_supp + γ L_norm."""

    base_weight: float = Field(1.0, ge=0, description="α")
    suppression_weight: float = Field(1.0, ge=0, description="β")
    norm_weight: float = Field(1e-4, ge=0, description="γ")
    filter_width: int = Field(512, ge=1, le=65_536, description="channels of the filtering module's hidden layer")
    activation: Literal["sigmoid", "softmax"] = Field(
        "softmax", description="as wtalc.activation; the softmax is over the classes and the background"
    )


DEFAULTS: dict[str, Any] = {
    "model.kernel_size": 3,
    "model.dilation": 1,
    "model.classifier_kernel_size": 1,
    "model.classifier_dilation": 1,
    "model.residual": False,
    "model.negative_slope": 0.01,
    "model.dropout": 0.7,
    "model.init": "pytorch",
    "train.batch_size": 16,
    "localize.reweight": False,
    "localize.class_source": "activations",
    "localize.class_threshold": 0.25,
    "localize.thresholds": "0:0.225:0.025",
    "localize.relative": "minmax",
    "localize.min_length": 1,
    "localize.min_score": None,
    "localize.iou_threshold": 0.7,
    "localize.keep_ratio": None,
    "localize.upsample": 24,
    "localize.smoothing": 1,
    "localize.class_score_weight": 0.2,
}

# Chosen on held-out training people; docs/methods.md says how.
PRESETS: dict[str | None, dict[str, Any]] = {
    "hapt": {
        "model.classifier_kernel_size": 3,
        "train.batch_size": 20,
        "train.decay_share": 0.0,
        "loss.pool_divisor": 4,
    }
}
