"""mAP over tIoUs with pandas, in the style of ActivityNet's evaluation kit, and with Numba."""

from __future__ import annotations

import importlib.util

import numpy as np

IOUS = np.linspace(0.1, 0.7, 7)
Table = dict[str, np.ndarray]  # video, label: int; start, end, score: float


def pandas_missing() -> str | None:
    return None if importlib.util.find_spec("pandas") else "pandas is not installed"


def numba_missing() -> str | None:
    return None if importlib.util.find_spec("numba") else "numba is not installed"


def interpolated(precision: np.ndarray, recall: np.ndarray) -> float:
    envelope = np.hstack([[0], precision, [0]])
    edges = np.hstack([[0], recall, [1]])
    envelope = np.maximum.accumulate(envelope[::-1])[::-1]
    steps = np.nonzero(edges[1:] != edges[:-1])[0] + 1
    return float(np.sum((edges[steps] - edges[steps - 1]) * envelope[steps]))


def segment_iou(target: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    overlap = np.clip(
        np.minimum(target[1], candidates[:, 1]) - np.maximum(target[0], candidates[:, 0]), 0, None
    )
    union = (candidates[:, 1] - candidates[:, 0]) + (target[1] - target[0]) - overlap
    return overlap / union


def pandas_ap(truth: Table, found: Table, classes: int) -> np.ndarray:
    """AP (classes, IoUs): a row at a time, each prediction's video looked up in a group-by."""
    import pandas as pd

    truth_frame, found_frame = pd.DataFrame(truth), pd.DataFrame(found)
    result = np.zeros((classes, len(IOUS)))
    for c in range(classes):
        of_truth = truth_frame[truth_frame["label"] == c].reset_index(drop=True)
        of_found = found_frame[found_frame["label"] == c].reset_index(drop=True)
        if of_truth.empty or of_found.empty:
            continue
        of_found = of_found.loc[of_found["score"].values.argsort(kind="stable")[::-1]].reset_index(drop=True)
        used = -np.ones((len(IOUS), len(of_truth)))
        hit, miss = np.zeros((len(IOUS), len(of_found))), np.zeros((len(IOUS), len(of_found)))
        by_video = of_truth.groupby("video")
        for i, row in of_found.iterrows():
            try:
                here = by_video.get_group(row["video"]).reset_index()
            except KeyError:
                miss[:, i] = 1
                continue
            iou = segment_iou(row[["start", "end"]].values.astype(float), here[["start", "end"]].values)
            by_iou = iou.argsort()[::-1]
            for t, threshold in enumerate(IOUS):
                for j in by_iou:
                    if iou[j] < threshold:
                        miss[t, i] = 1
                        break
                    if used[t, int(here.loc[j, "index"])] >= 0:
                        continue
                    hit[t, i] = 1
                    used[t, int(here.loc[j, "index"])] = i
                    break
                if hit[t, i] == 0 and miss[t, i] == 0:
                    miss[t, i] = 1
        hits, misses = np.cumsum(hit, axis=1), np.cumsum(miss, axis=1)
        for t in range(len(IOUS)):
            result[c, t] = interpolated(hits[t] / (hits[t] + misses[t]), hits[t] / len(of_truth))
    return result


def _numba_matcher():
    import numba

    @numba.njit(cache=False)
    def match(start, end, first, last, truth_start, truth_end, thresholds):
        hit = np.zeros((len(thresholds), len(start)), np.bool_)
        used = np.zeros((len(thresholds), len(truth_start)), np.bool_)
        for i in range(len(start)):
            for t in range(len(thresholds)):
                best, best_iou = -1, thresholds[t]
                for j in range(first[i], last[i]):
                    if used[t, j]:
                        continue
                    overlap = max(0.0, min(end[i], truth_end[j]) - max(start[i], truth_start[j]))
                    iou = overlap / (truth_end[j] - truth_start[j] + end[i] - start[i] - overlap)
                    if iou >= best_iou and (best < 0 or iou > best_iou):
                        best, best_iou = j, iou
                if best >= 0:
                    used[t, best] = True
                    hit[t, i] = True
        return hit

    return match


_matcher = None


def numba_ap(truth: Table, found: Table, classes: int) -> np.ndarray:
    """AP (classes, IoUs): sorted arrays, a compiled loop over predictions."""
    global _matcher
    _matcher = _matcher or _numba_matcher()
    result = np.zeros((classes, len(IOUS)))
    for c in range(classes):
        truths = np.flatnonzero(truth["label"] == c)
        truths = truths[np.argsort(truth["video"][truths], kind="stable")]
        rows = np.flatnonzero(found["label"] == c)
        if not len(truths) or not len(rows):
            continue
        rows = rows[np.argsort(-found["score"][rows], kind="stable")]
        videos = truth["video"][truths]
        first = np.searchsorted(videos, found["video"][rows], "left")
        last = np.searchsorted(videos, found["video"][rows], "right")
        hit = _matcher(
            found["start"][rows], found["end"][rows], first, last, truth["start"][truths], truth["end"][truths], IOUS
        )
        hits = np.cumsum(hit, axis=1)
        for t in range(len(IOUS)):
            result[c, t] = interpolated(hits[t] / np.arange(1, len(rows) + 1), hits[t] / len(truths))
    return result
