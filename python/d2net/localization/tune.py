"""A decoder fitted to annotated videos: what was found, in words, and as a configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass

import yaml

from d2net.data.files import write_text
from d2net.evaluation.release import Rate
from d2net.localization.tune_search import LEVEL, Outcome
from d2net.sections import EvaluateConfig, LocalizeConfig

NOTABLE = 0.02  # the gain that `needed` speaks of where none was found


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search, and the decoder to use: the best one where its gain is beyond chance, else the present.

    source: the annotations; metric: what was maximised, in words; rate: of the release protocol's snippets.
    """

    outcome: Outcome
    present: LocalizeConfig
    evaluate: EvaluateConfig
    metric: str
    source: str
    rate: Rate | None = None

    @property
    def config(self) -> LocalizeConfig:
        return self.outcome.best if self.outcome.accepted else self.present

    @property
    def changes(self) -> dict[str, tuple[object, object]]:
        """{field: (present, chosen)} of the fields that differ."""
        pairs = {n: (v, getattr(self.config, n)) for n, v in self.present}
        return {n: (a, b) for n, (a, b) in pairs.items() if a != b}

    def said(self) -> list[str]:
        """What was done and found, a line each."""
        o = self.outcome
        videos = f"{o.videos} videos" + (f" in {o.groups} groups" if o.groups < o.videos else "")
        lines = [
            f"{o.tried} decoders were tried on {videos} of {self.source}, whose segments were used: this is no longer "
            "weak supervision",
            f"{self.metric}: {100 * o.present:.2f} at present, {100 * o.fitted:.2f} with the best, on the "
            "videos that it was chosen on",
            f"gain on videos that the decoder was not chosen on ({o.folds} folds): {100 * o.gain:+.2f}, "
            f"{100 * LEVEL:g} % interval {100 * o.low:+.2f} to {100 * o.high:+.2f}",
        ]
        if o.accepted:
            return [*lines, *(f"localize.{n}: {a} -> {b}" for n, (a, b) in self.changes.items())]
        gain = o.gain if o.gain > 0 else NOTABLE
        what = "such a gain" if o.gain > 0 else f"a gain of {100 * NOTABLE:g} points"
        needed = o.needed(gain)
        return [*lines, f"that may be chance: the present decoder is kept; {needed} annotated videos would show {what}"]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the sections localize and evaluate as YAML, under what was done; and its snippets' timing."""
        tree = {"localize": self.config.model_dump(), "evaluate": self.evaluate.model_dump()}
        if self.rate is not None:
            fps, stride = self.rate
            tree["timing"] = {"snippet_seconds": stride} if fps == 1 else {"fps": fps, "stride": stride}
        head = "".join(f"# {ascii(line)[1:-1]}\n" for line in self.said())
        write_text(path, head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
