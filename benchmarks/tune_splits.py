"""Whether what d2net tune promises comes true: the people that a run was not trained on, split again and again.

    python benchmarks/tune_splits.py --run RUN --features F --annotations A --by user [--splits 20] [--tuned-on 7]

RUN held groups out (`train.holdout`, `train.holdout_by`); they and those of `localize.subsets` are split at random: the
decoder is tuned on some, as `d2net tune` does, and scored on the others. Prints, for each split, what was promised with
its interval and what came of it, and how often it lay in the interval.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
from restarts import Scorer

import d2kernels as d2k
from d2net import api
from d2net.config import make_config
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.evaluation.matching import Spans
from d2net.localization.tune_scoring import Decoder, repeated
from d2net.localization.tune_search import search
from d2net.localization.tune_space import fields_for
from d2net.sections import LocalizeConfig
from d2net.terminal import Bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--by", required=True, help="field of the annotations that groups videos")
    parser.add_argument("--splits", type=int, default=20, help="of each run")
    parser.add_argument("--tuned-on", type=int, default=7, help="groups")
    parser.add_argument("--settings", type=int, default=2000)
    parser.add_argument("--from", dest="present", choices=("run", "release"), default="run", help="the present decoder")
    parser.add_argument("--out", help="JSON with what is printed")
    asked = parser.parse_args()
    store, known = open_features(asked.features), load_annotations(asked.annotations)
    rows = []
    for path in asked.run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = api.load(path)
        names = [*model.held_out, *known.subset(model.config.localize.subsets).videos]
        truth = known.only(names)
        scorer = Scorer(model, store, truth)
        user = np.array([str(truth.videos[v].info[asked.by]) for v in scorer.videos.names])
        everyone = np.unique(user)
        present = model.config.localize if asked.present == "run" else make_config().localize
        decode = _Kept(model, scorer)
        for split in Bar("splits", asked.splits).over(range(asked.splits)):
            drawn = np.random.default_rng([split, 3]).permutation(everyone)[: asked.tuned_on]
            rows.append({"run": path, "split": split, **_split(decode, scorer, present, user, drawn, asked.settings)})
            print(_said(rows[-1]), flush=True)
    came, promised = (np.array([r[k] for r in rows]) for k in ("came", "promised"))
    inside = [r["low"] <= r["came"] <= r["high"] for r in rows]
    above = [r["came"] >= r["low"] for r in rows]
    changed = np.array([not r["kept"] for r in rows])
    print(f"\npromised {promised.mean():+.2f}, came {came.mean():+.2f} on average of {len(rows)}")
    print(f"within the interval in {sum(inside)}, at or above its lower end in {sum(above)}")
    print(f"{changed.sum()} decoders were changed")
    if asked.out:
        with open(asked.out, "w") as file:
            json.dump(rows, file, indent=1)


class _Kept:
    """Detections of all videos by decoder, decoded once: searches of different splits begin with the same ones."""

    def __init__(self, model: api.Model, scorer: Scorer):
        chunks, loss = scorer.activations(model), model.config.loss
        pooled = [d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding) for a in chunks]
        self.decoder, self.found = Decoder(chunks, pooled, scorer.steps, scorer.labels), dict[str, Spans]()

    def __call__(self, config: LocalizeConfig) -> Spans:
        key = config.model_dump_json()
        if key not in self.found:
            self.found[key] = self.decoder(config)
        return self.found[key]


def _split(
    decode: _Kept, scorer: Scorer, present: LocalizeConfig, user: np.ndarray, drawn: np.ndarray, settings: int
) -> dict[str, float | bool]:
    """Promised and come gains, in points."""
    own, others = np.flatnonzero(np.isin(user, drawn)), np.flatnonzero(~np.isin(user, drawn))
    groups = np.unique(user[own], return_inverse=True)[1]
    lengths = [scorer.videos.lengths[i] for i in own]
    o = search(
        lambda config: repeated(decode(config), own), repeated(scorer.instances, own), scorer.metric, present,
        fields_for(min(lengths)), groups, settings=settings,
    )  # fmt: skip

    def score(config: LocalizeConfig) -> float:
        return scorer.metric(repeated(decode(config), others), repeated(scorer.instances, others))

    came = score(o.best) - score(present)
    return {
        "promised": 100 * o.gain, "low": 100 * o.low, "high": 100 * o.high, "kept": not o.accepted, "came": 100 * came,
        "present": 100 * score(present), "tuned_present": 100 * o.present,
    }  # fmt: skip


def _said(row: dict[str, float | bool]) -> str:
    kept = ", kept," if row["kept"] else ""
    return f"{row['promised']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}){kept} -> {row['came']:+.1f}"


if __name__ == "__main__":
    main()
