"""Evaluation by several processes: each matches the detections of its videos, and averages the precision of its
classes, of which it is sent every process's scores and hits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from d2net.data.detections import Detections
from d2net.data.detections.share import Part
from d2net.evaluation.in_parts import ClassScores
from d2net.evaluation.matching import Protocol, Spans, average_precision, score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from d2net.distributed.ranks import Ranks

T = TypeVar("T")
_EXACT = 2.0**53  # above which sums of whole numbers depend on their order


@dataclass(frozen=True)
class Shared:
    """The processes, and the rows (m,) of the file that this one's detections are."""

    ranks: Ranks
    rows: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Shared:
        return replace(self, rows=self.rows[index])

    @property
    def part(self) -> Part:
        return Part(self.ranks.rank, self.ranks.size)

    def check_same(self, **facts: tuple[Sequence[str] | np.ndarray, ...]) -> None:
        """Raises ValueError where the processes have read different files."""
        digests = {}
        for name, columns in facts.items():
            digest = hashlib.blake2b(digest_size=16)
            for column in columns:
                if isinstance(column, np.ndarray):
                    digest.update(column.tobytes())
                else:
                    digest.update(repr(column).encode("utf-8", "surrogatepass"))
            digests[name.replace("_", " ")] = digest.hexdigest()
        with _watched(self.ranks):
            self.ranks.check_same(digests)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the processes of arrays of whole numbers.

        Raises:
            ValueError: one that float64 may not hold.
        """
        with _watched(self.ranks):
            total = sum(self.ranks.all_of(np.asarray(values)))
        if np.abs(total).max(initial=0) >= _EXACT:
            raise ValueError(
                f"counts of {float(np.abs(total).max()):.3g} depend on the order that they are added in; start "
                "evaluate without torchrun"
            )
        return np.asarray(total)

    def union(self, values: np.ndarray) -> np.ndarray:
        """Those that any process has, rising."""
        with _watched(self.ranks):
            return np.unique(np.concatenate(self.ranks.all_of(np.unique(values))))

    def by_class(self, label: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """(label, *columns) of all detections of this process's classes, in the file's order.

        Args:
            label: (m,), columns: (m, ...), of this process's detections; labels below 0 are nobody's.
        """
        with _watched(self.ranks):
            of = np.where(label < 0, -1, label % self.ranks.size)
            rows, *found = _exchanged(self.ranks, of, (self.rows, label, *columns))
        order = np.argsort(rows)
        return tuple(x[order] for x in found)

    def joined(self, ap: np.ndarray) -> np.ndarray:
        """(T, C) of which each process knows its classes' columns."""
        size = self.ranks.size
        with _watched(self.ranks):
            parts = self.ranks.all_of(ap[:, self.ranks.rank :: size].copy())
        for rank, part in enumerate(parts):
            ap[:, rank::size] = part
        return ap


