"""The decoders that tuning tries: random ones, and neighbours of good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from d2net.sections import LocalizeConfig

Draw = Callable[[np.random.Generator], Any]
SMOOTHINGS = (1, 3, 5, 7, 9, 13, 19, 25)
KEPT = 0.4  # of the fields of a random decoder: as the present one has them


def _one_of(*values: Any) -> Draw:
    return lambda rng: values[rng.integers(len(values))]


def _uniform(low: float, high: float) -> Draw:
    return lambda rng: round(float(rng.uniform(low, high)), 3)


def _thresholds(rng: np.random.Generator) -> str:
    """A range, as a text that configurations take; some of few thresholds, most of many."""
    start = round(float(rng.choice([0.025, rng.uniform(0.01, 0.4)])), 3)
    stop = round(float(rng.uniform(start, 0.99)), 3)
    step = max(0.005, round((stop - start) / float(rng.integers(2, 41)), 3))
    return f"{start}:{stop}:{step}"


def _min_score(rng: np.random.Generator) -> float | None:
    return None if rng.random() < 0.3 else round(float(rng.uniform(-0.5, 0.4)), 3)


FIELDS: dict[str, Draw] = {
    "reweight": _one_of(True, False),
    "foreground_rescale": _one_of(True, False),
    "class_source": _one_of("activations", "reweighted"),
    "class_pool_divisor": _one_of(1, 2, 3, 4, 6, 8, 12, 16, 32),
    "class_rule": _one_of("relative", "relative", "relative", "third_best", "all"),
    "class_threshold": _uniform(0.0, 0.95),
    "thresholds": _thresholds,
    "relative": _one_of(None, None, "max", "minmax"),
    "min_length": _one_of(1, 2, 3, 4, 6, 8),
    "margin": _one_of(0.1, 0.25, 0.5, 1.0),
    "outer": _one_of("pooled", "sides"),
    "min_score": _min_score,
    "iou_threshold": _uniform(0.1, 0.8),
    "sigma": _one_of(None, None, 0.1, 0.3, 0.5, 0.8),
    "keep_ratio": _one_of(None, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5),
    "keep_scope": _one_of("sequence", "class"),
    "upsample": _one_of(1, 1, 2, 4),
    "smoothing": _one_of(*SMOOTHINGS),
    "class_score_weight": _one_of(0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
}


def fields_for(shortest: int) -> dict[str, Draw]:
    """The fields to draw; nothing is smoothed over more snippets than the shortest video has."""
    return FIELDS | {"smoothing": _one_of(*(w for w in SMOOTHINGS if w <= max(shortest, 1)))}


def random_decoder(present: LocalizeConfig, fields: dict[str, Draw], rng: np.random.Generator) -> LocalizeConfig:
    """Some of the fields of `present` drawn anew."""
    drawn = {name: draw(rng) for name, draw in fields.items() if rng.random() >= KEPT}
    return present.model_copy(update=drawn)


def neighbour(good: Sequence[LocalizeConfig], fields: dict[str, Draw], rng: np.random.Generator) -> LocalizeConfig:
    """One of the good decoders with one to three fields drawn anew, or taken from another of them."""
    base, other = (good[i] for i in rng.integers(len(good), size=2))
    names = rng.choice(list(fields), size=rng.integers(1, 4), replace=False)
    update = {n: getattr(other, n) if rng.random() < 0.3 else fields[n](rng) for n in map(str, names)}
    return base.model_copy(update=update)
