"""Detections as subtitles, as a picture with thumbnails, and burnt into the video."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.files import replacing, write_atomically, write_text
from d2net.terminal import printable
from d2net.video import VideoError, needed
from d2net.video.decode import Size, VideoReader

KINDS = ("srt", "vtt", "png", "mp4")
THUMBNAILS = 12
# Okabe and Ito's, which people who do not tell red from green tell apart.
COLORS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip


class Found(NamedTuple):
    """One detection, [start, end) seconds."""

    label: str
    start: float
    end: float
    score: float


def strongest(found: Iterable[Found], most: int = 50, share: float = 0.1) -> list[Found]:
    """What is worth showing: of each label, detections of at least a share of the best score that overlap no better
    one, at most `most` in all, by start."""
    rows = sorted(found, key=lambda f: -f.score)
    kept: list[Found] = []
    for f in rows:
        if f.end <= f.start or f.score < share * rows[0].score or len(kept) == most:
            continue
        if all(f.label != k.label or f.end <= k.start or k.end <= f.start for k in kept):
            kept.append(f)
    return sorted(kept, key=lambda f: (f.start, f.end, f.label))


def _cues(found: Sequence[Found]) -> list[tuple[float, float, list[Found]]]:
    """(start, end, what is shown) between changes: subtitles that overlap are one, so that any player shows both."""
    times = sorted({round(t, 3) for f in found for t in (f.start, f.end)})
    cues = []
    for start, end in itertools.pairwise(times):
        shown = [f for f in found if round(f.start, 3) <= start and end <= round(f.end, 3)]
        if shown:
            cues.append((start, end, shown))
    return cues


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * max(0.0, seconds))
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _text(found: Found, escape: Callable[[str], str]) -> str:
    return f"{escape(printable(found.label))} {found.score:.2f}"


def srt(found: Sequence[Found]) -> str:
    """SubRip text. An angle bracket would begin a format there, which SubRip cannot escape: it becomes another sign."""
    plain: Callable[[str], str] = lambda text: text.replace("<", "‹").replace(">", "›")  # noqa: E731
    blocks = []
    for number, (start, end, shown) in enumerate(_cues(found), 1):
        lines = "\n".join(_text(f, plain) for f in shown)
        blocks.append(f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{lines}\n")
    return "\n".join(blocks)


def vtt(found: Sequence[Found]) -> str:
    """WebVTT text."""
    escaped: Callable[[str], str] = (  # noqa: E731
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    blocks = ["WEBVTT\n"]
    for start, end, shown in _cues(found):
        lines = "\n".join(_text(f, escaped) for f in shown)
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{lines}\n")
    return "\n".join(blocks)


def burn(video: str | os.PathLike, path: str | os.PathLike, found: Sequence[Found], labels: Sequence[str]) -> None:
    """Writes an .mp4 of the video, frame for frame and at its own times, with labels and a bar of time drawn in.

    Args:
        labels: all classes, which get a colour each.

    Raises:
        VideoError: the video cannot be read.
    """
    av = needed("av", "av")
    base = Fraction(1, 90_000)
    color = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    with VideoReader(video, 25, partial=True) as reader, replacing(path) as temporary:
        length = reader.expected
        try:
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
                stream: Any = None
                for time, image in reader.timed():
                    if stream is None:
                        height, width = (2 * (n // 2) or 2 for n in image.shape[:2])  # as H.264's colours need
                        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
                        stream = file.add_stream(codec, rate=30)
                        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                        stream.time_base = stream.codec_context.time_base = base
                        if codec == "libx264":
                            stream.options = {"preset": "veryfast", "crf": "20", "x264-params": "log-level=none"}
                        panel = _Panel(width, height, length, found, color)
                    if (image.shape[0] < height) or (image.shape[1] < width):
                        at = f"{float(time):.2f} s"
                        raise VideoError(f"{video}: its picture becomes smaller at {at}; convert it first")
                    drawn = panel.draw(np.array(image[:height, :width]), float(time))
                    frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
                    frame.pts, frame.time_base = round(time / base), base
                    file.mux(stream.encode(frame))
                if stream is None:
                    raise VideoError(f"{video}: none of its frames can be decoded; get or convert it again")
                file.mux(stream.encode())
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # of the disk
                raise
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise VideoError(f"{video}: its pictures cannot be written as .mp4: {reason}; convert it first") from error


class _Panel:
    """Labels at the top of a frame, and at its bottom where in the video it is."""

    def __init__(
        self, width: int, height: int, seconds: float, found: Sequence[Found], color: Mapping[str, tuple[int, ...]]
    ):
        self.width, self.height, self.seconds, self.found, self.color = width, height, seconds, found, color
        self.line = max(8, min(height // 12, 40))
        self._texts: dict[str, np.ndarray] = {}
        thick = max(2, height // 40)
        self.bar = np.full((thick, width, 3), 40, np.uint8)
        for f in found:
            left, right = (int(np.clip(t / (seconds or 1), 0, 1) * width) for t in (f.start, f.end))
            self.bar[:, left : max(right, left + 1)] = color[f.label]

    def draw(self, image: np.ndarray, time: float) -> np.ndarray:
        at = 2
        for f in self.found:
            if not f.start <= time < f.end or at + self.line >= self.height - len(self.bar):
                continue
            text = self._picture(f"{printable(f.label)} {f.score:.2f}", self.color[f.label])
            rows, columns = min(len(text), self.height - at), min(text.shape[1], self.width - 2)
            image[at : at + rows, 2 : 2 + columns] = text[:rows, :columns]
            at += rows + 1
        image[self.height - len(self.bar) :] = self.bar
        here = int(np.clip(time / (self.seconds or 1), 0, 1) * (self.width - 1))
        image[self.height - len(self.bar) :, here : here + 1] = 255
        return image

    def _picture(self, text: str, color: tuple[int, ...]) -> np.ndarray:
        """White on the colour's darker shade; text in any script that the fonts have."""
        if text not in self._texts:
            self._texts[text] = text_image(text, self.line, tuple(c // 2 for c in color))
        return self._texts[text]


def text_image(text: str, height: int, background: tuple[int, ...]) -> np.ndarray:
    """(height, width, 3) uint8: one line of white text, by the font that comes with matplotlib."""
    needed("matplotlib", "matplotlib")  # and Pillow with it
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(font_manager.findfont("DejaVu Sans")), max(6, round(0.75 * height)))
    left, _, right, _ = font.getbbox(text)
    picture = Image.new("RGB", (max(1, int(right - left)) + 6, height), background)
    ImageDraw.Draw(picture).text((3, height // 2), text, fill=(255, 255, 255), font=font, anchor="lm")
    return np.asarray(picture)


def thumbnails(video: str | os.PathLike, seconds: float, count: int = THUMBNAILS) -> list[np.ndarray]:
    """Frames at the middles of `count` equal parts, from one pass over the video."""
    wanted = [(i + 0.5) * seconds / count for i in range(count)]
    rate = min(max(2 * count / max(seconds, 1e-3), 0.02), 30)
    found: list[np.ndarray] = []
    with VideoReader(video, rate, Size(72), partial=True) as reader:
        for number, image in enumerate(reader):
            while len(found) < count and number / rate >= wanted[len(found)] - 0.5 / rate:
                found.append(image)
            last = image
    return found + [last] * (count - len(found))


def picture(
    video: str | os.PathLike, path: str | os.PathLike, title: str, seconds: float, found: Sequence[Found],
    labels: Sequence[str],
) -> None:  # fmt: skip
    """Saves a PNG of thumbnails along time above the detections."""
    needed("matplotlib", "matplotlib").use("Agg")
    from matplotlib import pyplot as plt

    shown = [label for label in labels if any(f.label == label for f in found)]
    color = {label: tuple(c / 255 for c in COLORS[i % len(COLORS)]) for i, label in enumerate(labels)}
    images = thumbnails(video, seconds)
    figure, (top, bottom) = plt.subplots(
        2,
        1,
        figsize=(12, 2 + 0.35 * max(1, len(shown))),
        sharex=True,
        height_ratios=[1.2, 0.3 + 0.35 * max(1, len(shown))],
    )
    width = seconds / len(images)
    for i, image in enumerate(images):
        top.imshow(image, extent=(i * width, (i + 1) * width, 0, 1), aspect="auto", interpolation="bilinear")
    top.set_xlim(0, seconds)
    top.set_yticks([])
    top.set_title(title, parse_math=False)
    best = max((f.score for f in found), default=1.0) or 1.0
    for row, label in enumerate(shown):
        for f in found:
            if f.label == label:
                alpha = min(1.0, max(0.2, f.score / best))
                bottom.barh(row, f.end - f.start, left=f.start, height=0.8, color=color[label], alpha=alpha)
    bottom.set_yticks(range(len(shown)), shown, parse_math=False)
    bottom.invert_yaxis()
    bottom.set_xlabel("seconds" if shown else "seconds; nothing was found")
    figure.tight_layout()
    try:
        write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    finally:
        plt.close(figure)


def render(
    video: str | os.PathLike, folder: Path, name: str, kinds: Sequence[str], found: Sequence[Found],
    labels: Sequence[str], seconds: float,
) -> list[Path]:  # fmt: skip
    """Writes what is asked for of one video, `folder`/<name>.<kind>; returns the files.

    Args:
        kinds: of srt, vtt, png and mp4. labels: all classes. seconds: that the video lasts.

    Raises:
        VideoError: the video cannot be read; DataError: a file cannot be written.
    """
    shown = strongest(found)
    made = []
    for kind in kinds:
        path = folder / f"{name}.{kind}"
        if kind == "srt":
            write_text(path, srt(shown))
        elif kind == "vtt":
            write_text(path, vtt(shown))
        elif kind == "png":
            picture(video, path, name, seconds, shown, labels)
        else:
            burn(video, path, shown, labels)
        made.append(path)
    return made
