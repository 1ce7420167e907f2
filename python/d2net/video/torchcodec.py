"""Frames decoded by torchcodec, on an NVIDIA GPU where its build can; times and errors as the other decoder's."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from d2net.video import VideoError
from d2net.video.decode import Size, VideoReader, square

BATCH = 32  # frames decoded by one call


class _Shown(NamedTuple):
    """A decoded frame (height, width, 3) uint8, upright, with its time in units of time_base."""

    data: torch.Tensor
    pts: int
    duration: int
    time_base: Fraction


class TorchcodecReader(VideoReader):
    """As VideoReader, which opens the file first: what that refuses torchcodec never sees.

    Args:
        device: where frames are decoded and scaled; they are returned to the host.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        size: Size | None = None,
        *,
        partial: bool = False,
        device: str = "cpu",
    ):
        self._codec = _decoders()
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("decoder torchcodec-cuda needs a GPU, and torch sees none; use torchcodec or av")
        self._device = device
        super().__init__(path, fps, size, partial=partial)

    def _frames(self) -> Iterator[_Shown]:
        base = Fraction(self._stream.time_base)
        name: Any = os.fspath(self.path)
        if not name.isascii():  # bytes that are no UTF-8 among them
            name = self.path.open("rb")
        try:
            decoder = self._codec.VideoDecoder(
                name,
                stream_index=self._stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device=self._device,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise VideoError(f"{self.path}: torchcodec cannot open it: {_short(error)}; use --decoder av") from error
        self._turned = round((decoder.metadata.rotation or 0) / 90) % 2 == 1
        for first in range(0, len(decoder), BATCH):
            for data, pts, duration in self._batch(decoder, first, min(first + BATCH, len(decoder))):
                yield _Shown(data, round(Fraction(pts) / base), round(Fraction(duration) / base), base)

    def _batch(self, decoder: Any, first: int, last: int) -> Iterator[tuple[torch.Tensor, float, float]]:
        """(frame, seconds, seconds shown); of a batch with damage, the frames that can be decoded alone."""
        try:
            found = decoder.get_frames_in_range(first, last)
        except RuntimeError:
            for index in range(first, last):
                try:
                    frame = decoder.get_frame_at(index)
                except RuntimeError:
                    self.undecodable += 1
                    continue
                yield frame.data, float(frame.pts_seconds), float(frame.duration_seconds)
            return
        yield from zip(found.data, found.pts_seconds.tolist(), found.duration_seconds.tolist(), strict=True)

    def _image(self, frame: _Shown) -> np.ndarray:
        high, wide = frame.data.shape[:2]
        aspect = float(self._stream.sample_aspect_ratio or 1)
        width, height = square(*((high, wide) if self._turned else (wide, high)), aspect)
        if self.size is not None:
            width, height = self.size.scaled(width, height)
        shape = (width, height) if self._turned else (height, width)
        data = frame.data
        if shape != (high, wide):
            data = _resized(data, shape)
        image = data.cpu().contiguous().numpy()
        image.flags.writeable = False  # one array stands for every slot that shows it
        return image


def _decoders() -> Any:
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:  # FFmpeg's libraries may be missing too
        raise ImportError(
            f"decoder torchcodec cannot be used here: {_short(error)}; install a torchcodec that fits this torch, and "
            "FFmpeg, or use --decoder av"
        ) from error


def _resized(data: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(h, w, 3) uint8, averaged over what a pixel covers."""
    planes = data.permute(2, 0, 1)[None]
    if planes.is_cuda:  # its antialiasing knows floats alone
        planes = planes.float()
    found = F.interpolate(planes, shape, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    return found.round().clamp(0, 255).to(torch.uint8) if found.is_floating_point() else found


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
