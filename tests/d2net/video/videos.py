"""Small videos made on the spot, whose frames say when they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

BITS = 10


def coded(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A frame whose columns are the bits of `index`, black and white."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        if index >> bit & 1:
            image[:, bit * width // BITS : (bit + 1) * width // BITS] = 255
    return image


def decoded(image: np.ndarray) -> int:
    """The index in a frame made by `coded`, after compression and scaling."""
    width = image.shape[1]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(middles) if image[:, x].mean() > 127)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[Fraction | float],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    container: str | None = None,
    change: Callable | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    base: Fraction = Fraction(1, 90_000),
) -> Path:
    """Encodes RGB frames shown at `times` seconds; change(stream) may set more."""
    import av

    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format=container, container_options=container_options or {}) as file:
        stream = file.add_stream(codec, rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = base
        stream.time_base = base
        stream.codec_context.gop_size = 12
        defaults = {"preset": "ultrafast", "crf": "12", "x264-params": "log-level=none"} if codec == "libx264" else {}
        stream.options = defaults | (options or {})
        if change is not None:
            change(stream)
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(Fraction(time) / base), base
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def write_audio(path: Path) -> Path:
    """One second of silence."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return path


def texture(seed: int, size: int = 200, scale: float = 2.5) -> np.ndarray:
    """A smooth random picture (size, size, 3) that wraps around."""
    rng = np.random.default_rng(seed)
    waves = np.fft.fftfreq(size)
    low = np.exp(-2 * (np.pi * scale) ** 2 * (waves[:, None] ** 2 + waves**2))
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, size, size))) * low).real
    noise /= noise.std((1, 2), keepdims=True)
    return np.clip(128 + 50 * noise, 0, 255).astype(np.uint8).transpose(1, 2, 0)


Shifts = Sequence[tuple[int, int]]


def moving(picture: np.ndarray, shifts: Shifts, width: int = 128, height: int = 96) -> list[np.ndarray]:
    """Views of the picture, moved by (x, y) pixels each."""
    return [np.roll(picture, (y, x), (0, 1))[:height, :width] for x, y in shifts]


def clip_of(path: Path, frames: int, seed: int = 0, step: tuple[int, int] = (2, 0), rate: int = 25) -> Path:
    """A texture that moves by `step` pixels a frame."""
    shifts = [(step[0] * i, step[1] * i) for i in range(frames)]
    return write_video(path, moving(texture(seed), shifts), [Fraction(i, rate) for i in range(frames)])
