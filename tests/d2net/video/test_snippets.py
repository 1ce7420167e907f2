"""Snippets hold the frames and flows that they should, and few of them at a time; motion features say what moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import moving, texture

from d2net.video.backbones import make_backbone
from d2net.video.decode import Size
from d2net.video.flow import BOUND, Flow, one_thread
from d2net.video.snippets import snippet_count, snippets


def numbered(count):
    for i in range(count):
        yield np.full((4, 6, 3), i, np.int32)


def difference(before, after):
    return np.full((2, 4, 6), 1000 * before[0, 0, 0] + after[0, 0, 0], np.float32)


@given(count=st.integers(0, 60), length=st.integers(1, 9), stride=st.integers(1, 12), threads=st.sampled_from([0, 3]))
def test_snippets_by_their_definition(count, length, stride, threads):
    pool = ThreadPoolExecutor(threads) if threads else None
    found = list(snippets(numbered(count), length, stride, difference, Size(4, 2), pool))
    assert len(found) == (snippet_count(count, length, stride) if count else 0)
    for i, snippet in enumerate(found):
        frames = [min(i * stride + j, count - 1) for j in range(length)]
        assert snippet.frames.shape == (3, length, 2, 2) and snippet.flow.shape == (2, length, 2, 2)
        assert snippet.frames[0, :, 0, 0].tolist() == frames
        if count > 1 and (count - 2) % stride < length:
            firsts = [min(f, count - 2) for f in frames]
            assert snippet.flow[0, :, 0, 0].tolist() == [1001 * f + 1 for f in firsts]
    # Half of the last snippet is there, and no other one would have half.
    if count > length:
        assert 2 * (count - (len(found) - 1) * stride) >= length > 2 * (count - len(found) * stride)


def test_long_videos_are_streamed():
    taken = 0

    def source():
        nonlocal taken
        for frame in numbered(5000):
            taken += 1
            yield frame

    made = snippets(source(), 16, 16, difference, None, ThreadPoolExecutor(2))
    for i, _ in zip(range(300), made, strict=False):
        assert taken <= 16 * (i + 1) + 2 * 16 + 2


def view(steps, width=150, height=112):
    return moving(texture(3), steps, width, height)


def features(frames):
    with one_thread():
        backbone = make_backbone("motion")
        (snippet,) = snippets(frames, 16, 16, Flow("dis"), backbone.spec.size)
        return backbone(snippet.frames[None], snippet.flow[None])[0]


STEPS = [((2, 0), 0), ((2, 2), 1), ((0, 2), 2), ((-2, 0), 4), ((0, -2), 6), ((2, -2), 7)]


@pytest.mark.parametrize(("step", "bin_"), STEPS)
def test_motion_tells_directions(step, bin_):
    found = features(view([(step[0] * i, step[1] * i) for i in range(16)]))
    directions = found[256:320].reshape(8, 8)
    assert found.shape == (512,) and (directions.argmax(1) == bin_).all()


def test_motion_of_nothing_is_nothing():
    still = features(view([(0, 0)] * 16))
    assert still[256:320].max() == 0 and (still[:256] > 0).any()
    speeds = still[320:352].reshape(8, 4)
    assert (speeds[:, 0] == 1).all() and (speeds[:, 1:] == 0).all()
    for start in (352, 432):
        assert still[start : start + 64].max() == 0


def test_motion_boundaries_leave_a_moving_camera_alone():
    panned = features(view([(3 * i, 0) for i in range(16)]))
    frames = view([(0, 0)] * 16)
    over = moving(texture(9), [(4 * i, 0) for i in range(16)], 60, 50)
    for frame, patch in zip(frames, over, strict=True):
        frame[30:80, 40:100] = patch
    inside = features([f.copy() for f in frames])
    boundaries = slice(352, 416)
    assert panned[boundaries].mean() < 0.5 * inside[boundaries].mean()


def test_motion_takes_every_shape_and_each_snippet_alone():
    backbone = make_backbone("motion")
    rng = np.random.default_rng(0)
    for length, height, width in ((1, 1, 1), (2, 3, 5), (16, 112, 3), (5, 33, 47)):
        frames = rng.integers(256, size=(2, 3, length, height, width)).astype(np.uint8)
        flow = rng.standard_normal((2, 2, length, height, width)).astype(np.float32) * 30
        found = backbone(frames, flow)
        assert found.shape == (2, 512) and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1.0001
        assert np.array_equal(found[1], backbone(frames[1:], flow[1:])[0])


@pytest.mark.parametrize("method", ["dis", "tv-l1", "tv_l1"])
def test_flow_is_the_motion(method):
    before, after = view([(0, 0), (3, -2)], 96, 80)
    with one_thread():
        try:
            flow = Flow(method)
        except ImportError as error:
            pytest.skip(str(error))
        found = flow(np.ascontiguousarray(before), np.ascontiguousarray(after))
        assert found.shape == (2, 80, 96) and found.dtype == np.float32
        assert np.allclose(np.median(found, (1, 2)), (3, -2), atol=0.2)
        assert np.abs(found).max() <= BOUND or method == "dis"
        assert flow(before, before).max() == 0 and flow(before[:4, :3], after[:4, :3]).shape == (2, 4, 3)


def test_settings_that_do_not_fit_are_said():
    for changes, text in (
        ({"stride": 0}, "stride must be"),
        ({"fps": -1.0}, "fps must be"),
        ({"short": 0}, "size:"),
        ({"crop": 300}, "size:"),
        ({"weights": ["x.pt"]}, "takes no weights"),
        ({"batch": 0}, "batch must be"),
    ):
        with pytest.raises(ValueError, match=text):
            make_backbone("motion", **changes)
    with pytest.raises(ValueError, match="one of dis, tv-l1, tv_l1, got"):
        Flow("farneback")
    assert make_backbone("motion", short=64, crop=48).spec.size == Size(64, 48)
