"""What a resumed run must share with its checkpoint, and how data and environment are told apart."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import d2kernels
from d2net.config import Config, from_dict
from d2net.data.files import some
from d2net.methods import METHODS
from d2net.timing import Timing
from d2net.training.checkpoint import CheckpointError
from d2net.training.errors import TrainingError, TrainingWarning

if TYPE_CHECKING:
    from d2net.data.annotations import Video
    from d2net.data.features import FeatureStore

WHOLE = 2**20  # bytes of an array that are all part of its fingerprint; of larger ones, some rows are
ROWS = 16
VANISHING, TINY = 1e-12, 1e-3  # largest features that no training, and hardly any, can use
# Fields of train.
FREE = ("iterations", "checkpoint_every", "workers", "resident", "graph", "cache_gigabytes", "log_every")
AGAIN = "make it as it was, or pass --overwrite to start again"


def data_digest(names: Iterable[str], labels: np.ndarray, counts: np.ndarray | None = None) -> str:
    """Identifies videos, their labels, and how often each occurs where that is known."""
    # Names of files need not be Unicode.
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(labels, dtype=np.uint8).tobytes())
    if counts is not None:
        digest.update(np.ascontiguousarray(counts, dtype=np.float32).tobytes())
    return digest.hexdigest()


def segments_digest(videos: Iterable[Video], timings: Mapping[str, Timing]) -> str:
    """Identifies what loc_mAP compares with: segments, durations, and the timings of videos that state their own."""
    facts = []
    for v in videos:
        timing = timings[v.name].to_dict() if v.name in timings else None
        facts.append([[[s.label, s.start, s.end] for s in v.segments], v.duration, timing])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def features_fingerprint(
    store: FeatureStore, names: Sequence[str], arrays: Iterable[tuple[str, np.ndarray]]
) -> dict[str, Any]:
    """Rows of each of the videos, and digests of the arrays that are read: of all their values, or of some rows.

    Raises:
        FeatureError: a video that is read is damaged.
    """
    lengths = {v: int(store.lengths[v]) for v in names}
    digests, constant, largest = {}, [], {}
    for v, array in arrays:
        largest[v] = float(max(array.max(), -array.min()))
        digests[v] = _digest(array)
        if len(array) > 1 and (array == array[0]).all():
            constant.append(v)
    if constant:
        warnings.warn(
            f"features of {len(constant)} of {len(digests)} videos read are the same in every row, and say nothing of "
            f"when: {some(constant)}; extract them again",
            TrainingWarning,
            stacklevel=5,
        )
    _check_sizes(largest)
    return {"lengths": lengths, "digests": digests}


def _check_sizes(largest: Mapping[str, float]) -> None:
    """Raises TrainingError where all features vanish in any network's arithmetic, and warns of small ones."""
    highest = max(largest.values(), default=1.0)
    if highest < VANISHING:
        raise TrainingError(
            f"nothing could be trained: features of all {len(largest)} videos read are of at most {highest:.3g}; scale "
            "them to about unit size, or extract them again"
        )
    small = [v for v, most in largest.items() if 0 < most < TINY]
    if small:
        most = max(largest[v] for v in small)
        warnings.warn(
            f"features of {len(small)} of {len(largest)} videos read are of at most {most:.3g}, and little is learned "
            f"from them: {some(small)}; scale all to about unit size",
            TrainingWarning,
            stacklevel=6,
        )


def _digest(array: np.ndarray) -> str:
    if array.nbytes > WHOLE:
        array = array[np.linspace(0, len(array) - 1, min(ROWS, len(array))).astype(int)]
    # Values count, not how they are stored.
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()[:16]


def environment(device: torch.device, threads: int, processes: int = 1) -> dict[str, str]:
    """What decides the bits of a result beside data and configuration."""
    gpu = device.type == "cuda"
    return {
        "D2K_FLOAT32": os.environ.get("D2K_FLOAT32", ""),
        "D2K_BACKEND": os.environ.get("D2K_BACKEND", ""),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "torch": str(torch.__version__),
        "d2kernels": str(d2kernels.__version__),
        "float32 products": torch.get_float32_matmul_precision(),
        "instructions": "" if gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": "" if gpu else str(threads),
        "processes": str(processes),
    }


