"""Recipes set every choice; presets set what depends on the data, for each recipe."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "release": {},  # the fields' defaults
    "paper": {
        "model.residual": False,
        "model.classifier_kernel_size": 3,
        "model.dropout": 0.0,
        "model.init": "pytorch",
        "loss.min_snippets": 1,
        "loss.inclusive": False,
        "loss.normalize_embeddings": False,
        "loss.cosine": "torch",
        "loss.pairs": "all",
        "loss.clamp": 0.0,
        "loss.normalization": "paper",
        "loss.reference_source": "embedding",
        "loss.ds_attention": "all",
        "loss.ds_normalization": "joint",
        "loss.ds_floor": 0.0,
        "loss.ds_skip_one_sided": False,
        "loss.dv_relative_floor": None,
        "loss.dv_normalize_rows": False,
        "loss.dv_label_normalization": "batch",
        "loss.dv_atol": None,
        "loss.ds_weight": 0.2,
        "loss.dv_weight": 0.2,
        "loss.denoising_start": 0,
        "loss.denoising_every": 1,
        "train.batch_size": 10,
        "train.sampling": "epoch",
        "train.max_snippets": None,
        "train.weight_decay": 0.005,
        "localize.class_source": "activations",
        "localize.class_pool_rounding": "ceil",
        "localize.thresholds": "0.025:0.5:0.025",
        "localize.min_length": 1,
        "localize.outer": "pooled",
        "localize.min_score": None,
        "localize.iou_threshold": 0.5,
        "localize.keep_scope": "sequence",
    },
}

# What the data do not state themselves, nor the user: api.train asks in this order.
TIMINGS: dict[str, dict[str, float]] = {
    "thumos14": {"fps": 25.0, "stride": 16.0, "snippet_frames": 16.0},
    "activitynet12": {"fps": 25.0, "stride": 16.0, "snippet_frames": 16.0},
    "hapt": {"snippet_seconds": 0.32},
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "thumos14": {
        "any": {
            "model.streams": 2,
            "train.subsets": ["validation"],
            "localize.subsets": ["test"],
            "evaluate.iou": "0.1:0.7:0.1",
        },
        "release": {},
        "paper": {},
    },
    "activitynet12": {
        "any": {
            "model.streams": 2,
            "model.kernel_size": 5,
            "model.dilation": 2,
            "model.classifier_kernel_size": 5,
            "model.classifier_dilation": 2,
            "train.subsets": ["training"],
            "localize.subsets": ["validation"],
            "evaluate.iou": "0.5:0.95:0.05",
        },
        "release": {
            "loss.pool_divisor": 4,
            "loss.background_threshold": 0.8,
            "loss.ds_background_threshold": 0.3,
            "train.min_rows": 6,
            "localize.foreground_rescale": True,
            "localize.class_pool_divisor": 4,
            "localize.class_rule": "third_best",
        },
        "paper": {"loss.ds_weight": 1e-3, "loss.dv_weight": 1e-3},
    },
    "hapt": {
        "any": {
            "train.subsets": ["train"],
            "localize.subsets": ["test"],
            # Chosen on held-out training subjects; docs/features.md says how.
            "model.classifier_kernel_size": 5,
            "model.classifier_dilation": 3,
            "loss.pool_divisor": 7,
            "loss.ds_weight": 0.003,
            "loss.dv_weight": 0.003,
            "loss.denoising_start": 500,
            "loss.denoising_warmup": 500,
            "train.iterations": 2000,
            "train.learning_rate": 3e-3,
            "train.decay_share": 0.5,
            "localize.reweight": False,
            "localize.thresholds": "0.025:0.975:0.025",
            "localize.smoothing": 3,
        },
        "release": {},
        "paper": {},
    },
}
