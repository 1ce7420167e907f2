"""Class selection, proposals, NMS, detections and AP on stored activations (localize_*.npz)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import d2kernels as d2k
from d2net.config import Config, make_config
from d2net.data.annotations import AnnotationWarning, load_annotations
from d2net.data.detections import Detections
from d2net.evaluation import (
    PROTOCOLS,
    RELEASE_RATE,
    Spans,
    drop_ambiguous,
    load_ambiguous,
    load_fractions,
    score,
    to_snippets,
)
from d2net.localization.decoding import ClassScores, detect, select_classes
from d2net.parity.checks import Case, Check, Golden, preset_of
from d2net.presets import TIMINGS
from d2net.timing import Timing

SCORE, AP, MAP_PERCENT = 1e-6, 1e-6, 1e-4
FOLDERS = {"thumos14": "thumos14_wtalc", "activitynet12": "activitynet12_wtalc"}


class Found(NamedTuple):
    """Segments (m, 4) int64 of class, video, start, end in snippets, and their scores (m,)."""

    rows: np.ndarray
    score: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Found:  # type: ignore[override]
        return Found(self.rows[index], self.score[index])


def _found(columns: list[torch.Tensor], scores: np.ndarray) -> Found:
    """Sorted by class, then video; the order within them stays."""
    rows = np.stack([np.rint(c.cpu().numpy()).astype(np.int64) for c in columns], 1)
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    return Found(rows[order], scores[order])


def _detected(refined: d2k.Ragged, classes: ClassScores, config: Config, **changes: float | None) -> Found:
    out = detect(refined, classes, config.localize.model_copy(update=changes))
    return _found([out.label, out.sequence, out.start, out.end], out.score.cpu().numpy())


def _keys(rows: np.ndarray) -> np.ndarray:
    """One sortable value per row."""
    return np.ascontiguousarray(rows.astype(">i8")).view("V32")[:, 0]


def _proposals(refined: d2k.Ragged, classes: ClassScores, config: Config) -> Found:
    """Every run at every threshold in generation order, repeats included, without those below the score limit."""
    runs = d2k.connected_components(
        refined,
        config.localize.threshold_values(),
        class_mask=classes.selected,
        min_length=config.localize.min_length,
        distinct=False,
    )
    every = _found([runs.label, runs.sequence, runs.start, runs.end], np.zeros(len(runs.start)))
    # At IoU 1 only repeats are suppressed: what is left are the distinct proposals with their scores.
    distinct = _detected(refined, classes, config, iou_threshold=1.0, keep_ratio=None)
    scores = {tuple(r): s for r, s in zip(distinct.rows.tolist(), distinct.score.tolist(), strict=True)}
    kept = np.array([tuple(r) in scores for r in every.rows.tolist()], bool)
    rows = every.rows[kept]
    return Found(rows, np.array([scores[tuple(r)] for r in rows.tolist()]))


def _compare_stages(case: Case, golden: Golden, stage: str, found: Found) -> None:
    inside = np.isin(found.rows[:, 1], golden["stage_videos"])
    rows = found.rows[inside][:, [1, 0, 2, 3]]
    case.compare(f"stage_{stage}", rows, golden[f"stage_{stage}"].astype(np.int64), 0)
    case.compare(f"stage_{stage}_score", found.score[inside], golden[f"stage_{stage}_score"], SCORE)


def _without_ambiguous(found: Found, names: list[str], classes: int, config: Config, path: Path) -> Found:
    """As users do it: in seconds, compared as whole snippets."""
    start, end = Timing(**TIMINGS[config.preset or ""]).seconds(*found.rows[:, 2:].T)
    label, video = found.rows[:, :2].T
    inside = Detections.from_arrays(names, [str(c) for c in range(classes)], video, label, start, end, found.score)
    left = drop_ambiguous(inside, load_ambiguous(path), rate=RELEASE_RATE)
    columns = (left.label, left.video, to_snippets(left.start), to_snippets(left.end))
    return Found(np.stack(columns, 1).astype(np.int64), left.score)


def _compare_ap(case: Case, golden: Golden, found: Found, classes: int) -> None:
    truth = Spans(*golden["gt"].T)
    iou = golden["iou_thresholds"].tolist()

    def ap(detections: Found) -> np.ndarray:
        spans = Spans(*detections.rows.T, detections.score)
        return score(spans, truth, classes=classes, iou=iou, protocol=PROTOCOLS["release"]).ap

    result = ap(found)
    case.compare("ap", result[:, golden["eval_classes"]], golden["ap"], AP)
    case.compare("map_percent", 100 * np.nanmean(result, 1), golden["map_percent"], MAP_PERCENT)
    if "class4_emptied_map_percent_intended" in golden:
        emptied = 100 * np.nanmean(ap(found[found.rows[:, 0] != 4]), 1)
        for key in ("bug_class4_emptied_map_percent", "class4_emptied_map_percent_intended"):
            if key in golden:
                case.compare(key, emptied, golden[key], MAP_PERCENT)


def _ground_truth(golden: Golden, folder: Path, preset: str) -> np.ndarray:
    """(m, 4) class, video, start, end in snippets, in evaluation order."""
    names = [str(v) for v in golden["video_name"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnnotationWarning)
        if preset == "thumos14":
            durations = dict(zip(names, golden["duration"].tolist(), strict=True))
            truth = load_fractions(folder / "test_gt_segments_d2net.json", durations)
        else:
            truth = load_annotations(folder / "annotations.json").only(names)
    rows = [
        (truth.classes.index(s.label), v, *to_snippets(np.array([s.start, s.end])))
        for v, name in enumerate(names)
        if name in truth.videos
        for s in truth.videos[name].segments
    ]
    return np.array(sorted(rows, key=lambda r: r[:2]), np.int64)


def check_localize(name: str, golden: Golden, device: torch.device, data: Path) -> list[Check]:
    """From reweighted activations R to mAP; data: the folder with the data sets' annotations."""
    case = Case(name, {"bug_class4_emptied_map_percent": "bug 4: a class without detections shifts the later ones"})
    lengths = torch.from_numpy(golden["length"].astype(np.int64))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    refined = d2k.Ragged(torch.from_numpy(golden["tcam_f16"]).float(), offsets).to(device)
    classes = refined.shape[1]
    preset = preset_of(classes)
    config = make_config(preset)
    folder = data / FOLDERS[preset]

    chosen = select_classes(refined, refined, config.localize)
    case.compare("class_scores", chosen.score, golden["class_scores"], SCORE)
    case.compare("class_selected", chosen.selected, golden["class_selected"], 0)
    evaluated = torch.zeros(classes, dtype=torch.bool, device=device)
    evaluated[torch.from_numpy(golden["eval_classes"]).long()] = True
    chosen = chosen._replace(selected=chosen.selected & evaluated)

    for stage, found in (
        ("before_nms", _proposals(refined, chosen, config)),
        ("after_nms", _detected(refined, chosen, config, keep_ratio=None)),
    ):
        case.compare(f"n_proposals_{stage}", len(found.score), golden[f"n_proposals_{stage}"], 0)
        _compare_stages(case, golden, stage, found)

    if folder.is_dir():
        gt = golden["gt"].astype(np.int64)
        ordered = gt[np.lexsort((gt[:, 1], gt[:, 0]))]
        case.compare("gt", _ground_truth(golden, folder, preset), ordered, 0)
    else:
        case.skip(["gt"], f"no data at {folder}")
    found = _detected(refined, chosen, config)
    if preset == "thumos14" and "unambiguous" not in golden:
        ambiguous = folder / "Ambiguous_test.txt"
        if not ambiguous.exists():
            keys = ["det_class", "det_video", "det_start", "det_end", "det_score", "ap", "map_percent"]
            case.skip(keys, f"no data at {folder}")
            return case.checks
        found = _without_ambiguous(found, [str(v) for v in golden["video_name"]], classes, config, ambiguous)
    for column, key in enumerate(("class", "video", "start", "end")):
        case.compare(f"det_{key}", found.rows[:, column], golden[f"det_{key}"], 0)
    case.compare("det_score", found.score, golden["det_score"], SCORE)
    _compare_ap(case, golden, found, classes)
    return case.checks
