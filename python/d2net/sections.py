"""The sections of the configuration that every method has: a field, its default, its limits and what it is."""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from d2net.evaluation.matching import parse_iou
from d2net.ranges import parse_values
from d2net.section import Section


class ModelConfig(Section):
    """The network of Sec. 3: two temporal convolutions and a classifier, one group of channels per stream."""

    streams: int | None = Field(None, ge=1, le=1024, description="of equal width; None: as the annotations say, else 1")
    kernel_size: int = Field(3, ge=1, le=1025, description="of layers 1 and 2, odd")
    dilation: int = Field(1, ge=1, le=65_536, description="of layers 1 and 2, in snippets")
    classifier_kernel_size: int = Field(1, ge=1, le=1025, description="of the classifier, odd")
    classifier_dilation: int = Field(1, ge=1, le=65_536, description="in snippets")
    residual: bool = Field(True, description="layers 1 and 2 add their input")
    negative_slope: float = Field(0.2, ge=0, le=1, description="of the LeakyReLU after layers 1 and 2")
    dropout: float = Field(0.7, ge=0, lt=1, description="on layer 2's output while training")
    init: Literal["normal", "pytorch", "xavier"] = Field(
        "normal", description="of weights; pytorch: as nn.Conv1d; biases of the others are 0"
    )
    init_std: float = Field(0.01, gt=0, description="of init = normal")

    @property
    def gap(self) -> int:
        """Zero rows between sequences that the widest convolution reaches over, on one side."""
        reach = self.dilation * (self.kernel_size // 2)
        return max(reach, self.classifier_dilation * (self.classifier_kernel_size // 2))

    @model_validator(mode="after")
    def _odd(self) -> ModelConfig:
        for name in ("kernel_size", "classifier_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd to keep a sequence's length, got {getattr(self, name)}")
        return self


class LossConfig(Section):
    """Eqs. 1 to 11 and their alternatives."""

    classification: Literal["CE", "F", "Dis"] = Field(
        "Dis", description="Dis: Eq. 4; F: focal loss, its pair weights 0; CE: cross-entropy, beta 0 too"
    )
    pool_divisor: int = Field(8, ge=1, description="k of top-k pooling is s / pool_divisor (Sec. 3.1)")
    pool_rounding: Literal["ceil", "floor"] = Field("ceil", description="of that k")
    min_snippets: int = Field(5, ge=1, description="shorter videos are left out of every loss")
    foreground_threshold: float = Field(0.5, description="τ of λ for x_fg (Eq. 2)")
    background_threshold: float = Field(0.5, description="τ of 1 - λ for x_bg (Eq. 2)")
    inclusive: bool = Field(True, description="attention >= threshold, else strictly above (Eq. 2)")
    normalize_embeddings: bool = Field(True, description="x_fg, x_bg are weighted means, else sums (Eq. 2)")
    cosine: Literal["torch", "release"] = Field(
        "release", description="of Eq. 3; release: x·y / √((x·x + 1e-12)(y·y + 1e-12)), torch: cosine_similarity's"
    )
    pairs: Literal["all", "random"] = Field(
        "random", description="of Eq. 3; all: means over the batch's other videos, random: one partner each"
    )
    clamp: float = Field(1e-3, ge=0, lt=0.5, description="p is kept within [clamp, 1 - clamp] (Eqs. 4, 10)")
    normalization: Literal["paper", "release"] = Field(
        "release",
        description="of Eq. 4; paper: sum over classes, mean over videos; release: positives x C, mean over entries",
    )
    gamma: float = Field(0.01, ge=0, description="γ, of the weights within foregrounds and backgrounds (Eq. 3)")
    beta: float = Field(2.0, ge=0, description="β, the focusing exponent (Eq. 4)")
    reference_momentum: float = Field(0.9, ge=0, le=1, description="share of x_ref that stays each iteration (Eq. 8)")
    reference_source: Literal["embedding", "lowest"] = Field(
        "lowest", description="x_ref follows x_bg, or each video's snippet of lowest attention (Eq. 8)"
    )
    denoising: Literal["none", "snippet", "video", "both"] = Field("both", description="terms of L_D (Eq. 11)")
    denoising_kind: Literal["pDMI", "DMI", "L1", "BCE"] = Field(
        "pDMI", description="pDMI: Eq. 7; DMI: Eq. 5; L1 or BCE of λ against λ' in place of L_DS, without L_DV"
    )
    ds_foreground_threshold: float = Field(0.5, description="pseudo-foreground is λ' above this (Eq. 9)")
    ds_background_threshold: float = Field(0.5, description="pseudo-background is λ' below this (Eq. 9)")
    ds_attention: Literal["labels", "all"] = Field(
        "labels", description="classes whose maximum is a pseudo-foreground snippet's attention (Eq. 9)"
    )
    ds_normalization: Literal["joint", "side"] = Field(
        "side", description="of Y₁ (Eq. 9); joint: by both sides' snippets, side: each side by its own"
    )
    ds_floor: float = Field(1e-10, ge=0, description="entries of the 2 x 2 joint are at least this (Eq. 9)")
    ds_skip_one_sided: bool = Field(True, description="one-sided videos leave L_DS's mean, else count as 0")
    ds_polarity: Literal["any", "forward"] = Field(
        "any", description="forward: L_DS skips videos whose pseudo-foreground has less attention than the background"
    )
    ds_rtol: float = Field(1e-6, gt=0, lt=1, description="caps the 2 x 2 condition number at 1 / ds_rtol (Eq. 7)")
    dv_relative_floor: float | None = Field(0.2, ge=0, lt=1, description="p below this share of its top is 0 (Eq. 10)")
    dv_normalize_rows: bool = Field(True, description="each video's p is divided by its sum (Eq. 10)")
    dv_label_normalization: Literal["batch", "class"] = Field(
        "class", description="Y₂ is divided by the videos of the batch, or each class by its own (Eq. 10)"
    )
    dv_atol: float | None = Field(1e-5, ge=0, description="smaller singular values do not count (Eq. 7)")
    ds_weight: float = Field(0.1, ge=0, description="α of L_DS (Eqs. 1, 11)")
    dv_weight: float = Field(0.1, ge=0, description="α of L_DV (Eqs. 1, 11)")
    denoising_start: int = Field(1000, ge=0, description="L_D enters after this iteration")
    denoising_every: int = Field(2, ge=1, description="L_D enters at iterations divisible by this")
    denoising_warmup: int = Field(0, ge=0, description="iterations over which L_D's weight then rises linearly")
    pair_warmup: int = Field(0, ge=0, description="iterations over which the pair weights rise linearly")


class TrainConfig(Section):
    """Optimisation, sampling and bookkeeping."""

    subsets: list[str] = Field(
        default_factory=lambda: ["validation"], description="of the annotations: videos to train on"
    )
    iterations: int = Field(20_000, ge=1, description="steps of the optimiser")
    batch_size: int = Field(20, ge=1, le=65_536, description="videos")
    sampling: Literal["epoch", "uniform"] = Field("uniform", description="epoch: without replacement; uniform: with")
    max_snippets: int | None = Field(750, ge=1, description="longer videos are cropped at random; null: never")
    min_rows: int = Field(1, ge=1, description="shorter videos are dropped by the loader")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam")
    decay_share: float = Field(
        0.0, ge=0, le=1, description="of the iterations, the last ones: the learning rate falls linearly over them to 0"
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2, inside Adam's gradient")
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the convolutions; losses stay in float32")
    seed: int = Field(0, ge=0, description="of weights, batches, crops, dropout and random pairs")
    selection: Literal["last", "cls_mAP", "loc_mAP"] = Field(
        "last", description="the last step, or the best on held-out videos; loc_mAP uses their segments"
    )
    holdout: float = Field(0.0, ge=0, lt=1, description="share of training videos held out for the selection")
    holdout_by: str | None = Field(None, description="annotation field whose groups stay together, such as user")
    holdout_seed: int = Field(0, ge=0, description="of the split, so that runs of other seeds share it")
    evaluate_every: int = Field(500, ge=1, description="iterations between scorings for the selection")
    log_every: int = Field(50, ge=1, description="iterations between lines of log.jsonl")
    checkpoint_every: int = Field(500, ge=1, description="iterations between checkpoints")
    workers: int = Field(0, ge=0, le=1024, description="processes that read features ahead; 0: a thread does")
    resident: Literal["auto", "on", "off"] = Field(
        "auto",
        description="features stay in the device's memory as they are stored, and a batch is one gather; auto: where"
        " all fit in half of a GPU's free memory, or on the CPU in cache_gigabytes; workers play no part then",
    )
    graph: Literal["auto", "on", "off"] = Field(
        "auto",
        description="a step on a GPU is one CUDA graph for each number of rows and kind of iteration, in the same bits;"
        " auto: where it can be captured",
    )
    cache_gigabytes: float = Field(4.0, ge=0, le=1e6, description="features that fit, in all, are read once and kept")


class LocalizeConfig(Section):
    """Sec. 3.3 and what other systems offer."""

    subsets: list[str] = Field(default_factory=lambda: ["test"], description="of the annotations: videos to localize")
    reweight: bool = Field(True, description="activations are multiplied by λ', the foreground score (Eq. 8)")
    foreground_rescale: bool = Field(False, description="λ' is first scaled by 2 / its maximum")
    class_source: Literal["activations", "reweighted"] = Field(
        "reweighted", description="what a video's class scores are pooled from: T, or T times λ'"
    )
    class_pool_divisor: int = Field(8, ge=1, description="k of that pooling is s / class_pool_divisor")
    class_pool_rounding: Literal["ceil", "floor"] = Field("floor", description="of that k")
    class_rule: Literal["relative", "third_best", "all"] = Field(
        "relative",
        description="relative: above class_threshold x the best; third_best: above the third best and class_threshold"
        " (or 1 where any exceeds 1)",
    )
    class_threshold: float = Field(0.5, ge=0, description="see class_rule")
    thresholds: str | float | list[float] = Field(
        "0.025:0.475:0.025", description="start:stop:step, or the values; proposals lie strictly above"
    )
    min_length: int = Field(2, ge=1, description="of a proposal, in snippets")
    margin: float = Field(0.25, gt=0, le=1e6, description="surroundings on either side, by a proposal's width")
    outer: Literal["pooled", "sides"] = Field(
        "sides", description="S_o: the mean of both sides' snippets, or of both sides' means"
    )
    min_score: float | None = Field(-0.4, description="proposals with a smaller S are dropped")
    iou_threshold: float = Field(0.3, gt=0, le=1, description="NMS removes IoU of at least this")
    sigma: float | None = Field(None, gt=0, description="of Gaussian soft-NMS, in place of removal")
    keep_ratio: float | None = Field(0.1, ge=0, le=1, description="what scores below this share of the best is dropped")
    keep_scope: Literal["sequence", "class"] = Field("class", description="the best of the video, or of its class")
    upsample: int = Field(1, ge=1, le=1024, description="positions a snippet, by linear interpolation")
    smoothing: int = Field(1, ge=1, le=1_000_001, description="snippets of the moving average, odd")
    relative: Literal["max", "minmax"] | None = Field(
        None, description="thresholds are shares of a class's maximum in the video, or of its range"
    )
    class_score_weight: float = Field(0.0, ge=0, description="w: proposals score S + w p of their class")

    def threshold_values(self) -> list[float]:
        """The thresholds as rising floats."""
        if isinstance(self.thresholds, str):
            try:
                return parse_values(self.thresholds)
            except ValueError as error:
                raise ValueError(f"localize.thresholds {error}") from None
        return [self.thresholds] if isinstance(self.thresholds, float) else list(self.thresholds)

    @model_validator(mode="after")
    def _usable(self) -> LocalizeConfig:
        values = self.threshold_values()
        if not values or any(b <= a for a, b in itertools.pairwise(values)):
            raise ValueError(f"thresholds must rise, got {self.thresholds!r}")
        if self.smoothing % 2 == 0:
            raise ValueError(f"smoothing must be odd, got {self.smoothing}")
        return self


class EvaluateConfig(Section):
    """How the recipe's authors score detections."""

    protocol: Literal["activitynet", "thumos", "release"] = Field("activitynet", description="see d2net evaluate")
    iou: str | float | list[float] = Field("0.1:0.7:0.1", description="start:stop:step, or the values")

    @field_validator("iou")
    @classmethod
    def _thresholds(cls, value: str | float | list[float]) -> str | float | list[float]:
        parse_iou(value)
        return value


class TimingConfig(Section):
    """When a snippet is, where it is not as the data or else the preset say."""

    fps: float | None = Field(None, gt=0, description="frames a second that features were extracted at")
    stride: float | None = Field(None, gt=0, description="frames from one snippet to the next")
    snippet_frames: float | None = Field(None, gt=0, description="frames of a snippet")
    snippet_seconds: float | None = Field(None, gt=0, description="in place of the three: snippets without overlap")
    resized: bool = Field(False, description="features were resized to a fixed length: stride is duration / snippets")
