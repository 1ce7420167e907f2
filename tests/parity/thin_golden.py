"""Thins the golden localization files: a few videos of localize_*.npz with everything that follows from them.

Totals and APs of the chosen videos are computed here, in plain Python, as section 3 of the golden README says; before
that the same lines must reproduce the totals and APs of the whole file. Independent of d2net and d2kernels on purpose.

    python tests/parity/thin_golden.py WHOLE OUT    (folders; OUT gets localize_thumos.npz and localize_activitynet.npz)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROWS = {"thumos": 15_000, "activitynet": 2_600}  # snippets to keep, at most


def proposals(column: np.ndarray) -> list[tuple[float, int, int]]:
    """(score, start, end) of every run of one class's activations, in generation order."""
    found, s = [], len(column)
    for i in range(1, 20):
        above = np.concatenate([[False], column > np.float32(i / 40), [False]])
        starts, ends = np.flatnonzero(above[1:] & ~above[:-1]), np.flatnonzero(above[:-1] & ~above[1:])
        for b, e in zip(starts, ends, strict=True):
            if e - b < 2:
                continue
            side = max(1, (e - b) // 4)
            sides = column[max(0, b - side) : b], column[e : min(s, e + side)]
            outer = [values.mean(dtype=float) for values in sides if len(values)]
            score = column[b:e].mean(dtype=float) - (sum(outer) / len(outer) if outer else 0.0)
            if not outer or score >= -0.4:
                found.append((float(score), int(b), int(e)))
    return found


def iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    both = min(a[1], b[1]) - max(a[0], b[0])
    return both / (a[1] - a[0] + b[1] - b[0] - both) if both > 0 else 0.0


def suppressed(found: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """What greedy NMS leaves, by falling score."""
    left, kept = sorted(found, key=lambda f: -f[0]), []
    while left:
        kept.append(left[0])
        left = [f for f in left[1:] if iou(kept[-1][1:], f[1:]) < 0.3]
    return kept


def totals(g: dict[str, np.ndarray]) -> tuple[int, int]:
    """Proposals before and after NMS over the selected and evaluated classes."""
    before = after = 0
    videos = np.split(g["tcam_f16"].astype(np.float32), np.cumsum(g["length"])[:-1])
    for activations, selected in zip(videos, g["class_selected"], strict=True):
        for c in set(np.flatnonzero(selected)) & set(g["eval_classes"].tolist()):
            found = proposals(activations[:, c])
            before, after = before + len(found), after + len(suppressed(found))
    return before, after


def average_precision(g: dict[str, np.ndarray], without: int = -1) -> np.ndarray:
    """(thresholds, evaluated classes); `without`: a class whose detections are left out."""
    ap = np.zeros((len(g["iou_thresholds"]), len(g["eval_classes"])))
    det = np.stack([g[f"det_{k}"] for k in ("video", "start", "end")], 1)
    for j, c in enumerate(g["eval_classes"]):
        mine = np.flatnonzero((g["det_class"] == c) & (g["det_class"] != without))
        mine = mine[np.argsort(-g["det_score"][mine], kind="stable")]
        truth = g["gt"][g["gt"][:, 0] == c][:, 1:].tolist()
        for i, threshold in enumerate(g["iou_thresholds"]):
            used, hit = set(), []
            for v, b, e in det[mine].tolist():
                rows = (r for r, t in enumerate(truth) if r not in used and t[0] == v and t[2] > t[1])
                first = next((r for r in rows if iou((b, e), truth[r][1:]) >= threshold), None)
                used.add(first)
                used.discard(None)
                hit.append(first is not None)
            true = np.cumsum(hit)
            if len(hit) and true[-1]:
                precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
                ap[i, j] = (np.diff(np.concatenate([[0], true])) / len(truth) * precision).sum()
    return ap


def derived(g: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is a sum or mean over videos."""
    before, after = totals(g)
    ap = average_precision(g)
    out = {"n_proposals_before_nms": before, "n_proposals_after_nms": after, "ap": ap, "map_percent": 100 * ap.mean(1)}
    if "class4_emptied_map_percent_intended" in g:
        out["class4_emptied_map_percent_intended"] = 100 * average_precision(g, without=4).mean(1)
    return {k: np.asarray(v) for k, v in out.items()}


def chosen_videos(g: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """The stage videos, then the most detections a snippet; no video of which ambiguous segments took any."""
    count = np.bincount(g["det_video"], minlength=len(g["length"]))
    videos = np.split(g["tcam_f16"].astype(np.float32), np.cumsum(g["length"])[:-1])
    keep, left = [], rows
    for v in [*g["stage_videos"].tolist(), *np.argsort(-count / g["length"], kind="stable").tolist()]:
        if v in keep or g["length"][v] > left:
            continue
        found = 0
        for c in set(np.flatnonzero(g["class_selected"][v])) & set(g["eval_classes"].tolist()):
            scores = [f[0] for f in suppressed(proposals(videos[v][:, c]))]
            found += sum(s >= 0.1 * scores[0] for s in scores if scores[0] >= 0)
        if found == count[v]:
            keep.append(v)
            left -= g["length"][v]
    return np.sort(np.array(keep))


def thinned(g: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    again = derived(g)
    for key, value in again.items():
        np.testing.assert_allclose(value, g[key], rtol=0, atol=1e-6, err_msg=key)
    keep = chosen_videos(g, rows)
    place = np.full(len(g["length"]), -1, np.int32)
    place[keep] = np.arange(len(keep))
    per_video = ("length", "video_index", "video_name", "duration", "class_scores", "class_selected")
    out = {key: g[key][keep] for key in per_video}
    out["tcam_f16"] = g["tcam_f16"][np.isin(np.repeat(np.arange(len(place)), g["length"]), keep)]
    gt = g["gt"][place[g["gt"][:, 1]] >= 0]
    out["gt"] = np.stack([gt[:, 0], place[gt[:, 1]], gt[:, 2], gt[:, 3]], 1).astype(np.int32)
    out["eval_classes"] = g["eval_classes"][np.isin(g["eval_classes"], gt[:, 0])]
    inside = (place[g["det_video"]] >= 0) & np.isin(g["det_class"], out["eval_classes"])
    out |= {f"det_{k}": g[f"det_{k}"][inside] for k in ("class", "start", "end", "score")}
    out["det_video"] = place[g["det_video"][inside]]
    stages = np.isin(g["stage_videos"], keep)
    out["stage_videos"] = place[g["stage_videos"][stages]]
    for stage in ("stage_before_nms", "stage_after_nms"):
        inside = (place[g[stage][:, 0]] >= 0) & np.isin(g[stage][:, 1], out["eval_classes"])
        out[stage] = np.concatenate([place[g[stage][inside, :1]], g[stage][inside, 1:]], 1)
        out[f"{stage}_score"] = g[f"{stage}_score"][inside]
    out["iou_thresholds"] = g["iou_thresholds"]
    out["unambiguous"] = np.array(True)
    return out | derived({**{k: g[k] for k in ("class4_emptied_map_percent_intended",) if k in g}, **out})


def main(whole: Path, out: Path) -> None:
    for name, rows in ROWS.items():
        with np.load(whole / f"localize_{name}.npz") as file:
            small = thinned(dict(file), rows)
        np.savez_compressed(out / f"localize_{name}.npz", **small)
        print(name, len(small["length"]), "videos", len(small["det_class"]), "detections", small["map_percent"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
