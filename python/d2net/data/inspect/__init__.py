"""What features and annotations hold, what is odd about them, and the configuration that they call for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from d2net.data.annotations import Annotations, Video, load_annotations
from d2net.data.features import FeatureStore, open_features
from d2net.data.files import DataError
from d2net.data.inspect import labels, rows
from d2net.data.inspect.coverage import coverage_findings, matched
from d2net.data.inspect.facts import durations_of, gather
from d2net.data.inspect.findings import Finding
from d2net.data.inspect.recommend import command, recommend, timing_flags
from d2net.data.inspect.report import Inspection
from d2net.data.inspect.segments import segment_findings
from d2net.data.inspect.steps import Fit, fit_steps
from d2net.data.stated import compare_lengths, overruled_videos, stated_timing
from d2net.timing import Resolved, Statement, Timing, resolve

T = TypeVar("T")
Step = Callable[[int, int], object]


def inspect_data(
    features: str | os.PathLike | None,
    annotations: str | os.PathLike | None,
    others: Sequence[str | os.PathLike] = (),
    *,
    timing: Timing | None = None,
    subsets: Sequence[str] | None = None,
    labels_only: bool = False,
    defaults: Mapping[str, Any] | None = None,
    flags: Sequence[str] = (),
    step: Step | None = None,
    open_features: Callable[[Path], FeatureStore] = open_features,
    load_annotations: Callable[[Path], Annotations] = load_annotations,
) -> Inspection:
    """Reads the features once, a video at a time, and the annotations.

    Args:
        features, annotations: paths; either may be None.
        others: annotation files to compare with the first.
        timing: as the user states it, before what data say.
        subsets: those trained on, told from their names by default.
        labels_only: recommend without looking at segments.
        defaults: the recipe's fields, which the command need not repeat.
        flags: options that it repeats.
        open_features, load_annotations: in place of the usual ones, such as with a layout that the user names.
        step: called with the number of videos read and of all.

    Returns:
        what was found; a file that cannot be read is a finding too, an error.
    """
    done = Inspection()
    store = _opened(done, features, open_features)
    known = _opened(done, annotations, load_annotations)
    facts = None
    if store is not None:
        done.features = rows.describe(store, None)
        total = len(store)
        facts = rows.read_rows(store, store.names, None if step is None else _counted(step, total))
        done.features = rows.describe(store, facts)
        done.findings += facts.findings()
    if known is not None:
        done.annotations = labels.describe(known)
        done.findings += [*labels.label_findings(known), *labels.spelling(known), *segment_findings(known)]
        for other in (_opened(done, path, load_annotations) for path in others):
            done.findings += labels.compare(known, other) if other is not None else []
    if store is not None and known is not None:
        both, alias = matched(known, store)
        done.findings += coverage_findings(known, store.names, both, alias)
        fit = _compare_timing(done, store, known, both, timing)
        told = gather(store, known, rows=facts, subsets=subsets, timing=timing, use_segments=not labels_only)
        if not told.videos and both:
            text = f"no video of subset {told.training} has features; name the one to train on with --train-subset"
            done.findings.append(Finding("error", "no training video", text))
        if told.videos:
            done.choices = recommend(told)
            done.used_segments = told.share is not None
            agrees = done.timing is None or done.timing["agrees"]
            when = timing_flags(timing) if agrees else fit.flags() if fit else ""
            options = [*flags, *([when] if when.startswith("--") else [])]
            done.command = command(str(features), str(annotations), done.choices, options, defaults or {})
    return done


def _counted(step: Step, total: int) -> Callable[[], object]:
    at = iter(range(1, total + 1))
    return lambda: step(next(at), total)


def _opened(done: Inspection, path: str | os.PathLike | None, load: Callable[[Path], T]) -> T | None:
    """What `load` gives of a path; an error or warning of it is a finding."""
    if path is None:
        return None
    try:
        with _heard(done):
            return load(Path(path))
    except DataError as error:
        done.findings.append(Finding("error", "unreadable", str(error)))
        return None


@contextmanager
def _heard(done: Inspection) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    # Odd segments have findings of their own.
    said = [str(w.message) for w in heard if "segments are kept" not in str(w.message)]
    done.findings += [Finding("note", "read as", text) for text in said]


def _compare_timing(
    done: Inspection, store: FeatureStore, known: Annotations, both: Mapping[str, Video], timing: Timing | None
) -> Fit | None:
    """What is stated beside what durations say; videos that agree with neither are findings."""
    renamed = replace(known, videos={name: replace(v, name=name) for name, v in both.items()})
    stated = stated_timing(renamed, store, list(both))
    explicit = [Statement("the command line", timing.to_dict(), explicit=True)] if timing is not None else []
    found = _resolved(done, [*explicit, *stated.statements])
    own = {} if found.explicit else stated.videos
    durations = durations_of(store, both)
    rates = {name: v.fps for name, v in both.items() if v.fps is not None}
    lengths = {name: store.lengths[name] for name in both}
    fit = fit_steps(lengths, durations, rates)
    agrees = found.timing is not None or (bool(both) and len(own) == len(both))
    done.timing = {
        "stated": None if found.timing is None else str(found.timing),
        "source": found.source,
        "videos_with_their_own": len(own),
        "compared": len(durations),
        "fitted": None if fit is None else fit.tree(),
        "agrees": agrees,
    }
    try:
        odd = compare_lengths(
            lengths,
            durations,
            lambda v: own.get(v, found.timing),
            lambda v: known.source if v in own else found.source,
            rates,
            store.width,
        )
    except DataError as error:
        done.findings.append(Finding("error", "transposed", str(error)))
        done.timing["agrees"] = False
        return None
    for text in [*found.contradictions, *stated.notes, *overruled_videos(found, stated.videos, known.source)]:
        done.findings.append(Finding("warning", "timing contradicts", text))
    for text in odd:
        done.findings.append(Finding("warning", "timing against durations", text))
    if fit is not None and found.timing is not None and not _agree(found.timing, fit):
        text = f"durations fit other snippets than {found.timing} ({found.source}): {fit.flags()}"
        done.findings.append(Finding("error", "timing does not fit", text))
        done.timing["agrees"] = False
    elif not agrees:
        hint = f"say {fit.flags()}" if fit is not None and fit.flags() else "say --fps, --stride and --snippet-frames"
        done.findings.append(Finding("warning", "no timing", f"nothing states when a snippet is; {hint}"))
    return fit


def _resolved(done: Inspection, statements: Sequence[Statement]) -> Resolved:
    try:
        return resolve(statements)
    except ValueError as error:
        done.findings.append(Finding("error", "timing", str(error)))
        return Resolved(None, "", False, [])


def _agree(timing: Timing, fit: Fit) -> bool:
    """Whether the stated step is the fitted one, within what their spread can tell."""
    if timing.resized or fit.resized:
        return timing.resized == fit.resized
    return fit.step is None or abs(timing.steps(None, None)[0] / fit.step - 1) <= 0.03
