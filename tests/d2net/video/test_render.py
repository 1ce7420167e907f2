"""Subtitles that every player reads, and pictures and videos that show what was found when."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import clip_of, coded, decoded, write_video

from d2net.video import VideoError
from d2net.video.render import KINDS, Found, burn, render, srt, strongest, vtt

times = st.floats(0, 40_000, allow_nan=False).map(lambda x: round(x, 4))
labels = st.text(max_size=8) | st.sampled_from(["<b>", "a --> b", "a\n\n2", "&amp;", "日本", "\u202eabc"])
rows = st.lists(st.builds(lambda label, a, n, s: Found(label, a, a + n, s), labels, times, times, st.floats(0.01, 1)))
CLOCK = re.compile(r"(\d\d+):([0-5]\d):([0-5]\d)[,.](\d{3})")


def seconds(text: str) -> float:
    hours, minutes, rest, thousandths = map(int, CLOCK.fullmatch(text).groups())
    return hours * 3600 + minutes * 60 + rest + thousandths / 1000


@given(rows)
def test_subtitles_are_well_formed(found):
    for text, first in ((srt(found), 0), (vtt(found), 1)):
        blocks = [b for b in text.removeprefix("WEBVTT\n").strip("\n").split("\n\n") if b]
        end = -1.0
        for number, block in enumerate(blocks, 1):
            lines = block.split("\n")
            if not first:
                assert lines.pop(0) == str(number)
            start, stop = map(seconds, lines[0].split(" --> "))
            assert end <= start < stop  # one after another: players show overlapping ones as they like
            end = stop
            assert len(lines) > 1 and all("<" not in x and "-->" not in x and x.isprintable() for x in lines[1:])


@given(rows)
def test_every_second_shows_what_was_found_then(found):
    found = [(round(1000 * round(f.start, 3)), round(1000 * round(f.end, 3)), f"{f.score:.2f}") for f in found]
    cues = [
        b.split("\n") for b in vtt([Found("x", a / 1000, b / 1000, float(s)) for a, b, s in found]).split("\n\n")[1:]
    ]
    spans = [tuple(round(1000 * seconds(t)) for t in lines[0].split(" --> ")) for lines in cues]
    for at in {t for a, b, _ in found for t in (a, b - 1)}:
        wanted = [f"x {score}" for a, b, score in found if a <= at < b]
        shown = [lines[1:] for lines, (a, b) in zip(cues, spans, strict=True) if a <= at < b]
        assert [[x for x in lines if x] for lines in shown] == ([wanted] if wanted else [])


@given(rows)
def test_the_strongest_do_not_overlap(found):
    kept = strongest(found)
    assert len(kept) <= 50 and set(kept) <= set(found) and kept == sorted(kept, key=lambda f: (f.start, f.end, f.label))
    for i, a in enumerate(kept):
        assert all(a.label != b.label or a.end <= b.start or b.end <= a.start for b in kept[i + 1 :])


def test_labels_are_burnt_in_when_they_hold(tmp_path):
    """Frame for frame, at their own times, those within a detection alone changed at the top."""
    import av

    shown_at = [Fraction(i, 20) + (Fraction(1, 100) if i % 3 == 1 else 0) for i in range(60)]
    video = write_video(tmp_path / "v.mp4", [coded(i, 161, 121) for i in range(60)], shown_at, pixels="yuv444p")
    burn(video, tmp_path / "out.mp4", [Found("walk <日本>", 0.5, 1.5, 0.9)], ["walk <日本>"])
    with av.open(str(tmp_path / "out.mp4")) as file:
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]
    assert len(frames) == 60 and np.allclose([t for t, _ in frames], [float(t) for t in shown_at], atol=1e-3)
    for i, (time, image) in enumerate(frames):
        assert image.shape == (120, 160, 3) and decoded(image[60:100]) == i
        original = coded(i, 161, 121)[:20, :160]
        changed = np.abs(image[:20].astype(int) - original).mean() > 20
        assert changed == (0.5 <= time < 1.5)


def test_all_kinds_are_written(tmp_path):
    video = clip_of(tmp_path / "v.mp4", 50)
    found = [Found("$x$", 0.2, 1.0, 0.9), Found("y", 0.5, 1.7, 0.2)]
    made = render(video, tmp_path / "shown", "v", KINDS, found, ["$x$", "y"], 2.0)
    assert [p.name for p in made] == [f"v.{kind}" for kind in KINDS] and all(p.stat().st_size > 50 for p in made)
    assert (tmp_path / "shown" / "v.png").read_bytes().startswith(b"\x89PNG")
    nothing = render(video, tmp_path / "nothing", "v", KINDS, [], ["y"], 2.0)
    assert (tmp_path / "nothing" / "v.vtt").read_text() == "WEBVTT\n" and len(nothing) == 4


@pytest.mark.parametrize(("aspect", "shape"), [("50/1", (64, 256)), ("1/50", (64, 16)), ("4/3", (64, 128))])
def test_pixels_of_any_shape(tmp_path, aspect, shape):
    """What a file says of its pixels makes no picture that cannot be held or written."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(str(tmp_path / "v.h264"), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        change = BitStreamFilterContext(f"h264_metadata=sample_aspect_ratio={aspect}", stream)
        frames = [av.VideoFrame.from_ndarray(coded(i), format="rgb24") for i in range(3)]
        for packet in [p for f in [*frames, None] for p in stream.encode(f)]:
            file.mux(change.filter(packet))
    burn(tmp_path / "v.h264", tmp_path / "out.mp4", [], [])
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert (file.streams.video[0].height, file.streams.video[0].width) == shape


def test_pictures_that_no_mp4_holds(tmp_path):
    video = write_video(tmp_path / "v.mkv", [np.zeros((2, 17000, 3), np.uint8)], [0], codec="ffv1", pixels="bgr0")
    (tmp_path / "out.mp4").write_bytes(b"before")
    with pytest.raises(VideoError, match=r"v\.mkv: its pictures cannot be written as \.mp4"):
        burn(video, tmp_path / "out.mp4", [], [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "v.mkv"]
    assert (tmp_path / "out.mp4").read_bytes() == b"before"


@pytest.mark.parametrize("frames", [1, 2])
def test_the_shortest_videos(tmp_path, frames):
    video = clip_of(tmp_path / "v.mp4", frames)
    render(video, tmp_path, "shown", KINDS, [Found("y", 0.0, 0.04, 1.0)], ["y"], frames / 25)
