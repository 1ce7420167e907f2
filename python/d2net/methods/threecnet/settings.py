"""3C-Net's fields and defaults; docs/methods.md says where each comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from d2net.section import Section


class ThreeCNetConfig(Section):
    """Of method 3cnet: L = L_cls + α L_center + β L_count."""

    center_weight: float = Field(1e-3, ge=0, description="α")
    center_rate: float = Field(0.1, ge=0, le=1, description="η, by which the centers follow the features")
    count_weight: float = Field(1.0, ge=0, description="β")
    count_absent_weight: float = Field(1e-3, ge=0, description="of the counts of classes that a video has not")
    count_every: int = Field(2, ge=1, description="L_count enters at iterations divisible by this")
    counts: Literal["none", "field", "segments"] = Field(
        "field",
        description="of a class in a video: the annotations' field `counts` where there is one, or the segments",
    )
    activation: Literal["sigmoid", "softmax"] = Field("sigmoid", description="as wtalc.activation")


DEFAULTS: dict[str, Any] = {
    "model.kernel_size": 1,
    "model.dilation": 1,
    "model.classifier_kernel_size": 1,
    "model.classifier_dilation": 1,
    "model.residual": False,
    "model.negative_slope": 0.0,
    "model.dropout": 0.7,
    "model.init": "xavier",
    "train.batch_size": 32,
    "localize.reweight": False,
    "localize.class_source": "activations",
    "localize.thresholds": 0.5,
    "localize.relative": "minmax",
    "localize.min_score": None,
    "localize.keep_ratio": None,
    "localize.smoothing": 1,
    "localize.class_score_weight": 1.0,
}

# Chosen on held-out training people; docs/methods.md says how.
PRESETS: dict[str | None, dict[str, Any]] = {
    "hapt": {
        "model.classifier_kernel_size": 3,
        "train.batch_size": 20,
        "train.decay_share": 0.0,
        "loss.pool_divisor": 4,
        "localize.thresholds": "0.025:0.975:0.025",
        "localize.relative": None,
        "localize.min_score": -0.4,
        "localize.keep_ratio": 0.1,
        "localize.smoothing": 3,
        "localize.class_score_weight": 0.7,
    }
}
