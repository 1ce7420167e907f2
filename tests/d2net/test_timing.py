"""Snippet indices to seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2net.timing import Timing, UnknownTiming


def test_frames():
    timing = Timing(fps=25, stride=16, snippet_frames=16)
    a, b = timing.seconds([0, 3], [1, 10])
    assert np.allclose(a, [0, 3 * 0.64]) and np.allclose(b, [0.64, 6.4])
    overlapping = Timing(fps=30, stride=4, snippet_frames=16)
    a, b = overlapping.seconds([2], [5])
    assert np.allclose([a, b], [[8 / 30], [(4 * 4 + 16) / 30]])


def test_seconds_and_resized():
    assert Timing(snippet_seconds=0.32).seconds([5], [7])[1] == pytest.approx([2.24])
    a, b = Timing(resized=True).seconds([25], [50], duration=80.0, snippets=100)
    assert (a, b) == (20.0, 40.0)
    with pytest.raises(UnknownTiming, match="duration"):
        Timing(resized=True).seconds([0], [1])


def test_segments_are_clipped_to_the_duration():
    a, b = Timing(snippet_seconds=1.0).seconds([0, 9, 11], [5, 12, 12], duration=10.5)
    assert a.tolist() == [0, 9, 10.5] and b.tolist() == [5, 10.5, 10.5]


def test_upsampled_positions_keep_their_share():
    a, b = Timing(fps=10, stride=10, snippet_frames=20).seconds([0.5], [1.0])
    assert a[0] == 0.5 and b[0] == pytest.approx(1.5)


@given(st.floats(1, 120), st.integers(1, 64), st.integers(1, 64), st.integers(0, 10**6), st.integers(1, 1000))
def test_agrees_with_the_definition(fps, stride, frames, first, length):
    a, b = Timing(fps=fps, stride=stride, snippet_frames=frames).seconds([first], [first + length])
    assert a[0] == pytest.approx(first * stride / fps, rel=1e-12)
    assert b[0] == pytest.approx(((first + length - 1) * stride + frames) / fps, rel=1e-12)


def test_round_trip():
    timing = Timing(fps=25, stride=16, snippet_frames=16)
    assert Timing.from_dict(timing.to_dict()) == timing


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "give fps, stride and snippet_frames"),
        ({"fps": 25}, "fps given without stride and snippet_frames"),
        ({"fps": 25, "stride": 16, "snippet_frames": 16, "snippet_seconds": 1}, "exclude each other"),
        ({"snippet_seconds": 0}, "snippet_seconds must be a positive number, 1e-9 to 1e9, got 0"),
        ({"snippet_seconds": float("nan")}, "got nan"),
        ({"fps": -25, "stride": 16, "snippet_frames": 16}, "fps must be.*-25"),
        ({"snippet_seconds": 1.0, "resized": True}, "exclude"),
    ],
)
def test_errors(fields, says):
    with pytest.raises(ValueError, match=says):
        Timing(**fields)
