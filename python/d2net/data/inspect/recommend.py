"""The configuration that data call for, each field with its reason.

Anchors: the published settings (THUMOS14, ActivityNet 1.2; 2048-wide I3D at 0.64 s) and those chosen on HAPT's training
people (128 features at 0.32 s, docs/features.md).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from d2net.data.inspect.facts import Facts
from d2net.timing import Timing


class Choice(NamedTuple):
    """A field of the configuration, its value, and why."""

    field: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field} = {_yaml(self.value)}: {self.reason}"


def recommend(facts: Facts) -> list[Choice]:
    """Every field that follows from the data, whether it differs from the recipe's or not."""
    return [*_subsets(facts), *_network(facts), *_pooling(facts), *_optimisation(facts), *_decoding(facts)]


def _subsets(facts: Facts) -> Iterator[Choice]:
    if facts.training is not None:
        yield Choice("train.subsets", [facts.training], "the subset whose name says training, or comes nearest")
    if facts.test is not None:
        yield Choice("localize.subsets", [facts.test], "the subset whose name says test, or comes nearest")
    if facts.streams is not None:
        yield Choice("model.streams", facts.streams, f"the data are of {facts.streams} streams of equal width")


def _network(facts: Facts) -> Iterator[Choice]:
    size, dilation, why = _classifier(facts)
    yield Choice("model.classifier_kernel_size", size, f"the classifier sees {why}")
    yield Choice("model.classifier_dilation", dilation, f"its taps are {dilation} snippets apart")
    lengths = np.array(facts.lengths or (1,))
    shortest = int(np.percentile(lengths, 5))
    least = max(1, min(5, shortest))
    yield Choice("loss.min_snippets", least, f"one video in 20 has {shortest} snippets or fewer")
    middle, long = (int(np.percentile(lengths, q)) for q in (50, 90))
    if middle > 750:
        cut = min(long, 3000)
        why = f"half the videos have more than {middle} snippets: a crop of 750 often misses what its label says"
        yield Choice("train.max_snippets", cut, why)


def _classifier(facts: Facts) -> tuple[int, int, str]:
    """Taps of the classifier, how many snippets they are apart, and in words how much of a sequence that is."""
    if facts.step is not None and facts.step > 0.5:
        return 1, 1, f"one snippet, which is {facts.step:.3g} s and says enough"
    if facts.step is not None:
        dilation = min(int(2 / facts.step) // 2, 5)  # layers 1 and 2 fill gaps of up to 5
        reach = 4 * dilation + 1
        why = f"{reach} snippets, {reach * facts.step:.3g} s: what comes before and after tells classes apart"
        return 5, dilation, why
    if facts.persistence is not None and facts.persistence >= 4:
        return 3, 1, f"3 snippets: rows stay alike for {facts.persistence:.3g}"
    return 1, 1, "one snippet: nothing says how long it is"


def _second(facts: Facts) -> int:
    """Odd number of snippets, up to 5, that make about a second; 1 where nothing says how long they are."""
    if facts.step is not None:
        return min(5, 2 * int(0.5 / facts.step) + 1)
    return 3 if facts.persistence is not None and facts.persistence >= 4 else 1


def _pooling(facts: Facts) -> Iterator[Choice]:
    if facts.share is not None:
        divisor = int(np.clip(round(1 / max(facts.share, 1e-3)), 2, 16))
        why = f"in most videos an action fills {100 * facts.share:.0f} % or more (from training videos' segments)"
    else:
        labels = max(facts.labels_per_video, 1.0)
        divisor = int(np.clip(round(2 * (labels + 1)), 2, 16))
        why = f"{labels:.1f} labels a video and the background share it; half an equal share, as shares differ"
    yield Choice("loss.pool_divisor", divisor, f"k = s / {divisor}: {why}")


def _optimisation(facts: Facts) -> Iterator[Choice]:
    rms = float(np.clip(facts.rms or 1.0, 0.3, 3.0))
    rate = _two_digits(float(np.clip(0.4 / (facts.width * rms), 1e-4, 3e-3)))
    why = f"{facts.width} features of size {rms:.2g}: a step moves an activation by their product"
    yield Choice("train.learning_rate", rate, why)
    yield Choice("train.decay_share", 0.5, "it falls over half of the run, which could end in a spike of the loss")
    batch = int(np.clip(facts.videos, 1, 20))
    passes = 100 * facts.videos / batch
    iterations = int(np.clip(500 * round(max(passes, 3 / rate) / 500), 2000, 20_000))
    why = f"a hundred passes over {facts.videos} videos, and as many steps as the learning rate needs"
    yield Choice("train.iterations", iterations, why)
    for field in ("loss.ds_weight", "loss.dv_weight"):
        yield Choice(field, 0.003, "L_D at its published weight ruins data whose background is no class of its own")
    quarter = iterations // 4
    yield Choice("loss.denoising_start", quarter, "L_D needs pseudo-labels that mean something: a quarter of the run")
    yield Choice("loss.denoising_warmup", quarter, "and another quarter to rise")


def _decoding(facts: Facts) -> Iterator[Choice]:
    yield Choice("localize.reweight", False, "the foreground score needs a background that looks alike everywhere")
    yield Choice("localize.thresholds", "0.025:0.975:0.025", "activations that are not reweighted reach 1")
    size = max(3, _second(facts))
    why = f"activations flicker from snippet to snippet: they are averaged over {size}"
    if facts.shortest is not None and facts.step is not None:
        most = _odd(facts.shortest / facts.step / 2)
        if most < size:
            why = f"at most half of the shortest class's short instances, {facts.shortest:.3g} s"
        size = min(size, most)
    yield Choice("localize.smoothing", size, why)
    if facts.shortest is not None and facts.step is not None:
        least = int(np.clip(facts.shortest / facts.step / 2, 1, 50))
        why = f"half of the shortest class's short instances, {facts.shortest:.3g} s of {facts.step:.3g} s snippets"
    elif facts.step is not None:
        least = int(np.clip(round(0.3 / facts.step), 2, 50))
        why = "0.3 s, at least two snippets: a single one is noise"
    else:
        least, why = 2, "a single snippet is noise"
    yield Choice("localize.min_length", least, why)


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)  # JSON is YAML, whatever the names hold
    return str(value).lower() if isinstance(value, bool) else str(value)


def _odd(value: float) -> int:
    return max(1, 2 * int((value - 1) / 2) + 1)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def timing_flags(timing: Timing | None) -> str:
    """The options that state it, as the user did; empty for None."""
    given = {} if timing is None else {k: v for k, v in timing.to_dict().items() if v}
    return " ".join(f"--{k.replace('_', '-')}" + ("" if v is True else f" {v!r}") for k, v in given.items())


def command(
    features: str, annotations: str, choices: Sequence[Choice], flags: Sequence[str], defaults: Mapping[str, Any]
) -> str:
    """`d2net train …` with the choices that differ from the recipe's `defaults`. flags: of reading and timing."""
    parts = ["d2net train", f"--features {shlex.quote(features)}", f"--annotations {shlex.quote(annotations)}"]
    parts += ["--out run", *flags]
    for field, value, _ in choices:
        if defaults.get(field) == value:
            continue
        parts.append(f"--set {shlex.quote(f'{field}={_yaml(value)}')}")
    return " \\\n  ".join(parts)
