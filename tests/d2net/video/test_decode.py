"""Frames at a constant rate are what a player shows at that time, whatever the file's rate, clock, size and name."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import coded, decoded, moving, texture, write_audio, write_video

from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.video import VideoError
from d2net.video.backbones import make_backbone
from d2net.video.decode import Size, VideoReader, media_files
from d2net.video.decoders import open_video
from d2net.video.extract import extract

RATES = {
    "23.976": Fraction(24000, 1001),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "59.94": Fraction(60000, 1001),
}
SMALL = Size(24)


def decoders() -> list[str]:
    """Those that can be used here; torchcodec needs FFmpeg's libraries too."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        return ["av"]
    return ["av", "torchcodec"]


@pytest.fixture(scope="module", params=decoders(), autouse=True)
def decoder(request) -> str:
    """Which decoder `read` takes."""
    read.decoder = request.param
    return request.param


def read(path, fps=25.0, size=SMALL, **options):
    with open_video(path, fps, size, decoder=read.decoder, **options) as reader:
        return [decoded(f) for f in reader], reader


def shown(times: list[Fraction], fps: Fraction, frames: int) -> list[int]:
    """The last frame before the middle of each slot: the oracle, by search."""
    middles = [Fraction(2 * k + 1, 2) / fps for k in range(frames)]
    return [max((i for i, t in enumerate(times) if t < m), default=0) for m in middles]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Five seconds at 25 fps."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, [coded(i) for i in range(125)], [Fraction(i, 25) for i in range(125)])


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("name", RATES)
def test_rates_are_resampled_to_half_a_frame(tmp_path, name, kind):
    rate = RATES[name]
    times = [i / rate for i in range(90)]
    base = 1 / rate if kind == "avi" else Fraction(1, 90_000)
    path = write_video(tmp_path / f"v.{kind}", [coded(i) for i in range(90)], times, base=base)
    found, reader = read(path)
    for k, index in enumerate(found[:-1]):
        begin = index / rate
        # Shown within half a slot of the slot's time; containers round times to milliseconds.
        assert begin - Fraction(1, 50) - Fraction(1, 500) <= Fraction(k, 25) < begin + 1 / rate + Fraction(1, 50)
    assert abs(reader.duration - float(90 / rate)) < 1.5 / float(rate) and abs(len(found) - 25 * reader.duration) <= 1


def test_the_same_rate_gives_every_frame_once(clip):
    assert read(clip)[0] == list(range(125))


@settings(max_examples=15)
@given(
    gaps=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    fps=st.sampled_from([Fraction(5), Fraction(25), Fraction(30), Fraction(12)]),
    start=st.sampled_from([0, 7, -50]),
)
def test_variable_rates_and_missing_frames(tmp_path_factory, gaps, fps, start):
    times = [Fraction(0)]
    for gap in gaps:
        times.append(times[-1] + Fraction(gap, 100))
    path = tmp_path_factory.mktemp("v") / "v.mkv"
    write_video(path, [coded(i) for i in range(len(times))], [t + Fraction(start, 100) for t in times])
    found, _ = read(path, float(fps))
    assert found == shown(times, fps, len(found))
    assert len(found) >= max(1, int(times[-1] * fps))


def test_a_still_picture_is_held_until_the_next(tmp_path):
    path = write_video(tmp_path / "v.mkv", [coded(1), coded(2), coded(3)], [0, 4, Fraction(41, 10)])
    found, _ = read(path, 20)
    assert found == [1] * 80 + [2] * 2 + [3]


