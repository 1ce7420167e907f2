"""What restarts bring on data with segments: seeds trained once, and every choice and average among them scored.

    python benchmarks/restarts.py --features F --annotations A --preset hapt --out OUT [--seeds 10] [--together 3]

Trains seeds 0 .. N - 1 into OUT/seed-N (what is there already is taken), on `train.subsets` with video-level labels,
and scores them on `localize.subsets`, or with `--held-out` on the videos that train.holdout leaves out: one run alone;
of every `--together` runs the one that each criterion chooses, and the average of their activations. A spread is the
square root of the mean of (a - b)^2 / 2 over pairs of groups without a run in common, so that it is of independent
groups though all of them are used; its interval (90 %) is of a Bayesian bootstrap over runs. Prints tables in Markdown
and writes OUT/restarts.json.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from studies import arguments

import d2kernels as d2k
from d2net import api
from d2net.api.inputs import prepare
from d2net.api.single import training_videos
from d2net.auto import auto_config
from d2net.config import Config, make_config, parse_assignments
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.features import FeatureStore, open_features
from d2net.evaluation.matching import parse_iou
from d2net.evaluation.prepared import PROTOCOLS, truth_spans
from d2net.localization.activations import Activations, batches_of
from d2net.localization.tune_scoring import Decoder, Metric
from d2net.terminal import Bar
from d2net.training.checkpoint import FILE, read_checkpoint
from d2net.training.criteria import CRITERIA, of_runs
from d2net.training.restarts import MOST_VIDEOS

DRAWS = 4000


class Scorer:
    """mAP of activations on annotated videos, by the configuration's decoder; equal to `localize` and `evaluate`."""

    def __init__(self, model: api.Model, store: FeatureStore, truth: Annotations):
        self.config, self.store, self.truth = model.config, store, truth
        self.videos = prepare(model, store, annotations=truth, names=list(truth.videos))
        classes = {name: c for c, name in enumerate(truth.classes)}
        self.instances, _ = truth_spans(truth, {v: i for i, v in enumerate(self.videos.names)}, classes)
        evaluation = model.config.evaluate
        rules = PROTOCOLS[evaluation.protocol]
        self.metric = Metric("mAP", -1, parse_iou(evaluation.iou), rules, len(classes))
        steps = [(*self.videos.steps(i), self.videos.durations.get(v, np.inf)) for i, v in enumerate(self.videos.names)]
        self.steps = np.array(steps, np.float64)
        self.labels = np.array([classes.get(name, -1 - k) for k, name in enumerate(model.classes)])

    def activations(self, model: api.Model) -> list[Activations]:
        videos = prepare(model, self.store, annotations=self.truth, names=self.videos.names)
        return [videos.activate(videos.names[part]) for part in batches_of(videos.lengths)]

    def __call__(self, runs: Sequence[list[Activations]]) -> float:
        """Of the mean of the runs' T and λ'; each as `activations` gives it."""
        chunks = [_mean(parts) for parts in zip(*runs, strict=True)]
        loss = self.config.loss
        pooled = [d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding) for a in chunks]
        found = Decoder(chunks, pooled, self.steps, self.labels)(self.config.localize)
        return 100 * self.metric(found, self.instances)


def _mean(parts: Sequence[Activations]) -> Activations:
    classes = torch.stack([p.classes.values for p in parts]).mean(0)
    return Activations(parts[0].classes.with_values(classes), torch.stack([p.foreground for p in parts]).mean(0))


def trained(store: FeatureStore, known: Annotations, folder: Path, config: Config) -> api.Model:
    """The folder's run, which is trained, or gone on with, unless it is whole."""
    there = (folder / FILE).exists()
    if there and read_checkpoint(folder)["iteration"] >= config.train.iterations:
        return api.load(folder)
    return api.train(store, known, folder, config, resume=there, progress=False)


def with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


