"""The rows of the paper's Table 3 and other methods on any data: losses by seeds, scored with two decoders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from types import MappingProxyType

from d2net import api
from d2net.config import Config, make_config
from d2net.data.annotations import Annotations, load_annotations
from d2net.data.features import FeatureStore, open_features
from d2net.data.files import write_text
from d2net.distributed.launch import refuse
from d2net.evaluation import evaluate
from d2net.sections import LocalizeConfig
from d2net.terminal import Bar
from d2net.training.checkpoint import FILE
from d2net.training.folder import check_folder

ROWS = {
    "CE": {"loss.classification": "CE", "loss.denoising": "none"},
    "F": {"loss.classification": "F", "loss.denoising": "none"},
    "Dis": {"loss.classification": "Dis", "loss.denoising": "none"},
    "Dis+D": {"loss.classification": "Dis", "loss.denoising": "both"},
}


def _with(config: Config, changes: dict[str, object]) -> Config:
    tree = config.model_dump()
    for name, value in changes.items():
        section, field = name.split(".")
        tree[section][field] = value
    return Config.model_validate(tree)


def run_ablation(
    features: FeatureStore | str | os.PathLike,
    annotations: Annotations | str | os.PathLike,
    out: str | os.PathLike,
    config: Config,
    rows: Sequence[str],
    seeds: int,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    methods: Mapping[str, Config] = MappingProxyType({}),
) -> str:
    """Trains every row with every seed, writes table.json and table.md to `out`, and returns the table.

    average mAP over the configuration's IoUs, in percent, with the configuration's decoder and with the recipe's
    own, or the method's; the last column pairs each seed with the same seed of the row Dis.

    Args:
        methods: rows of other methods by name, each with its configuration.
        resume: go on with the runs that `out` holds; overwrite: replace them. progress: show bars.

    Raises:
        RunExists: `out` holds one of the runs and neither resume nor overwrite was given.
    """
    refuse("ablate", "start it without torchrun")
    if config.method != "d2net":
        raise ValueError(f"method: rows are losses of d2net, got {config.method}; name other methods beside them")
    if unknown := [r for r in rows if r not in ROWS]:
        raise ValueError(f"rows: unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    if len(set(rows)) < len(rows):
        twice = next(r for r in rows if rows.count(r) > 1)
        raise ValueError(f"rows: {twice} is given twice in {', '.join(rows)}; keep one")
    store = features if isinstance(features, FeatureStore) else open_features(features)
    known = annotations if isinstance(annotations, Annotations) else load_annotations(annotations)
    truth = known.subset(config.localize.subsets)
    configs = {row: _with(config, ROWS[row]) for row in rows} | dict(methods)
    out, names = Path(out), ("preset", config.recipe)
    folders = {(row, seed): out / f"{row}-{seed}" for row in configs for seed in range(seeds)}
    begun = {key: (folder / FILE).exists() for key, folder in folders.items()}
    for key, folder in folders.items():
        check_folder(folder, resume and begun[key], overwrite or resume)
    found: dict[str, dict[str, list[float]]] = {row: {name: [] for name in names} for row in configs}
    for row, seed in Bar("ablate", len(folders), unit="run", show=progress).over(folders):
        settings = _with(configs[row], {"train.seed": seed})
        own = make_config(recipe=settings.recipe, method=settings.method).localize
        again = resume and begun[row, seed]
        replace = (overwrite or resume) and not again
        model = api.train(
            store, known, folders[row, seed], settings, resume=again, overwrite=replace, device=device,
            progress=progress,
        )  # fmt: skip
        for name, decoder in zip(names, (settings.localize, own), strict=True):
            found[row][name].append(_average_map(model, store, truth, decoder, config))
        if seed == seeds - 1:
            whole = {r: scores for r, scores in found.items() if scores["preset"]}
            write_text(out / "table.json", json.dumps(whole, indent=1))
    table = _table(found, names)
    write_text(out / "table.md", table + "\n")
    return table


def _average_map(model: api.Model, store: object, truth: object, decoder: LocalizeConfig, config: Config) -> float:
    result = api.localize(model, store, annotations=truth, names=list(truth.videos), config=decoder)
    report = evaluate(
        result.detections, truth, protocol=config.evaluate.protocol, iou=config.evaluate.iou, timing=model.timing
    )
    return 100 * float(report.average_mAP)


def _table(found: dict[str, dict[str, list[float]]], decoders: Sequence[str]) -> str:
    lines = ["| loss | " + " | ".join(f"{d} decoder" for d in decoders) + " | paired with Dis |"]
    lines.append("| --- " * (len(decoders) + 2) + "|")
    for row, scores in found.items():
        cells = [f"{mean(v):.1f} ± {pstdev(v):.1f}" for v in scores.values()]
        paired = "-"
        if row != "Dis" and "Dis" in found:
            gaps = [a - b for a, b in zip(scores[decoders[0]], found["Dis"][decoders[0]], strict=True)]
            paired = " / ".join(f"{g:+.1f}" for g in gaps)
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {paired} |")
    return "\n".join(lines)
