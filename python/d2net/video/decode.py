"""A video file's frames, resampled to a constant rate by their timestamps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from d2net.data.files import check_regular, reading
from d2net.video import VideoError, needed

# Containers that hold their own frames: a playlist would open what it names, and plain text would decode as a screen.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,ivf,nut,mxf,gxf,dv,rm,wtv,swf,"
    "h264,hevc,vvc,obu,av1,m4v,vc1,h263,h261,mjpeg,yuv4mpegpipe,nsv,nuv,smk,bink,amv,roq"
)
SUFFIXES = frozenset(
    f".{kind}"
    for kind in "3gp asf avi dv flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf nut ogv rm ts vob webm wmv".split()
)
LONGEST_GAP = 3600  # seconds
MOST_PIXELS = 2**27
WIDEST = 4  # times the short side


@dataclass(frozen=True)
class Size:
    """What frames are scaled and cut to.

    Args:
        short: pixels of the shorter side; the longer one follows the picture's shape, up to 4 times as long.
        crop: side of the square cut out of the middle; None keeps all.
    """

    short: int
    crop: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.short <= 4096 or not 1 <= (self.crop or 1) <= self.short:
            raise ValueError(f"size: 1 <= crop <= short <= 4096 is needed, got short {self.short} and crop {self.crop}")

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) before the crop."""
        longer = min(round(self.short * max(width, height) / min(width, height)), WIDEST * self.short)
        return (longer, self.short) if width >= height else (self.short, longer)

    def cut(self, planes: np.ndarray) -> np.ndarray:
        """The middle of (…, height, width)."""
        if self.crop is None:
            return planes
        top, left = ((n - self.crop) // 2 for n in planes.shape[-2:])
        return planes[..., top : top + self.crop, left : left + self.crop]


def square(width: int, height: int, aspect: float) -> tuple[int, int]:
    """(width, height) of a picture whose pixels are `aspect` as wide as high, once they are square.

    What a file says of it makes no picture longer than 4 times its short side, unless it is so already.
    """
    long = max(WIDEST * height, width)
    short = max(1, min(height // WIDEST, width))
    return min(max(round(width * aspect), short), long), height


def media_files(paths: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The files, and of folders those with a video's extension, by name; and why of folders that give none."""
    files: list[Path] = []
    failed = {}
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        try:
            with reading(path, "a folder of videos", VideoError):
                held = [e for e in sorted(os.listdir(path)) if not e.startswith(".")]
        except VideoError as error:
            failed[str(path)] = str(error)
            continue
        found = [path / e for e in held if Path(e).suffix.lower() in SUFFIXES]
        files += found
        if not found:
            failed[str(path)] = f"{path}: none of its {len(held)} entries ends as a video does, such as .mp4"
    return files, failed


class VideoReader:
    """Iterates over frames (height, width, 3) uint8 RGB, upright, of which frame k is what is shown at k / fps seconds.

    A source frame takes the slots from round(t·fps) on until the next one does, so that a change of picture is right to
    half a frame at any rate, constant or not. Time 0 is where a player begins: the file's start.

    Args:
        path: a video file; whatever its extension.
        fps: frames per second to give.
        size: what frames are scaled to, uncut; None keeps theirs.
        partial: takes what decodes of a truncated file.

    Attributes:
        stated: seconds that the file says it lasts, or None; duration: seconds decoded, once iterated.
        undecodable: packets that were skipped.

    Raises:
        VideoError: not a video, truncated or without a frame; names the file.
    """

    def __init__(self, path: str | os.PathLike, fps: float, size: Size | None = None, *, partial: bool = False):
        self.path, self.size, self.partial = Path(path), size, partial
        if not 0.01 <= fps <= 1000:
            raise ValueError(f"fps must be 0.01 to 1000, got {fps}")
        self.fps = Fraction(str(fps))
        self.duration = 0.0
        self.undecodable = 0
        self.missing = 0.0  # seconds that a truncated file states and lacks
        self._av = needed("av", "av")
        with reading(self.path, "a video", VideoError), ExitStack() as opened:
            check_regular(self.path, VideoError)
            self._container = self._open(opened)
            opened.callback(self._container.close)
            self._stream = self._video_stream()
            self.stated = self._stated()
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, opened: ExitStack) -> Any:
        # `file:` keeps libav from reading a protocol or an option into the name.
        file: Any = f"file:{os.fspath(self.path)}"
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        try:
            file.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8: Python opens what libav cannot be told
            file = opened.enter_context(self.path.open("rb"))
            options = {"format_whitelist": CONTAINERS}
        # What a file says in no UTF-8 is no reason not to read it; PyAV 19 keeps such bytes by itself.
        kept = {"metadata_errors": "replace"} if int(self._av.__version__.partition(".")[0]) < 19 else {}
        try:
            return self._av.open(file, options=options, **kept)
        except self._av.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise VideoError(f"{self.path} is no video file that can be read: {reason}") from error

    def _video_stream(self) -> Any:
        streams = self._container.streams
        picture = self._av.stream.Disposition.attached_pic
        found = [s for s in streams.video if not s.disposition & picture]
        if not found:
            others = ", ".join(sorted({s.type for s in streams if s not in streams.video})) or "nothing"
            raise VideoError(f"{self.path} has no video stream, only {others}")
        best = streams.best("video")
        stream = best if best in found else found[0]
        if stream.codec_context is None:
            raise VideoError(f"{self.path}: its video's codec is unknown to this FFmpeg; convert it")
        stream.codec_context.thread_count = 1  # damage is concealed alike every time
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        return stream

    def _stated(self) -> float | None:
        """Seconds of the video stream; the container's may be the sound's, or a guess by the file's size."""
        stream = self._stream
        if stream.duration and stream.duration > 0:
            return float(stream.duration * stream.time_base)
        hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska's
        minutes, _, seconds = rest.partition(":")
        try:
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            alone = len(self._container.streams) == 1 and "matroska" in self._container.format.name
            return self._container.duration / 1e6 if alone and self._container.duration else None

    @property
    def expected(self) -> float:
        """Seconds that it probably lasts, for a progress bar; 0 where unknown."""
        return self.stated or max(0, self._container.duration or 0) / 1e6

    def __iter__(self) -> Iterator[np.ndarray]:
        with reading(self.path, "a video", VideoError):
            yield from self._resampled()

    def timed(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        """(seconds since the start, frame) of every frame that there is, in place of resampled ones."""
        with reading(self.path, "a video", VideoError):
            for time, _, frame in self._timed():
                yield time, self._image(frame)

    def _resampled(self) -> Iterator[np.ndarray]:
        held: Any = None
        image: np.ndarray | None = None
        slot, seen, end = 0, 0, Fraction(0)
        half = Fraction(1, 2)
        for time, length, frame in self._timed():
            first = math.floor(time * self.fps + half)
            while held is not None and slot < first:
                image = self._image(held) if image is None else image
                yield image
                slot += 1
            held, image, seen = frame, None, seen + 1
            end = time + length
        if held is None:
            raise VideoError(f"{self.path}: none of its frames can be decoded; get or convert it again")
        self.duration = float(end)
        short = (self.stated or 0) - self.duration
        if short > max(0.5, 0.01 * self.duration):
            if not self.partial:
                raise VideoError(
                    f"{self.path} is truncated: it says {self.stated:.2f} s and {self.duration:.2f} s decode; get it "
                    "again, or take what there is with d2net extract --partial"
                )
            self.missing = short
        for _ in range(max(math.floor(end * self.fps + half), 1) - slot):
            image = self._image(held) if image is None else image
            yield image

    def _timed(self) -> Iterator[tuple[Fraction, Fraction, Any]]:
        """(time, length, frame) in seconds since the file's start, rising."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        usual = 1 / Fraction(rate) if rate and rate > 0 else 1 / self.fps
        zero: Fraction | None = None
        last: Fraction | None = None
        length = usual
        for frame in self._frames():
            base = Fraction(frame.time_base) if frame.time_base else Fraction(self._stream.time_base)
            time = frame.pts * base if frame.pts is not None else None
            if time is None:
                time = Fraction(0) if last is None else last + length + (zero or 0)
            if zero is None:
                zero = self._zero(time)
            since = time - zero
            if last is not None and since <= last:
                # Clocks that run backwards, as of recordings put one behind another: what follows goes on from there.
                zero += since - last - length
                since = last + length
            if last is not None and since - last > LONGEST_GAP:
                raise VideoError(
                    f"{self.path}: no frame for {float(since - last):.0f} s after {float(last):.2f} s; its clock "
                    "jumps: write it anew with ffmpeg"
                )
            own = frame.duration * base if frame.duration else Fraction(0)
            length = own if 0 < own <= LONGEST_GAP else usual
            yield since, length, frame
            last = since

    def _zero(self, first: Fraction) -> Fraction:
        start = self._container.start_time
        if start is None or "avi" in self._container.format.name:  # AVI has no times of display, and FFmpeg's are late
            return first
        begin = Fraction(start, 1_000_000)
        # The start is rounded to microseconds; and what begins an hour before its picture is another clock.
        return begin if Fraction(1, 1000) < first - begin < LONGEST_GAP else first

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.EOFError:
                return
            except self._av.FFmpegError:
                self.undecodable += 1
                return
            try:
                yield from packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.FFmpegError:
                self.undecodable += 1

    def _image(self, frame: Any) -> np.ndarray:
        """(height, width, 3) of one frame: square pixels, scaled, upright."""
        turns = round((frame.rotation or 0) / 90)
        width, height = square(frame.width, frame.height, float(self._stream.sample_aspect_ratio or 1))
        if self.size is not None:
            width, height = self.size.scaled(width, height)
        image = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR").to_ndarray()
        if turns % 4:
            image = np.rot90(image, turns)
        image = np.ascontiguousarray(image)
        image.flags.writeable = False  # one array stands for every slot that shows it
        return image
