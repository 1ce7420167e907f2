"""What L_D's pseudo-labels are worth over a training, held against segments that the training does not see.

    python benchmarks/pseudo_labels.py --features F --annotations A --preset hapt --out OUT --set loss.ds_weight=0.01

At iterations 250, 500, 750 and so on, of all training videos without dropout: how many videos' split by λ' is forward,
with more attention on the pseudo-foreground; the mean |det U₁|, which is how far both means are apart; the share of
snippets whose pseudo-label is right, of all, and of those where λ' is beyond 0.8 or 0.2; the AUC of λ' and of the
attention λ against segments; and of each class the share of its snippets that λ' calls foreground, and their mean λ.
Then the mAP on the held-out videos, where train.holdout leaves some. Segments are looked at: no way to choose
anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from restarts import Scorer
from studies import arguments
from torch import Tensor

import d2kernels as d2k
from d2net import api
from d2net.api.single import training_videos
from d2net.config import make_config, parse_assignments
from d2net.data.annotations import load_annotations
from d2net.data.dataset import split_holdout
from d2net.data.features import open_features
from d2net.methods.d2net.losses.denoising import foreground_attention
from d2net.training import loop

EVERY = 250


def area(score: Tensor, inside: Tensor) -> float:
    """Area under the ROC curve, ties in order."""
    place = score.argsort().argsort().double()
    n, m = int(inside.sum()), int((~inside).sum())
    return float((place[inside].sum() - n * (n - 1) / 2) / (n * m))


def main() -> None:
    parser = arguments(__doc__)
    asked = parser.parse_args()
    store, known = open_features(asked.features), load_annotations(asked.annotations)
    config = make_config(asked.preset, overrides=parse_assignments(asked.set))
    names, _ = split_holdout(known, training_videos(store, known, config), config.train)
    rows = d2k.Ragged.pack([torch.from_numpy(np.asarray(store[v], np.float32)) for v in names], gap=config.model.gap)
    labels = torch.from_numpy(known.label_matrix(names)).bool()
    video, inside = rows.sequence_index(), rows.row_mask()
    step, place = known.snippet_seconds, {name: c for c, name in enumerate(known.classes)}
    if step is None:
        parser.error(f"--annotations: {asked.annotations} states no snippet_seconds")
    truth = torch.full(inside.shape, -1)
    for first, v in zip(rows.offsets.tolist(), names, strict=False):
        for s in known.videos[v].segments:
            begin, end = (max(0, min(store.lengths[v], round(t / step))) for t in (s.start, s.end))
            truth[first + begin : first + end] = place[s.label]
    own = truth[inside] >= 0

    def of_video(values: Tensor, chosen: Tensor) -> Tensor:
        """Means (n,) over the rows chosen; NaN without any."""
        none = torch.zeros(len(names))
        counts = none.index_add(0, video[chosen], torch.ones(int(chosen.sum())))
        return none.index_add(0, video[chosen], values[chosen]) / counts

    @torch.no_grad()
    def look(network: Any, iteration: int) -> None:
        network.eval()
        out = network(rows)
        network.train()
        score, attention = network.foreground(out.embeddings), out.activations.values.amax(1)
        above, below = (score > 0.5) & inside, (score < 0.5) & inside
        gap = of_video(foreground_attention(out.activations, labels), above) - of_video(attention, below)
        gap = gap[gap.isfinite()]
        right, sure = (score[inside] > 0.5) == own, (score[inside] - 0.5).abs() > 0.3
        print(
            f"{iteration:6d}  forward {100 * (gap >= 0).float().mean():.0f} %  |det| {gap.abs().mean():.2f}  "
            f"right {100 * right.float().mean():.0f} %, where sure {100 * right[sure].float().mean():.0f} % "
            f"of {100 * sure.float().mean():.0f} %  AUC of λ' {area(score[inside], own):.2f}, "
            f"of λ {area(attention[inside], own):.2f}"
        )
        cells = []
        for name, c in (*place.items(), ("none", -1)):
            of = (truth == c) & inside
            cells.append(f"{name} {(score[of] > 0.5).float().mean():.2f} {attention[of].mean():.2f}")
        print("        " + ", ".join(cells), flush=True)

    train = loop.train_step

    def watched(state: Any, *given: Any) -> None:
        train(state, *given)
        if state.iteration % EVERY == 0:
            look(state.network, state.iteration)

    loop.train_step = watched
    model = api.train(store, known, asked.out, config, overwrite=True, progress=False)
    if model.held_out:
        scorer = Scorer(model, store, known.only(model.held_out))
        print(f"mAP on held-out videos {scorer([scorer.activations(model)]):.1f}")


if __name__ == "__main__":
    main()
