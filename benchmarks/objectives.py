"""What a change of D2-Net's training that has no field brings on held-out groups, against the same runs without it.

    python benchmarks/objectives.py --features F --annotations A --preset hapt --out OUT --seeds 5 \\
        --change smooth=0.1 --set train.holdout=0.34 train.holdout_by=user

Seed N holds out the groups of `train.holdout_seed` N, and trains with and without the change into OUT/CHANGE/seed-N and
OUT/none/seed-N (what is whole there is taken). Prints both mAPs by the configuration's decoder, the mean of their
differences and its standard error. Changes, of which several may be given:

    smooth=W     W times the mean of |T[t] - T[t - 1]|
    sparse=W     W times the mean of λ
    refine=W     in the last 30 % of the iterations, W times the cross-entropy of T against the activations (a mean of 3
                 snippets, own labels alone) of the network as it was when they began, without dropout
    pool=labels  k of class c is s / 2 times the mean of 1 / (labels + 1) over the videos that have c
    pool=learned from iteration 500 on, k of c is s / 2 times the running share of snippets with T > 0.5 in its videos
    pool=segments  k of c is s / 2 times the median share that c fills: what is not known; to see what k could bring
    score=segments  λ' of L_DS is 1 in a segment, else 0: what is not known; to see what L_DS could bring
    score=clean  λ' of L_DS is of the network without dropout
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from restarts import Scorer, trained, with_seed
from studies import arguments
from torch import Tensor

import d2kernels as d2k
import d2net.methods.base
from d2net.config import Config, make_config, parse_assignments
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.features import FeatureStore, open_features
from d2net.methods.d2net import losses, method
from d2net.terminal import Bar

LAST = 0.3  # of the iterations, in which T is refined
WARM = 500  # iterations before k is learned
TIMES = {"smooth", "sparse", "refine"}
KINDS = {"pool": {"labels", "learned", "segments"}, "score": {"segments", "clean"}}


class Change:
    """Stands in for parts of the method while `within`."""

    def __init__(self, asked: Mapping[str, str], store: FeatureStore, known: Annotations, config: Config):
        self.asked, self.store, self.config = asked, store, config
        self.known = known.subset(config.train.subsets)
        self.network: Any = None
        self.features: Any = None
        self.labels: Any = None
        self.teacher: Any = None
        self.iteration = 0
        self.reference: Tensor | None = None
        self.share = self._share() if asked.get("pool") in ("labels", "segments") else None
        self.seen: Tensor | None = None
        self.truth = self._truth() if asked.get("score") == "segments" else {}

    @contextmanager
    def within(self) -> Iterator[None]:
        kept = method.METHOD, losses._objective, losses.video_scores, method.objective_at_once
        objective, inner = method.objective, kept[1]

        def noted(network: Any, batch: Any, config: Config, at: Any) -> Any:
            self.network, self.features, self.labels, self.iteration = (
                network,
                batch.ragged(),
                batch.labels,
                at.iteration,
            )
            return objective(network, batch, config, at)

        def extended(pooled: Any, score: Any, *given: Any) -> Any:
            if score is not None and "score" in self.asked:
                score = self._score()
            found = inner(pooled, score, *given)
            return found._replace(total=found.total + self._terms(pooled))

        if self.asked:
            method.objective_at_once = lambda *given: None  # has no room for what is between the operations
        method.METHOD = dataclasses.replace(kept[0], objective=noted)
        losses._objective = extended
        if "pool" in self.asked:
            losses.video_scores = self._pooled
        d2net.methods.base.method_named.cache_clear()
        try:
            yield
        finally:
            method.METHOD, losses._objective, losses.video_scores, method.objective_at_once = kept
            d2net.methods.base.method_named.cache_clear()

    def _terms(self, pooled: Any) -> Tensor:
        activations: d2k.Ragged = pooled.activations
        t, video, inside = activations.values, activations.sequence_index(), activations.row_mask()
        total = t.new_zeros(())
        if "smooth" in self.asked:
            same = (video[1:] == video[:-1]) & inside[1:] & inside[:-1]
            total = total + float(self.asked["smooth"]) * (t[1:] - t[:-1])[same].abs().mean()
        if "sparse" in self.asked:
            total = total + float(self.asked["sparse"]) * pooled.attention[inside].mean()
        if "refine" in self.asked and self.iteration > (1 - LAST) * self.config.train.iterations:
            target = self._taught() * self.labels[video]
            entropy = torch.nn.functional.binary_cross_entropy(t.clamp(1e-4, 1 - 1e-4), target, reduction="none")
            total = total + float(self.asked["refine"]) * entropy[inside].mean()
        return total

    def _taught(self) -> Tensor:
        """(total, C): T of the network as it was, averaged over 3 snippets."""
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            dense, inside = self.teacher(self.features).activations.padded()
            mask = inside[..., None].to(dense.dtype)
            kernel = torch.ones(1, 1, 3, 1)
            sums, counts = (torch.nn.functional.conv2d(x[:, None], kernel, padding=(1, 0))[:, 0] for x in (dense, mask))
            out = dense.new_zeros(len(self.features.values), dense.shape[2])
            rows = self.features.offsets[:-1, None] + torch.arange(dense.shape[1])
            out[rows[inside]] = (sums / counts.clamp(min=1))[inside]
        return out

    def _pooled(self, activations: d2k.Ragged, config: Any) -> Tensor:
        """p (n, C) with a k for each class."""
        share = self._learned(activations) if self.asked["pool"] == "learned" else self.share
        lengths = activations.lengths
        k = (lengths[:, None] * share).ceil().long().clamp(min=1)
        dense, _ = activations.padded(fill=-1.0)
        taken = torch.arange(dense.shape[1])[None, :, None] < k[:, None, :]
        return (dense.sort(1, descending=True).values * taken).sum(1) / k

    def _learned(self, activations: d2k.Ragged) -> Tensor:
        with torch.no_grad():
            dense, _ = activations.padded(fill=-1.0)
            share = (dense > 0.5).sum(1) / activations.lengths[:, None]
            own = self.labels.float()
            mean = (share * own).sum(0) / own.sum(0).clamp(min=1)
            before = mean if self.seen is None else self.seen
            self.seen = torch.where(own.any(0), before.lerp(mean, 0.01), before)
            if self.iteration <= WARM:
                return torch.full_like(mean, 1 / self.config.loss.pool_divisor)
            return (self.seen / 2).clamp(1 / 16, 1 / 2)

    def _share(self) -> Tensor:
        names = list(self.known.videos)
        labels = np.asarray(self.known.label_matrix(names), bool)
        part = np.repeat(1 / (labels.sum(1, keepdims=True) + 1), labels.shape[1], 1)
        if self.asked["pool"] == "segments":
            place = {name: c for c, name in enumerate(self.known.classes)}
            part = np.zeros(labels.shape)
            for i, video in enumerate(self.known.videos.values()):
                for s in video.segments:
                    part[i, place[s.label]] += (s.end - s.start) / video.duration
        of = np.median if self.asked["pool"] == "segments" else np.mean
        return torch.tensor([of(part[own, c]) / 2 for c, own in enumerate(labels.T)], dtype=torch.float32)

    def _truth(self) -> dict[bytes, float]:
        """Whether a row of features lies in a segment."""
        found = {}
        for name, video in self.known.videos.items():
            rows = np.asarray(self.store[name], np.float32)
            middle = (np.arange(len(rows)) + 0.5) * self.known.snippet_seconds
            inside = np.any([(s.start <= middle) & (middle < s.end) for s in video.segments], 0)
            found.update(zip((r.tobytes() for r in rows), inside.astype(float), strict=True))
        return found

    def _score(self) -> Tensor:
        """λ' (total,)."""
        rows = self.features.values
        if self.truth:
            values = [self.truth.get(r.tobytes(), 0.0) for r in rows.numpy()]
            return torch.tensor(values, dtype=torch.float32) * self.features.row_mask()
        self.network.eval()
        with torch.no_grad():
            out = self.network(self.features)
        self.network.train()
        x = out.embeddings
        lowest = d2k.lowest_attention(x.with_values(out.activations.values.amax(1)))
        mean = x.values[self.features.offsets[:-1] + lowest].mean(0)
        self.reference = mean if self.reference is None else self.reference.lerp(mean, 0.1)
        return d2k.foreground_score(x, self.reference).values


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--change", nargs="*", default=[], help="NAME=VALUE, as above")
    asked = parser.parse_args()
    change = dict(text.split("=", 1) for text in asked.change)
    if unknown := [f"{n}={v}" for n, v in change.items() if n not in TIMES and v not in KINDS.get(n, ())]:
        parser.error(f"--change: unknown change {unknown[0]}")
    store, known = open_features(asked.features), load_annotations(asked.annotations)
    given = parse_assignments(asked.set)

    def score(name: str, seed: int, around: Callable[[Config], Any]) -> float:
        config = with_seed(make_config(asked.preset, overrides=given | {"train.holdout_seed": seed}), seed)
        with around(config):
            model = trained(store, known, asked.out / name / f"seed-{seed}", config)
        scorer = Scorer(model, store, known.only(model.held_out))
        return scorer([scorer.activations(model)])

    rows = []
    for seed in Bar("seeds", asked.seeds).over(range(asked.seeds)):
        without = score("none", seed, lambda config: Change({}, store, known, config).within())
        found = score("+".join(asked.change), seed, lambda config: Change(change, store, known, config).within())
        rows.append((without, found))
    table = np.array(rows)
    gaps = table[:, 1] - table[:, 0]
    for name, values in (("without", table[:, 0]), ("with", table[:, 1]), ("difference", gaps)):
        print(f"{name:10}", " / ".join(f"{v:.1f}" for v in values))
    print(f"{gaps.mean():+.1f} ± {gaps.std(ddof=1) / len(gaps) ** 0.5:.1f}")


if __name__ == "__main__":
    main()
