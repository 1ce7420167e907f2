"""Snippets of a stream of frames, with flow, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from d2net.video.decode import Size

A = TypeVar("A")
B = TypeVar("B")


class Snippet(NamedTuple):
    """frames (3, T, h, w) uint8; flow (2, T, h, w) float32 pixels to the next frame, or None; repeated: it equals the
    snippet before, as where a picture is held for long."""

    frames: np.ndarray
    flow: np.ndarray | None
    repeated: bool = False


def ahead(pool: Executor | None, function: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """map in order, at most `depth` results in advance; without a pool, none."""
    if pool is None:
        yield from map(function, items)
        return
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def snippet_count(frames: int, length: int, stride: int) -> int:
    """Snippets of a video: those of which at least half is there, and at least one."""
    return max(1, 1 + (2 * frames - length) // (2 * stride))


def snippets(
    frames: Iterable[np.ndarray],
    length: int,
    stride: int,
    flow: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    size: Size | None = None,
    pool: Executor | None = None,
) -> Iterator[Snippet]:
    """Snippet i holds frames [i·stride, i·stride + length).

    The last one is there if half of it is, and then holds its last frame, and that one's flow, again and again. Flow k
    leads from frame k to k + 1; the last frame's is the one before it.

    Args:
        frames: (h, w, 3) uint8 each; flow: of two frames; size: its crop is cut; pool: computes flow some frames ahead.
    """
    held: deque[tuple[np.ndarray, np.ndarray | None]] = deque()
    first = seen = made = 0
    before: np.ndarray | None = None
    still: np.ndarray | None = None
    work = ahead(pool, lambda pair: _step(pair, flow), _pairs(frames, length, stride), 2 * length)
    for image, known in work:
        motion = known
        if motion is None and flow is not None:  # the last frame, or one that no snippet needs
            motion = before if before is not None else np.zeros((2, *image.shape[:2]), np.float32)
        before = known
        if seen >= first:
            held.append((image, motion))
        seen += 1
        if seen == first + length:
            now = _still(held)
            yield _cut(held, length, size, now is not None and now is still)
            made, first, still = made + 1, first + stride, now
            for _ in range(min(stride, len(held))):
                held.popleft()
    while seen and made < snippet_count(seen, length, stride):
        yield _cut(held, length, size)
        made += 1
        for _ in range(min(stride, len(held))):
            held.popleft()


Pair = tuple[np.ndarray, Any, bool]


def _pairs(frames: Iterable[np.ndarray], length: int, stride: int) -> Iterator[Pair]:
    """(frame, the next one or None at the end, whether a snippet needs its flow)."""
    before: np.ndarray | None = None
    index = 0
    for frame in frames:
        if before is not None:
            yield before, frame, index % stride < length
            index += 1
        before = frame
    if before is not None:
        yield before, None, True


def _step(pair: Pair, flow: Callable | None) -> tuple[np.ndarray, np.ndarray | None]:
    image, after, wanted = pair
    return image, flow(image, after) if flow is not None and after is not None and wanted else None


def _still(held: deque[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray | None:
    """The picture, where it is the same one in all frames and does not move."""
    image = held[0][0]
    same = all(i is image for i, _ in held) and not any(motion is not None and motion.any() for _, motion in held)
    return image if same else None


def _cut(
    held: deque[tuple[np.ndarray, np.ndarray | None]], length: int, size: Size | None, repeated: bool = False
) -> Snippet:
    rows = [held[min(i, len(held) - 1)] for i in range(length)]
    cut = size.cut if size is not None else (lambda planes: planes)
    frames = np.stack([cut(image.transpose(2, 0, 1)) for image, _ in rows], axis=1)
    motions = [motion for _, motion in rows if motion is not None]
    return Snippet(frames, np.stack([cut(m) for m in motions], axis=1) if motions else None, repeated)