def turned(path: Path, degrees: int) -> Path:
    """The MP4 with the display matrix of pictures to be turned counter-clockwise, which old PyAV cannot write."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12: the matrix follows times, numbers, layer, group and volume
    cos, sin = {0: (1, 0), 90: (0, -1), 180: (-1, 0), -90: (0, 1)}[degrees]
    struct.pack_into(">9i", data, at, cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1)), (0, (0, 0))])
def test_pictures_are_upright(tmp_path, degrees, corner):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48] = 255
    path = turned(write_video(tmp_path / "v.mp4", [image] * 3, [0, 0.1, 0.2]), degrees)
    frame = next(iter(open_video(path, 10, decoder=read.decoder)))
    assert frame.shape == ((96, 64, 3) if degrees % 180 else (64, 96, 3))
    corners = frame[4 :: frame.shape[0] - 9, 4 :: frame.shape[1] - 9, 0] > 127
    assert corners.sum() == 1 and corners[corner]


@pytest.mark.parametrize(
    ("kind", "pixels", "shape"),
    [("mkv", "yuv420p10le", (64, 96)), ("mkv", "yuv444p", (61, 97)), ("mp4", "yuvj420p", (64, 96))],
)  # fmt: skip
def test_depths_and_odd_sizes(tmp_path, kind, pixels, shape):
    frames = [coded(i, shape[1], shape[0]) for i in range(10)]
    path = write_video(tmp_path / f"v.{kind}", frames, [i / 25 for i in range(10)], pixels=pixels)
    assert read(path)[0] == list(range(10))
    with open_video(path, 25, decoder=read.decoder) as reader:
        assert next(iter(reader)).shape == (*shape, 3)


def test_pixels_that_are_not_square(tmp_path):
    path = write_video(
        tmp_path / "v.mkv", [coded(3)] * 3, [0, 0.1, 0.2],
        change=lambda s: setattr(s.codec_context, "sample_aspect_ratio", Fraction(2)),
    )  # fmt: skip
    assert next(iter(open_video(path, 10, decoder=read.decoder))).shape == (64, 192, 3)
    assert next(iter(open_video(path, 10, Size(16), decoder=read.decoder))).shape == (16, 48, 3)


@pytest.mark.parametrize(
    ("width", "height", "scaled"), [(100, 50, (40, 20)), (50, 100, (20, 40)), (5000, 10, (80, 20))]
)
def test_the_short_side_is_scaled(width, height, scaled):
    assert Size(20).scaled(width, height) == scaled
    assert Size(20, 10).cut(np.zeros((3, 2, 20, 40))).shape == (3, 2, 10, 10)


def test_one_frame(tmp_path):
    assert read(write_video(tmp_path / "v.mp4", [coded(5)], [0]))[0] in ([5], [5] * 2)


@pytest.mark.parametrize(
    "name", ["a:b", "-x", "日本 語", "%d", "a\nb", "v?x=1", "http:", "concat", "café".encode("latin1")]
)
def test_names_are_only_names(clip, tmp_path, name):
    folder = os.fsencode(tmp_path)
    path = Path(os.fsdecode(folder + b"/" + (name if isinstance(name, bytes) else name.encode()) + b".mp4"))
    shutil.copy(clip, path)
    assert len(read(path)[0]) == 125


@pytest.mark.parametrize("name", ["plain", "café".encode("latin1")])
def test_what_a_file_says_in_no_utf8_is_no_reason_not_to_read_it(tmp_path, name):
    av = importlib.import_module("av")
    path = Path(
        os.fsdecode(os.fsencode(tmp_path) + b"/" + (name if isinstance(name, bytes) else name.encode()) + b".avi")
    )
    with av.open(str(tmp_path / "made.avi"), "w") as file:
        file.metadata["title"] = "Q" * 8
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for picture in (*[av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))] * 5, None):
            file.mux(stream.encode(picture))
    raw = (tmp_path / "made.avi").read_bytes()
    assert raw.count(b"Q" * 8) == 1
    path.write_bytes(raw.replace(b"Q" * 8, b"caf\xe9 QQQ"))
    before = len(os.listdir("/proc/self/fd"))
    assert len(read(path)[0]) == 5
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".avi", "", ".jpg"])
def test_the_content_counts_and_not_the_extension(clip, tmp_path, suffix):
    shutil.copy(clip, tmp_path / f"v{suffix}")
    assert len(read(tmp_path / f"v{suffix}")[0]) == 125


def damaged(clip: Path, folder: Path, kind: str) -> Path:
    path = folder / "v.mp4"
    raw = clip.read_bytes()
    if kind == "a folder":
        path.mkdir()
    elif kind == "sound alone":
        write_audio(path)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind != "nothing":
        path.write_bytes(
            {
                "empty": b"",
                "text": b"hello\n" * 300,
                "its first half": raw[: len(raw) // 2],
                "noise": random.Random(0).randbytes(4000),
                "a playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n".encode(),
                "a list of files": f"ffconcat version 1.0\nfile {clip}\n".encode(),
                "a script": b"#!/bin/sh\nexit\n",
            }[kind]
        )
    return path


@pytest.mark.parametrize(
    "kind",
    "empty,text,its first half,noise,a playlist,a list of files,a script,a folder,sound alone,a pipe,nothing".split(
        ","
    ),
)
def test_what_is_no_video_is_one_line_that_names_the_file(clip, tmp_path, kind):
    path = damaged(clip, tmp_path, kind)
    with pytest.raises(VideoError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_truncated_files_are_said_or_taken_as_they_are(tmp_path):
    path = write_video(
        tmp_path / "v.mp4", [coded(i) for i in range(120)], [i / 25 for i in range(120)],
        container_options={"movflags": "+faststart"},
    )  # fmt: skip
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(VideoError, match=r"v.mp4 is truncated: it says 4.79 s and [1-4].\d\d s decode"):
        read(path)
    found, reader = read(path, partial=True)
    assert found == list(range(len(found))) and 25 < len(found) < 119 and reader.duration == len(found) / 25


def test_damaged_packets_leave_the_others_in_time(clip, tmp_path):
    raw = bytearray(clip.read_bytes())
    noise = random.Random(0)
    at = raw.index(b"mdat")
    for _ in range(60):
        raw[noise.randrange(at + 2000, len(raw) - 3000)] = noise.randrange(256)
    path = tmp_path / "v.mp4"
    path.write_bytes(raw)
    found, _ = read(path, partial=True)
    assert abs(len(found) - 125) <= 12 and sum(a == b for a, b in zip(found, range(125), strict=False)) > 20
    assert read(path, partial=True)[0] == found


def test_folders_give_their_videos_in_order(clip, tmp_path):
    for name in ("b.mp4", "a.MKV", "notes.txt", ".hidden.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "none").mkdir()
    files, failed = media_files([tmp_path / "none", tmp_path, tmp_path / "gone.mp4"])
    assert files == [tmp_path / "a.MKV", tmp_path / "b.mp4", tmp_path / "gone.mp4"]
    assert list(failed) == [str(tmp_path / "none")] and "ends as a video" in failed[str(tmp_path / "none")]


def test_the_reader_says_what_it_cannot_take():
    for fps in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="fps must be"):
            VideoReader("x.mp4", fps)
    with pytest.raises(ValueError, match="size: "):
        Size(10, 20)


def test_decoders_agree(tmp_path, decoder):
    if decoder == "av":
        pytest.skip("torchcodec is missing, or this is the decoder that it is compared with")
    grey = np.repeat(texture(3, 400)[:, :, :1], 3, 2)  # FFmpeg halves the colours of what it shrinks
    views = moving(grey, [(3 * i, i) for i in range(30)], 320, 240)
    path = write_video(tmp_path / "v.mp4", views, [i / 25 for i in range(30)])
    for size in (None, Size(112), Size(48)):
        a, b = (list(open_video(path, 25, size, decoder=kind)) for kind in ("av", decoder))
        assert len(a) == len(b) == 30
        assert np.abs(np.stack(a).astype(int) - np.stack(b)).mean() < 2
    features = [make_backbone("motion", decoder=kind) for kind in ("av", decoder)]
    for folder, backbone in zip(("a", "b"), features, strict=True):
        extract([path], tmp_path / folder, backbone, progress=False)
    a, b = (open_features(tmp_path / folder) for folder in ("a", "b"))
    assert "decoder" not in a.identity and b.identity["decoder"] == decoder
    np.testing.assert_allclose(a["v"], b["v"], atol=0.15)
    with pytest.raises(DataError, match="holds features whose decoder is 'torchcodec', not None"):
        extract([path], tmp_path / "b", features[0], progress=False)
