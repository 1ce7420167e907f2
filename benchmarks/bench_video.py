"""Extraction's parts apart: decoding, flow and backbones; each row also holds frames a second."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Side, Skipped

av = pytest.importorskip("av", reason="PyAV is missing; pip install 'd2kernels[video]'")
cv2 = pytest.importorskip("cv2", reason="OpenCV is missing; pip install 'd2kernels[video]'")

from d2net.video.backbones.i3d import InceptionI3d  # noqa: E402
from d2net.video.backbones.motion import Motion  # noqa: E402
from d2net.video.decode import VideoReader  # noqa: E402
from d2net.video.extract import extract  # noqa: E402
from d2net.video.flow import Flow, one_thread  # noqa: E402
from d2net.video.snippets import snippets  # noqa: E402
from d2net.video.synth import encode, write_script  # noqa: E402

MOTION = Motion()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """About 20 s, 160 x 120."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    encode(path, write_script("clip", 0))
    return path


@pytest.fixture(autouse=True)
def cpu_alone(device):
    if device.type != "cpu":
        pytest.skip("measured on the CPU")
    with one_thread():
        yield


def timed(contest, frames, **sides):
    row = contest(op="video", oracle=None, memory=False, **sides)
    row["frames_per_second"] = frames / row["seconds"]["median"]
    print(f"{row['work']}: {row['frames_per_second']:.0f} frames/s")


def test_decode(contest, clip):
    def plain():
        with av.open(str(clip)) as file:
            file.streams.video[0].codec_context.thread_count = 1
            return [cv2.resize(f.to_ndarray(format="rgb24"), (149, 112)) for f in file.decode(video=0)]

    ours = lambda: list(VideoReader(clip, 25, MOTION.spec.size))  # noqa: E731
    frames = len(ours())
    timed(
        contest, frames, work=f"decode {frames} frames of 160 x 120", ours=Side("PyAV", ours, checked=False),
        peers=[Side("PyAV and cv2.resize, not resampled in time", plain, checked=False)],
    )  # fmt: skip


@pytest.mark.parametrize("short", [112, 256])
def test_flow(contest, clip, short):
    frames = list(VideoReader(clip, 25, type(MOTION.spec.size)(short)))[40:42]
    dis = Flow("dis")
    peers = []
    if hasattr(cv2, "optflow"):
        tv = Flow("tv-l1")
        peers.append(Side("OpenCV's TV-L1", lambda: tv(*frames), checked=False))
    else:
        peers.append(Skipped("OpenCV's TV-L1", "this OpenCV has no contributed modules"))
    shape = " x ".join(map(str, frames[0].shape[1::-1]))
    ours = Side("OpenCV's DIS", lambda: dis(*frames), checked=False)
    timed(contest, 1, work=f"flow of one pair, {shape}", ours=ours, peers=peers)


def test_motion(contest, clip):
    found = next(iter(snippets(VideoReader(clip, 25, MOTION.spec.size), 16, 16, Flow("dis"))))
    run = lambda: MOTION(found.frames[None], found.flow[None])  # noqa: E731
    timed(contest, 16, work="backbone motion, 16 frames", ours=Side("NumPy", run, checked=False))


def test_i3d(contest):
    import torch

    network = InceptionI3d().eval()
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 16, 224, 224), np.float32))

    def run():
        with torch.inference_mode():
            return network(x)

    timed(contest, 16, work="backbone i3d, one stream, 16 frames of 224 x 224", ours=Side("torch", run, checked=False))


def test_extract(contest, clip, tmp_path):
    videos = []
    for i in range(4):
        videos.append(tmp_path / f"v{i}.mp4")
        encode(videos[-1], write_script("v", i))
    frames = sum(len(list(VideoReader(v, 25))) for v in videos)

    def run(workers):
        out = tmp_path / f"out{workers}"
        return extract(videos, out, MOTION, workers=workers, overwrite=True, progress=False)

    timed(
        contest, frames, work=f"d2net extract, 4 videos, {frames} frames",
        ours=Side("2 workers", lambda: run(2), checked=False), peers=[Side("1 worker", lambda: run(1), checked=False)],
    )  # fmt: skip
