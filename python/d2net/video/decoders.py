"""What decodes a video file: by name."""

from __future__ import annotations

import os

from d2net.video.decode import Size, VideoReader
from d2net.video.torchcodec import TorchcodecReader

DECODERS = ("av", "torchcodec", "torchcodec-cuda")


def open_video(
    path: str | os.PathLike, fps: float, size: Size | None = None, *, partial: bool = False, decoder: str = "av"
) -> VideoReader:
    """A reader by one of DECODERS; arguments as VideoReader.

    Raises:
        ImportError: torchcodec is missing. ValueError: torchcodec-cuda without a GPU.
    """
    if decoder == "av":
        return VideoReader(path, fps, size, partial=partial)
    return TorchcodecReader(path, fps, size, partial=partial, device="cuda" if decoder.endswith("cuda") else "cpu")