class Spread:
    """Mean and spread of a value of every group of runs, under weights of the runs."""

    def __init__(self, groups: Sequence[tuple[int, ...]], values: Sequence[float]):
        self.groups, self.values = np.array(groups), np.array(values)
        apart = [(a, b) for a, b in itertools.combinations(range(len(groups)), 2) if not {*groups[a]} & {*groups[b]}]
        self.a, self.b = np.array(apart).T

    def __call__(self, weights: np.ndarray) -> tuple[float, float]:
        """weights: (runs,), each run's share."""
        w = weights[self.groups].prod(1)
        pairs = w[self.a] * w[self.b]
        gaps = (self.values[self.a] - self.values[self.b]) ** 2 / 2
        return float(np.average(self.values, weights=w)), float(np.sqrt(np.average(gaps, weights=pairs)))


def ratio_interval(one: Spread, other: Spread, runs: int) -> tuple[float, float, float]:
    """other's spread by one's, and its 90 % interval."""
    rng = np.random.default_rng(0)
    draws = [(w, other(w)[1] / one(w)[1]) for w in rng.dirichlet(np.ones(runs), DRAWS)]
    low, high = np.quantile([r for _, r in draws], [0.05, 0.95])
    equal = np.ones(runs) / runs
    return other(equal)[1] / one(equal)[1], float(low), float(high)


def ranks_of(values: Sequence[float]) -> np.ndarray:
    """Places from 0, ties in order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--together", type=int, default=3)
    parser.add_argument("--held-out", action="store_true")
    asked = parser.parse_args()
    if asked.seeds < 2 * asked.together:
        parser.error(f"--seeds must be at least twice --together ({asked.together}), got {asked.seeds}")
    store, known = open_features(asked.features), load_annotations(asked.annotations)
    given = parse_assignments(asked.set)
    auto = asked.preset == "auto"
    config = auto_config(store, known, None, given).config if auto else make_config(asked.preset, overrides=given)

    seeds = range(asked.seeds)
    folders = [asked.out / f"seed-{s}" for s in seeds]
    models = [trained(store, known, folders[s], with_seed(config, s)) for s in Bar("seeds", asked.seeds).over(seeds)]
    truth = known.only(models[0].held_out) if asked.held_out else known.subset(config.localize.subsets)
    scorer = Scorer(models[0], store, truth)
    test = [scorer.activations(model) for model in models]
    single = [scorer([run]) for run in test]
    names = [v for v in training_videos(store, known, config) if v not in models[0].held_out]
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_VIDEOS)).astype(int))]
    own = [{v: model.activations(store[v]).classes for v in names} for model in models]
    labels, divisor = known.label_matrix(names), config.loss.pool_divisor
    of_all = of_runs(own, labels, divisor)

    groups = list(itertools.combinations(seeds, asked.together))
    chosen: dict[str, list[float]] = {name: [] for name in CRITERIA}
    average = []
    for group in Bar("groups", len(groups)).over(groups):
        average.append(scorer([test[s] for s in group]))
        rows = of_runs([own[s] for s in group], labels, divisor) if "agreement" in CRITERIA else []
        for name, more in CRITERIA.items():
            values = [row[name] for row in rows] if name == "agreement" else [of_all[s][name] for s in group]
            chosen[name].append(single[group[int(np.argmax(values) if more else np.argmin(values))]])

    one = Spread([(s,) for s in seeds], single)
    equal = np.ones(asked.seeds) / asked.seeds
    mean, spread = one(equal)
    print(f"| of {asked.together} runs | mAP | spread by one run's, 90 % | criterion with mAP, Spearman |")
    print("| --- | --- | --- | --- |")
    print(f"| one run | {mean:.1f} ± {spread:.1f} | | |")
    results = {"seeds": list(seeds), "single": single, "criteria": of_all, "groups": groups, "average": average}
    for name, values in {**chosen, "average": average}.items():
        other = Spread(groups, values)
        found, (r, low, high) = other(equal), ratio_interval(one, other, asked.seeds)
        rho = "" if name == "average" else f"{_spearman([row[name] for row in of_all], single):+.2f}"
        what = "their average" if name == "average" else f"chosen by {name}"
        print(f"| {what} | {found[0]:.1f} ± {found[1]:.1f} | {r:.2f} ({low:.2f} to {high:.2f}) | {rho} |")
        results[name] = values
    print("\nseeds: " + ", ".join(f"{v:.1f}" for v in single))
    (asked.out / "restarts.json").write_text(json.dumps(results, indent=1))


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.corrcoef(ranks_of(a), ranks_of(b))[0, 1])


if __name__ == "__main__":
    main()