def _exchanged(ranks: Ranks, to: np.ndarray, columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The rows (m, ...) that all processes send to this one, by process; those of which `to` is negative go nowhere."""
    import torch
    import torch.distributed as dist

    places = [np.flatnonzero(to == rank) for rank in range(ranks.size)]
    counts = [sent[ranks.rank] for sent in ranks.all_of([len(own) for own in places])]
    found = []
    for column in columns:
        parts = [np.empty((count, *column.shape[1:]), column.dtype) for count in counts]
        parts[ranks.rank] = column[places[ranks.rank]]
        for step in range(1, ranks.size):
            target, source = (ranks.rank + step) % ranks.size, (ranks.rank - step) % ranks.size
            sent = np.ascontiguousarray(column[places[target]])
            pair = [torch.from_numpy(x.reshape(-1).view(np.uint8)) for x in (sent, parts[source])]
            work = dist.isend(pair[0], group=ranks.control, group_dst=target)
            dist.recv(pair[1], group=ranks.control, group_src=source)
            if work is not None:
                work.wait()
        found.append(np.concatenate(parts))
    return found


@contextmanager
def _watched(ranks: Ranks) -> Iterator[None]:
    """Turns what torch raises where another process is gone into a LostPeer."""
    from d2net.distributed.ranks import LostPeer

    try:
        yield
    except RuntimeError as error:
        raise LostPeer(
            f"process {ranks.rank} of {ranks.size}: another process has ended or does not answer; start evaluate again"
        ) from error


def shared_detections(found: Detections, ranks: Ranks) -> Detections:
    """A process's detections by the classes of all, of which each knows those in its part of a file."""
    if found.share is None:
        raise ValueError("evaluate: several processes need detections that were loaded with part=")
    with _watched(ranks):
        every = dict.fromkeys(name for classes in ranks.all_of(found.classes) for name in classes)
    place = {name: c for c, name in enumerate(every)}
    of_label = np.array([place[name] for name in found.classes], np.int64)
    return replace(found, classes=tuple(every), label=of_label[found.label])


def score_shared(
    detections: Spans,
    truth: Spans,
    shared: Shared,
    *,
    positives: np.ndarray,
    iou: Sequence[float],
    protocol: Protocol,
    ignore: np.ndarray | None = None,
) -> tuple[ClassScores, np.ndarray]:
    """As `matching.score` of all processes' detections; and the partner of this one's, (T, m).

    Args:
        detections: m of the process's videos; truth: instances of these; positives: (C,) instances of all videos.
    """
    own = score(detections, truth, classes=len(positives), iou=iou, protocol=protocol, ignore=ignore)
    ap = precision_shared(detections, own.partner >= 0, shared, positives=positives, protocol=protocol, ignore=ignore)
    tp, fp = shared.sum(np.stack([own.tp, own.fp]))
    return ClassScores(ap, tp, fp, int(positives.sum()) - tp), own.partner


def precision_shared(
    detections: Spans,
    hits: np.ndarray,
    shared: Shared,
    *,
    positives: np.ndarray,
    protocol: Protocol,
    ignore: np.ndarray | None = None,
    left: np.ndarray | None = None,
) -> np.ndarray:
    """(S, C) average precision over all processes' detections, NaN for a class without instances.

    Args:
        hits: (S, m) bool, which of the process's detections are true positives, in each of S ways to match them.
        ignore: (m,) bool, those that count where they are hits alone; left: (S, m) bool, those that take part.
    """
    ways, classes = len(hits), len(positives)
    label = np.where((detections.label >= 0) & (detections.label < classes), detections.label, -1)
    none = np.zeros((len(label), 0))
    columns = [
        detections.scored,
        np.packbits(hits, axis=0).T,
        detections.video if protocol.ties == "video" else none,
        none if ignore is None else ignore,
        none if left is None else np.packbits(left, axis=0).T,
    ]
    label, scores, bits, video, ignored, stay = shared.by_class(label, *columns)
    order = np.lexsort((video, -scores, label)) if video.ndim == 1 else np.lexsort((-scores, label))
    label, ignored, stay = label[order], ignored[order], stay[order]
    hits = np.unpackbits(bits[order].T, axis=0, count=ways).astype(bool)
    ap = np.full((ways, classes), np.nan)
    for c in range(shared.ranks.rank, classes, shared.ranks.size):
        if not positives[c]:
            continue
        of = slice(*np.searchsorted(label, [c, c + 1]))
        own = hits[:, of]
        passed = ~own & ignored[of] if ignored.ndim == 1 else np.zeros_like(own)
        kept = None if left is None else np.unpackbits(stay[of].T, axis=0, count=ways).astype(bool)
        for row in range(ways):
            rows = slice(None) if kept is None else kept[row]
            ap[row, c] = average_precision(
                own[row, rows], int(positives[c]), ignored=passed[row, rows], interpolate=protocol.interpolate
            )
    return shared.joined(ap)
