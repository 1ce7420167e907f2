"""What an exponential average of the weights brings over the last step's, on data with segments.

    python benchmarks/weight_average.py --features F --annotations A --preset hapt --out OUT --seeds 5 \\
        --set train.holdout=0.34 train.holdout_by=user

Each seed trains once, into OUT/seed-N; averages w of several decays are kept beside it, which changes nothing of the
training: after iteration n, w <- w + (1 - min(decay, (1 + n) / (10 + n))) (weights - w), from the first's weights on.
Prints the mAP of each on the videos that the run held out, whose groups `--split-by-seed` draws anew for each seed, and
on `localize.subsets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from restarts import Scorer, with_seed
from studies import arguments

from d2net import api
from d2net.config import Config, make_config, parse_assignments
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.features import FeatureStore, open_features
from d2net.terminal import Bar
from d2net.training import loop

DECAYS = (0.99, 0.995, 0.998, 0.999)
FILE = "averages.pt"


@contextmanager
def averaged() -> Iterator[dict[float, list[torch.Tensor]]]:
    """Within, trainings keep their averages in the dict, by decay."""
    kept: dict[float, list[torch.Tensor]] = {}
    step = loop.train_step

    def stepped(state, *given):  # type: ignore[no-untyped-def]
        step(state, *given)
        weights, n = [p.detach() for p in state.network.parameters()], state.iteration
        for decay in DECAYS:
            if n == 1:
                kept[decay] = [w.clone() for w in weights]
            else:
                torch._foreach_lerp_(kept[decay], weights, 1 - min(decay, (1 + n) / (10 + n)))

    loop.train_step = stepped
    try:
        yield kept
    finally:
        loop.train_step = step


def scored(store: FeatureStore, known: Annotations, folder: Path, config: Config) -> dict[str, list[float]]:
    """mAP of the last weights and of each average, by what is scored."""
    if not (folder / FILE).exists():
        with averaged() as kept:
            model = api.train(store, known, folder, config, overwrite=True, progress=False)
        names = [name for name, _ in model.network.named_parameters()]
        torch.save({decay: dict(zip(names, w, strict=True)) for decay, w in kept.items()}, folder / FILE)
    model = api.load(folder)
    averages = torch.load(folder / FILE)
    last = {name: w.clone() for name, w in model.network.state_dict().items()}
    videos = {"held out": list(model.held_out), "test": list(known.subset(config.localize.subsets).videos)}
    found = {}
    for what, names in videos.items():
        if names:
            scorer, found[what] = Scorer(model, store, known.only(names)), list[float]()
            for weights in ({}, *averages.values()):
                model.network.load_state_dict({**last, **weights})
                found[what].append(scorer([scorer.activations(model)]))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split-by-seed", action="store_true", help="train.holdout_seed is the seed")
    asked = parser.parse_args()
    store, known = open_features(asked.features), load_annotations(asked.annotations)
    given = parse_assignments(asked.set)
    rows = []
    for seed in Bar("seeds", asked.seeds).over(range(asked.seeds)):
        split = {"train.holdout_seed": seed} if asked.split_by_seed else {}
        config = with_seed(make_config(asked.preset, overrides=given | split), seed)
        rows.append(scored(store, known, asked.out / f"seed-{seed}", config))
    print("| | last | " + " | ".join(map(str, DECAYS)) + " |")
    print("| --- " * (len(DECAYS) + 2) + "|")
    for what in rows[0]:
        table = np.array([row[what] for row in rows])
        for seed, values in enumerate(table):
            print(f"| {what}, seed {seed} | " + " | ".join(f"{v:.1f}" for v in values) + " |")
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(table.mean(0), table.std(0), strict=True)]
        print(f"| {what}, all | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
