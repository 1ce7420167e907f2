"""Made-up videos with known segments: textures that slide, turn, swell or shake now and then, under camera noise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2net.data.files import replacing, write_text
from d2net.video import needed

WIDTH, HEIGHT = 160, 120
CLASSES = ("shake", "slide", "swell", "turn")
RATES = (Fraction(25), Fraction(30_000, 1001), Fraction(24_000, 1001), Fraction(30))
PAUSE, ACTION = (3.0, 7.0), (3.0, 7.0)  # seconds, from and to


class Event(NamedTuple):
    """[start, end) seconds of one class."""

    label: str
    start: float
    end: float


class Script(NamedTuple):
    """One video: its frames' times, what happens in it, and where the picture is cut."""

    name: str
    seed: int
    times: list[Fraction]
    seconds: float
    events: list[Event]
    cuts: list[float]


def write_script(name: str, seed: int) -> Script:
    """15 to 25 seconds of one or two classes between pauses; every fifth video has no constant rate."""
    rng = np.random.default_rng([seed, 1])
    classes = rng.choice(CLASSES, size=rng.integers(1, 3), replace=False)
    seconds = float(rng.uniform(15, 25))
    events, at = [], float(rng.uniform(*PAUSE)) / 2
    while at + ACTION[0] < seconds - 1:
        end = min(at + float(rng.uniform(*ACTION)), seconds - 1)
        events.append(Event(str(rng.choice(classes)), round(at, 3), round(end, 3)))
        at = end + float(rng.uniform(*PAUSE))
    rate = RATES[seed % len(RATES)]
    times = [k / rate for k in range(int(seconds * rate))]
    if seed % 5 == 4:
        times = [t for t in times if t == 0 or rng.random() < 0.8]
    cuts = sorted(float(c) for c in rng.uniform(0, seconds, size=rng.integers(1, 4)))
    return Script(name, seed, times, float(times[-1] + 1 / rate), events, cuts)


def _texture(rng: np.random.Generator, cv: Any) -> np.ndarray:
    size = 2 * WIDTH
    coarse = rng.standard_normal((size, size, 1)) + 0.4 * rng.standard_normal((size, size, 3))
    smooth = cv.GaussianBlur(coarse.astype(np.float32), (0, 0), float(rng.uniform(1.5, 3)))
    picture = rng.uniform(90, 160, size=3) + 45 * smooth / smooth.std()
    return np.clip(picture, 0, 255).astype(np.uint8)


def frames(script: Script) -> Iterator[np.ndarray]:
    """(h, w, 3) uint8 at each of the script's times."""
    cv = needed("cv2", "opencv-contrib-python-headless")
    rng = np.random.default_rng([script.seed, 2])
    noises = rng.normal(0, 4, size=(8, HEIGHT, WIDTH, 3)).astype(np.int16)
    scenes = [_texture(rng, cv) for _ in range(len(script.cuts) + 1)]
    heading = rng.uniform(0, 2 * np.pi, size=len(script.events))
    drift = rng.uniform(-2, 2, size=2)  # pixels a second: a hand that holds the camera
    middle = np.array([WIDTH, WIDTH], float)
    for time in map(float, script.times):
        picture = scenes[sum(time >= cut for cut in script.cuts)]
        angle, scale, shift = 0.0, 1.0, drift * time + rng.normal(0, 0.15, size=2)
        for event, direction in zip(script.events, heading, strict=True):
            since = min(time, event.end) - event.start
            if since <= 0 or (time >= event.end and event.label == "shake"):
                continue
            if event.label == "slide":
                shift = shift + 50 * since * np.array([np.cos(direction), np.sin(direction)])
            elif event.label == "turn":
                angle += 50 * since
            elif event.label == "swell":
                scale *= 1.0 + 0.25 * (1 - np.cos(2 * np.pi * 0.7 * since))
            else:
                shift = shift + 5 * np.sin(2 * np.pi * 3 * since) * np.array([np.cos(direction), np.sin(direction)])
        view = cv.getRotationMatrix2D(tuple(middle), angle, scale)
        view[:, 2] += shift - middle + (WIDTH / 2, HEIGHT / 2)
        image = cv.warpAffine(picture, view, (WIDTH, HEIGHT), flags=cv.INTER_LINEAR, borderMode=cv.BORDER_WRAP)
        yield np.clip(image + noises[rng.integers(8)], 0, 255).astype(np.uint8)


def encode(path: Path, script: Script) -> None:
    """Writes an .mp4 of H.264, or of MPEG-4 where FFmpeg lacks x264."""
    av = needed("av", "av")
    base = Fraction(1, 90_000)
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as file:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1  # threads are busy with the other videos
        if codec == "libx264":
            stream.options = {"preset": "superfast", "crf": "23", "x264-params": "log-level=none"}
        for image, time in zip(frames(script), script.times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def write_videos(folder: Path, count: int = 40, test_share: float = 0.4, seed: int = 0, workers: int = 2) -> Path:
    """Writes `folder`/*.mp4 and annotations.json beside the folder; returns the annotations' path."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [write_script(f"video_{i:03d}", 1000 * seed + i) for i in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda s: encode(folder / f"{s.name}.mp4", s), scripts))
    database = {
        s.name: {
            "subset": "test" if i < test_share * count else "train",
            "duration_second": round(s.seconds, 3),
            "annotations": [{"label": e.label, "segment": [e.start, e.end]} for e in s.events],
        }
        for i, s in enumerate(scripts)
    }
    path = folder.parent / "annotations.json"
    write_text(path, json.dumps({"version": "synthetic", "classes": list(CLASSES), "database": database}))
    return path
