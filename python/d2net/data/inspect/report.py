"""An inspection's result, as text for people and as a tree for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from d2net.data.inspect.findings import Finding
from d2net.data.inspect.recommend import Choice

MOST_CLASSES, MOST_PAIRS = 40, 8
_ORDER = ("error", "warning", "note")


@dataclass
class Inspection:
    """features, annotations, timing: numbers, None of what was not given or not readable; findings; and a command.

    used_segments: the choices come from the training videos' segments too.
    """

    features: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    timing: dict[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    command: str | None = None
    used_segments: bool = False

    @property
    def errors(self) -> int:
        return sum(f.level == "error" for f in self.findings)

    def tree(self) -> dict[str, Any]:
        """Plain values."""
        recommended = None
        if self.command is not None:
            choices = [c._asdict() for c in self.choices]
            recommended = {"command": self.command, "used_segments": self.used_segments, "choices": choices}
        return {
            "features": self.features,
            "annotations": self.annotations,
            "timing": self.timing,
            "findings": [f.tree() for f in self.findings],
            "errors": self.errors,
            "warnings": sum(f.level == "warning" for f in self.findings),
            "recommended": recommended,
        }

    def text(self) -> str:
        """What a terminal shows."""
        parts = [
            _features(self.features) if self.features else (),
            _annotations(self.annotations) if self.annotations else (),
            _timing(self.timing) if self.timing else (),
            _findings(self.findings),
            self._recommended(),
        ]
        return "\n\n".join(t for part in parts if (t := "\n".join(part)))

    def _recommended(self) -> Iterator[str]:
        if self.command is None:
            return
        seen = "from the training videos' segments too: --labels-only does without"
        yield f"recommended ({seen if self.used_segments else 'no segments were looked at'})"
        width = max(len(f"{c.field}={_value(c.value)}") for c in self.choices)
        for c in self.choices:
            yield f"  {f'{c.field}={_value(c.value)}':<{width}}  {c.reason}"
        yield ""
        yield self.command


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(values: dict[str, float] | None, unit: str = "") -> str:
    if values is None:
        return "unknown"
    return f"{values['min']:.4g} to {values['max']:.4g}{unit}, median {values['median']:.4g}"


def _features(f: dict[str, Any]) -> Iterator[str]:
    yield f"features: {f['source']}"
    yield f"  {f['layout']}: {f['videos']} videos of width {f['width']}"
    yield f"  snippets: {_range(f['lengths'])}, {f['lengths']['sum']:.0f} in all"
    if f.get("rms") is not None:
        alike = f["persistence_snippets"]
        lasting = "" if alike is None else f"; rows stay alike for {alike:.3g} snippets"
        yield f"  values: mean {f['mean']:.3g}, root mean square {f['rms']:.3g}, largest {f['largest']:.4g}{lasting}"


def _annotations(a: dict[str, Any]) -> Iterator[str]:
    yield f"annotations: {a['source']}"
    yield f"  {a['videos']} videos, {len(a['classes'])} classes, {a['instances']} instances"
    yield f"  videos last {_range(a['duration_seconds'], ' s')}; {a['labels_per_video']:.2f} labels a video"
    if a["instance_seconds"] is not None:
        yield f"  instances last {_range(a['instance_seconds'], ' s')}"
    rows = [
        [name, *(s[k] for k in ("videos", "labelled", "with_segments", "instances", "classes")), f"{s['hours']:.2f}"]
        for name, s in a["subsets"].items()
    ]
    yield from _table(["subset", "videos", "with labels", "with segments", "instances", "classes", "hours"], rows)
    subsets = list(a["subsets"])
    rows = [
        [
            c["name"],
            " + ".join(str(c["videos"].get(s, 0)) for s in subsets),
            c["instances"],
            *(f"{c['instance_seconds'][q]:.4g}" if c["instance_seconds"] else "-" for q in ("p10", "median", "p90")),
            f"{100 * c['share_of_video']['median']:.0f} %" if c["share_of_video"] else "-",
        ]
        for c in a["classes"][:MOST_CLASSES]
    ]
    names = " + ".join(subsets)
    yield from _table(["class", f"videos ({names})", "instances", "10 %", "median", "90 % (s)", "of a video"], rows)
    if len(a["classes"]) > MOST_CLASSES:
        yield f"  and {len(a['classes']) - MOST_CLASSES} more classes: --json has them"
    for pair in a["co_occurrence"][:MOST_PAIRS]:
        first, second = pair["classes"]
        yield (
            f"  together: {first} and {second} in {pair['videos']} videos ({100 * pair['of_first']:.0f} % and "
            f"{100 * pair['of_second']:.0f} % of theirs)"
        )
    if len(a["co_occurrence"]) > MOST_PAIRS:
        yield f"  and {len(a['co_occurrence']) - MOST_PAIRS} more pairs"


def _timing(t: dict[str, Any]) -> Iterator[str]:
    yield "timing"
    yield f"  stated: {t['stated'] or 'nothing'}" + (f" ({t['source']})" if t["source"] else "")
    fit = t["fitted"]
    if fit is None:
        why = "no single step fits" if t["compared"] else "there are none to compare with"
        yield f"  fitted to durations: {why}"
        return
    if fit["resized"]:
        yield "  fitted to durations: all videos have as many snippets whatever they last: resized features"
        return
    what = f"{fit['frames']:.4g} frames of each video's fps" if fit["frames"] else f"{fit['step']:.5g} s a snippet"
    yield f"  fitted to durations: {what} ({100 * fit['agree']:.0f} % of {t['compared']} videos agree)"
    if fit["readings"]:
        yield "  which are " + ", or ".join(f"{stride} frames at {fps:g} fps" for fps, stride in fit["readings"])


def _findings(findings: list[Finding]) -> Iterator[str]:
    levels = Counter(f.level for f in findings)
    counts = [f"{levels[level]} {level}{'s' if levels[level] > 1 else ''}" for level in _ORDER if levels[level]]
    yield "findings: " + (", ".join(counts) or "none")
    for level in _ORDER:
        yield from (f"  {level}: {f.text}" for f in findings if f.level == level)


def _table(head: list[str], rows: list[list[Any]]) -> Iterator[str]:
    cells = [head, *([str(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *others = (f"{x:{'<' if i == 0 else '>'}{w}}" for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        yield "  " + "  ".join([first, *others]).rstrip()
