"""The report: one HTML page with its data inside."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from typing import Any

from d2net.data.annotations import Annotations
from d2net.data.files import write_text
from d2net.evaluation.errors import KINDS
from d2net.report.collect import Collected
from d2net.report.results import timeline
from d2net.report.runs import thinned

ROOM = 16e6  # bytes of all timelines together
MARK = "/*DATA*/"


def write_report(path: str | os.PathLike, found: Collected, title: str = "d2net report") -> None:
    """Writes the page in one step; it needs no network and no other file."""
    template = files("d2net.report").joinpath("template.html").read_text(encoding="utf-8")
    before, _, after = template.partition(MARK)
    write_text(path, before + embedded(page_data(found, title)) + after)


def embedded(tree: Any) -> str:
    """JSON that may stand in a script element, whatever its texts hold: no tag or comment begins or ends in it."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page_data(found: Collected, title: str) -> dict[str, Any]:
    """All that the page shows, as plain lists and numbers."""
    names = dict.fromkeys(c for r in found.results for c in r.model.classes)
    names |= dict.fromkeys(found.truth.classes if found.truth else ())
    classes = {c: i for i, c in enumerate(names)}
    return {
        "title": title,
        "kinds": list(KINDS),
        "classes": list(classes),
        "protocol": found.protocol,
        "at": found.at,
        "truth": found.truth.source if found.truth else None,
        "differences": _plain(found.differences()),
        "seeds": found.seeds(),
        "runs": [
            {
                "name": run.name,
                "settings": _plain(run.settings),
                "curves": {k: thinned(c, k.startswith("skipped")) for k, c in run.curves.items()},
                **({"metrics": m.to_dict()} if found.results and (m := found.results[i].metrics) is not None else {}),
                **({"errors": found.results[i].errors} if found.results else {}),
            }
            for i, run in enumerate(found.runs)
        ],
        "videos": _videos(found, classes, found.truth) if found.truth else [],
    }


def _videos(found: Collected, classes: dict[str, int], truth: Annotations) -> list[dict[str, Any]]:
    each = ROOM / max(1, len(truth.videos) * len(found.results))
    # Of a video's bytes, 4 of 3 values of up to 9 curves, and about 36 a detection.
    points, most = int(min(1500, max(50, 0.6 * each / 12))), int(min(500, max(20, 0.4 * each / 36)))
    out = []
    for name, video in truth.videos.items():
        runs = [timeline(r, name, classes, video.labels, points, most) for r in found.results]
        snippets = max(r["step"] * r["points"] for r in runs)
        ends = [snippets, *(s.end for s in video.segments), *(d[2] for r in runs for d in r["found"])]
        out.append(
            {
                "name": name,
                "duration": video.duration or max(ends),
                "truth": [[classes[s.label], s.start, s.end] for s in video.segments],
                "labels": [classes[c] for c in video.labels],
                "runs": runs,
            }
        )
    return out


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    """Values of a configuration as text, as YAML would have them."""

    def text(value: Any) -> Any:
        return [text(v) for v in value] if isinstance(value, list) else "none" if value is None else str(value)

    return {name: text(value) for name, value in tree.items()}
