"""Which subset is trained on and which is localized, told from the subsets' names."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from d2net.data.annotations.model import Annotations

_TRAINING = ("train", "training", "trn", "development", "dev", "validation", "valid", "val")
_TEST = ("test", "testing", "tst", "evaluation", "eval", "validation", "valid", "val")


class Subsets(NamedTuple):
    """Names of the subsets for training and localization, as the annotations write them; None where there is none."""

    training: str | None
    test: str | None


def subsets_of(annotations: Annotations) -> Subsets:
    """`training` before `validation`, `test` before `validation`; of other names the largest subset is trained on."""
    counts: Counter[str] = Counter()
    for video in annotations.videos.values():
        if video.subset is not None:
            counts[video.subset.lower()] += 1
    if not counts:
        return Subsets(None, None)
    others = [name for name, _ in counts.most_common() if name not in _TEST] or [counts.most_common(1)[0][0]]
    training = next((name for name in _TRAINING if name in counts), others[0])
    test = next((name for name in _TEST if name in counts and name != training), None)
    rest = [name for name, _ in counts.most_common() if name != training]
    test = test or (rest[0] if rest else training)
    return Subsets(_as_written(annotations, training), _as_written(annotations, test))


def _as_written(annotations: Annotations, name: str) -> str:
    return next(v.subset for v in annotations.videos.values() if v.subset is not None and v.subset.lower() == name)
