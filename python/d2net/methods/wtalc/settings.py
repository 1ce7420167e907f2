"""W-TALC's fields and defaults; docs/methods.md says where each comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from d2net.section import Section


class WtalcConfig(Section):
    """Of method wtalc: L = λ L_MIL + (1 - λ) L_CAS."""

    mil_weight: float = Field(0.5, ge=0, le=1, description="λ")
    margin: float = Field(0.5, ge=0, description="δ of the co-activity similarity's hinge")
    pairs: int = Field(3, ge=0, description="videos 2i and 2i + 1 of a batch share a class, for i below this")
    activation: Literal["sigmoid", "softmax"] = Field(
        "sigmoid", description="what makes T of the class activations, in (0, 1): of each alone, or over the classes"
    )


DEFAULTS: dict[str, Any] = {
    "model.kernel_size": 1,
    "model.dilation": 1,
    "model.classifier_kernel_size": 1,
    "model.classifier_dilation": 1,
    "model.residual": False,
    "model.negative_slope": 0.0,
    "model.dropout": 0.7,
    "model.init": "xavier",
    "train.batch_size": 10,
    "localize.reweight": False,
    "localize.class_source": "activations",
    "localize.thresholds": 0.5,
    "localize.relative": "minmax",
    "localize.min_score": None,
    "localize.keep_ratio": None,
    "localize.smoothing": 1,
    "localize.class_score_weight": 0.7,
}

# Chosen on held-out training people; docs/methods.md says how.
PRESETS: dict[str | None, dict[str, Any]] = {
    "hapt": {
        "wtalc.activation": "softmax",
        "model.classifier_kernel_size": 3,
        "train.batch_size": 20,
        "train.decay_share": 0.0,
        "loss.pool_divisor": 4,
        "localize.thresholds": "0.025:0.975:0.025",
        "localize.relative": None,
        "localize.min_score": -0.4,
        "localize.keep_ratio": 0.1,
        "localize.smoothing": 3,
        "localize.class_score_weight": 0.2,
    }
}