def check_same_run(saved: Mapping[str, Any], config: Config, meta: Mapping[str, Any]) -> list[str]:
    """Raises CheckpointError unless this run goes on with the saved one; returns what is worth a warning.

    Args:
        saved: the checkpoint; meta: what this run would write beside its weights.
    """
    if saved["width"] != meta["width"]:
        raise CheckpointError(f"resume: features have width {meta['width']}, the checkpoint's had {saved['width']}")
    _same_fields(from_dict(saved["config"]), config)
    if config.train.iterations < saved["iteration"]:
        raise CheckpointError(
            f"resume: train.iterations is {config.train.iterations}, but the checkpoint has done {saved['iteration']}; "
            "raise it, or pass --overwrite to start again"
        )
    _same_names("classes", saved["classes"], meta["classes"])
    _same_timing(saved["timing"], meta["timing"])
    if saved["streams"] != meta["streams"]:
        raise CheckpointError(f"resume: {meta['streams']} streams, but the checkpoint has {saved['streams']}")
    if (before := saved.get("features")) is None:
        if saved["data"] != meta["data"]:
            raise CheckpointError(f"resume: the training videos or their labels differ from the checkpoint's; {AGAIN}")
        return ["resume: the checkpoint is of an earlier revision and tells nothing of the features' values"]
    _same_names("training videos", list(before["lengths"]), list(meta["features"]["lengths"]))
    if saved["data"] != meta["data"]:
        raise CheckpointError(f"resume: labels of the training videos differ from the checkpoint's, or counts; {AGAIN}")
    _same_features(before, meta["features"])
    return [*_same_held_out(saved, meta), *_other_environment(saved["environment"], meta["environment"])]


def _same_fields(before: Config, now: Config) -> None:
    if before.method != now.method:
        raise CheckpointError(f"resume: method is {now.method!r} but the checkpoint was trained with {before.method!r}")
    free = {("localize", "subsets"), *(("train", name) for name in FREE)}
    if now.train.decay_share:
        free.remove(("train", "iterations"))  # the learning rate would have fallen otherwise
    if now.train.selection == "last":
        free.add(("train", "evaluate_every"))
    scored = ("localize",) if now.train.selection == "loc_mAP" else ()
    own = () if now.method == "d2net" else (METHODS[now.method],)
    for section in ("model", "loss", "train", *own, *scored):
        old, new = getattr(before, section).model_dump(), getattr(now, section).model_dump()
        for name, value in old.items():
            if value != new[name] and (section, name) not in free:
                raise CheckpointError(
                    f"resume: {section}.{name} is {new[name]!r} but the checkpoint was trained with {value!r}"
                )


def _same_names(what: str, before: Sequence[str], now: Sequence[str]) -> None:
    if list(before) == list(now):
        return
    new, gone = [n for n in now if n not in set(before)], [n for n in before if n not in set(now)]
    parts = [f"{len(names)} {how} ({some(names)})" for names, how in ((new, "new"), (gone, "gone")) if names]
    raise CheckpointError(
        f"resume: the {what} are not the checkpoint's: {' and '.join(parts) or 'their order differs'}; {AGAIN}"
    )


def _same_timing(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    if before is None:
        return
    old, new = Timing.from_dict(dict(before)), Timing.from_dict(dict(now)) if now else None
    if new is None or not new.same_as(old):
        raise CheckpointError(
            f"resume: the timing is {new or 'unknown'}, but the checkpoint's is {old}; give the same one"
        )


def _same_features(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for v, rows in before["lengths"].items():
        if now["lengths"][v] != rows:
            raise CheckpointError(f"resume: features of {v!r} have {now['lengths'][v]} rows, and had {rows}; {AGAIN}")
    digests = before["digests"]
    if other := [v for v, digest in now["digests"].items() if digests.get(v, digest) != digest]:
        raise CheckpointError(
            f"resume: features of {len(other)} of {len(digests)} videos compared have other values than those that the "
            f"checkpoint was trained on ({some(other)}); {AGAIN}"
        )


def _same_held_out(saved: Mapping[str, Any], meta: Mapping[str, Any]) -> list[str]:
    """Raises where held-out videos, which the selection is made by, are others; what earlier revisions do not tell is
    returned to be said."""
    if "held_out" in saved:
        _same_names("held-out videos", saved["held_out"], meta["held_out"])
    if not meta["held_out"]:
        return []
    if saved.get("held_out_features") is None:
        return ["resume: the checkpoint is of an earlier revision and tells nothing of the held-out videos' data"]
    _same_features(saved["held_out_features"], meta["held_out_features"])
    for name, what in (("held_out_labels", "labels"), ("held_out_segments", "segments, durations or timings")):
        if saved.get(name) != meta.get(name):
            raise CheckpointError(f"resume: {what} of the held-out videos differ from the checkpoint's; {AGAIN}")
    return []


def _other_environment(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    before = {"processes": "1", **before}  # of revisions that had one
    changed = [f"{k} was {before[k] or 'unset'} and is {v or 'unset'}" for k, v in now.items() if before.get(k, v) != v]
    return [f"resume: the run goes on, but not bit for bit: {'; '.join(changed)}"] if changed else []
