"""Extraction: features with their timing, the same bytes every time, whatever stops or damages a part of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from videos import clip_of, moving, texture, write_video

from d2net.cli import app
from d2net.data.features import FeatureError, open_features
from d2net.data.files import DataError
from d2net.training.lock import FolderInUse, FolderLock
from d2net.video import extract as module
from d2net.video.backbones import Backbone, Spec, make_backbone
from d2net.video.decode import Size
from d2net.video.extract import extract
from d2net.video.snippets import snippets


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three short videos of two shapes."""
    folder = tmp_path_factory.mktemp("videos")
    clip_of(folder / "a.mp4", 70)
    clip_of(folder / "b.mkv", 41, seed=1, step=(0, 3), rate=30)
    write_video(folder / "c.mp4", [texture(i)[:90, :90] for i in range(6)], [i / 5 for i in range(6)])
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def run(videos, out, backbone=None, **options):
    files = sorted(videos.iterdir()) if isinstance(videos, Path) else videos
    return extract(files, out, backbone or make_backbone("motion", short=48), progress=False, **options)


class Averages(Backbone):
    """Mean colour by snippet; checks its batches, and fails on demand."""

    name = "averages"
    streams = (("colour", 3),)
    batch = 4

    def __init__(self, after: int | None = None, bad: float | None = None):
        self.spec = Spec(size=Size(20), stride=8)
        self.calls, self.after, self.bad = 0, after, bad

    def __call__(self, frames, flow):
        self.calls += 1
        assert flow is None and frames.shape[:3] == (4, 3, 16) and frames.dtype == np.uint8
        if self.after is not None and self.calls > self.after:
            raise KeyboardInterrupt
        rows = frames.mean((2, 3, 4), dtype=np.float64).astype(np.float32)
        if self.bad is not None:
            rows[frames.shape[3] == frames.shape[4]] = self.bad
        return rows


def test_features_say_what_they_are(videos, tmp_path):
    result = run(videos, tmp_path / "out")
    assert sorted(result.done) == ["a", "b", "c"] and not result.failed and not result.kept
    store = open_features(tmp_path / "out")
    assert store.lengths == {"a": 4, "b": 2, "c": 2} and store.width == 512
    assert store.stated == {"fps": 25.0, "stride": 16.0, "snippet_frames": 16.0}
    assert store.streams == [[0, 256, "appearance"], [256, 512, "motion"]]
    for name, seconds in (("a", 2.8), ("b", 41 / 30), ("c", 1.2)):
        assert abs(store.durations[name] - seconds) < 0.2 and np.isfinite(store[name]).all()
    log = [json.loads(line) for line in (tmp_path / "out" / "extraction.jsonl").read_text().splitlines()]
    assert log[0]["backbone"] == "motion" and [entry["source"] for entry in log[1:]] == ["a.mp4", "b.mkv", "c.mp4"]
    assert "extracted by motion: 3 videos of width 512, 2 to 4 snippets" in store.summary()


def test_the_same_bytes_whatever_the_order_and_the_threads(videos, tmp_path):
    files = sorted(videos.iterdir())
    run(files, tmp_path / "one", workers=1)
    run(files[::-1], tmp_path / "three", workers=3)
    run(files[:1], tmp_path / "part", workers=4)
    run(files, tmp_path / "part", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "three") == content(tmp_path / "part")
    assert set(content(tmp_path / "one")) == {"a.npy", "b.npy", "c.npy", "extraction.jsonl"}


def test_batches_go_across_videos(videos, tmp_path):
    backbone = Averages()
    run(videos, tmp_path / "out", backbone)
    store = open_features(tmp_path / "out")
    assert sum(store.lengths.values()) == 15 and backbone.calls <= 5  # two shapes
    run(sorted(videos.iterdir())[:1], tmp_path / "alone", Averages())
    assert np.array_equal(open_features(tmp_path / "alone")["a"], store["a"])


@pytest.mark.parametrize("kind", ["motion", "batches"])
def test_a_picture_that_is_held_is_described_once(tmp_path, monkeypatch, kind):
    views, times = moving(texture(0), [(3 * i, 0) for i in range(60)]), [i / 25 for i in range(30)]
    video = write_video(tmp_path / "v.mkv", views, [*times, *(31.2 + t for t in times)])
    described = []

    def described_by(out):
        made = make_backbone("motion", short=48) if kind == "motion" else Averages()
        real = type(made).__call__
        monkeypatch.setattr(type(made), "__call__", lambda *given: described.append(out) or real(*given))
        run([video], tmp_path / out, made, workers=1)
        monkeypatch.undo()
        return (tmp_path / out / "v.npy").read_bytes()

    once = described_by("once")
    monkeypatch.setattr(module, "snippets", lambda *given: (s._replace(repeated=False) for s in snippets(*given)))
    assert once == described_by("each")
    assert described.count("once") < 0.4 * described.count("each")


def test_stopped_and_gone_on_with(videos, tmp_path):
    run(videos, tmp_path / "whole", Averages())
    for after in range(4):
        out = tmp_path / f"out{after}"
        with pytest.raises(KeyboardInterrupt):
            run(videos, out, Averages(after), workers=1)
        assert not list(out.glob(".*.part"))
        result = run(videos, out, Averages())
        assert len(result.done) + len(result.kept) == 3
        assert content(out) == content(tmp_path / "whole")


KILLED = """
import os, sys, pathlib
from d2net.video.backbones.motion import Motion
from d2net.video.extract import extract
class Dying(Motion):
    def __call__(self, frames, flow):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 5:
            os.kill(os.getpid(), 9)
        return super().__call__(frames, flow)
extract(sorted(pathlib.Path(sys.argv[1]).iterdir()), sys.argv[2], Dying(short=48), workers=1, progress=False)
"""


def test_killed_and_gone_on_with(videos, tmp_path):
    dead = subprocess.run([sys.executable, "-c", KILLED, str(videos), str(tmp_path / "out")], capture_output=True)
    assert dead.returncode == -9, dead.stderr.decode()
    (tmp_path / "out" / "extraction.jsonl").open("ab").write(b'{"video": "b", "fi')  # a line cut short
    assert list(open_features(tmp_path / "out")) == ["a"]
    result = run(videos, tmp_path / "out")
    assert result.kept == ["a"] and sorted(result.done) == ["b", "c"]
    run(videos, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_sources_that_changed_are_extracted_again(videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    run(folder, tmp_path / "out")
    shutil.copy(folder / "b.mkv", folder / "a.mp4")
    result = run(folder, tmp_path / "out")
    assert result.done == ["a"] and sorted(result.kept) == ["b", "c"]
    assert (tmp_path / "out" / "a.npy").read_bytes() == (tmp_path / "out" / "b.npy").read_bytes()
    (folder / "a.mp4").write_bytes(b"")
    assert list(run(folder, tmp_path / "out").failed) == [str(folder / "a.mp4")]
    assert len(open_features(tmp_path / "out")) == 3  # what was there stays
    (tmp_path / "out" / "c.npy").unlink()
    assert run(folder, tmp_path / "out").done == ["c"]


def test_one_damaged_file_does_not_stop_the_others(videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    (folder / "nested").mkdir()
    shutil.copy(folder / "a.mp4", folder / "nested" / "a.mp4")
    other, out = folder / "nested" / "a.mp4", tmp_path / "out"
    runner = CliRunner()
    small = ["--out", str(out), "--quiet", "--short", "32"]
    made = runner.invoke(app, ["extract", str(folder), str(other), "gone.mp4", *small])
    assert made.exit_code == 1 and "3 videos, 3 failed" in made.stdout
    lines = made.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert all(any(name in line for line in lines) for name in ("broken.mp4", "nested/a.mp4", "no file gone.mp4"))
    assert len(open_features(out)) == 3
    none = runner.invoke(app, ["extract", str(folder / "broken.mp4"), "--out", str(tmp_path / "none"), "--quiet"])
    assert none.exit_code == 2
    good = runner.invoke(app, ["extract", str(videos), *small])
    assert good.exit_code == 0 and "3 videos, of which 3 were there" in good.stdout


def test_a_backbone_that_fails_on_one_video(videos, tmp_path):
    result = run(videos, tmp_path / "out", Averages(bad=float("nan")))
    assert sorted(result.done) == ["a", "b"]
    assert "averages gave NaN" in result.failed[str(videos / "c.mp4")]


def test_folders_of_something_else_are_left_alone(videos, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes.txt.*give --out a folder of their own"):
        run(videos, tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    out = tmp_path / "out"
    run(videos, out)
    before = content(out)
    with pytest.raises(DataError, match=r"whose stride is 16, not 8; give another --out, or --overwrite"):
        run(videos, out, make_backbone("motion", short=48, stride=8))
    assert content(out) == before
    assert len(run(videos, out, make_backbone("motion", short=48, stride=8), overwrite=True).done) == 3
    assert open_features(out).stated["stride"] == 8
    with FolderLock(out), pytest.raises(FolderInUse, match="is extracting in"):
        run(videos, out, make_backbone("motion", short=48, stride=8))


def test_names_in_any_script(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    names = ["日本 語", "a_rgb", "a_flow", "x\ny", ".hidden", "é" * 120, os.fsdecode(b"caf\xe9")]
    for name in names:
        shutil.copy(videos / "c.mp4", folder / f"{name}.mp4")
    assert sorted(run(folder, tmp_path / "out").done) == sorted(names)
    store = open_features(tmp_path / "out")
    assert sorted(store) == sorted(names)
    assert len({store[name].tobytes() for name in names}) == 1


@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        (0, {"format": "else"}, "another version"),
        (0, {"fps": "fast"}, "first line"),
        (0, {"fps": None}, "first line"),
        (1, {"file": "../a.npy"}, "line 2 is not of a video: file must be"),
        (1, {"file": ".a.npy"}, "file must be"),
        (1, {"snippets": 0}, "snippets must be"),
        (1, {"snippets": 7}, "a.npy has 4 rows, the log says 7"),
        (1, {"duration": -1}, "duration must be"),
        (1, {"more": 1}, "line 2"),
        (2, {"file": "gone.npy"}, "1 files of its log are gone"),
    ],
)
def test_logs_that_lie(videos, tmp_path, number, changes, says):
    run(videos, tmp_path / "out")
    path = tmp_path / "out" / "extraction.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FeatureError, match=says) as error:
        open_features(tmp_path / "out")
    assert str(tmp_path / "out") in str(error.value)


@pytest.mark.parametrize("log", ['{"format": "d2net features 0"}\n', "junk\n", "", b"\xff\xfe", 1])
def test_a_log_that_cannot_be_read_is_overwritten_when_asked(videos, tmp_path, log):
    path = tmp_path / "out" / "extraction.jsonl"
    run(videos, tmp_path / "out")
    whole = content(tmp_path / "out")
    if log == 1:
        log = path.read_text().replace('"snippets": ', '"snippets": -')
    path.write_bytes(log if isinstance(log, bytes) else log.encode())
    with pytest.raises(DataError, match=r"extraction\.jsonl"):
        run(videos, tmp_path / "out")
    assert len(run(videos, tmp_path / "out", overwrite=True).done) == 3
    assert content(tmp_path / "out") == whole


def test_nothing_extracted_is_said(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"")
    run([tmp_path / "bad.mp4"], tmp_path / "out")
    with pytest.raises(FeatureError, match="no video is extracted yet"):
        open_features(tmp_path / "out")


def test_a_full_disk_costs_nothing_that_is_done(videos, tmp_path, monkeypatch):
    from d2net.video.writing import RowWriter

    add, calls = RowWriter.add, []

    def full(self, row):
        calls.append(row)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, row)

    monkeypatch.setattr(RowWriter, "add", full)
    with pytest.raises(DataError, match=r"cannot write to .*out: No space left on device; what is extracted stays"):
        run(videos, tmp_path / "out", workers=1)
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".*.part")) and list(open_features(tmp_path / "out")) == ["a"]
    assert run(videos, tmp_path / "out").kept == ["a"]


def test_stopping_says_how_to_go_on(videos, tmp_path):
    with pytest.raises(KeyboardInterrupt, match="stopped with 0 of 3 videos; run it again to go on"):
        run(videos, tmp_path / "out", Averages(0), workers=1)


def test_nothing_is_made_where_a_package_is_missing(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"the package av is missing; pip install 'd2kernels\[video\]'"):
        run(videos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_partial_took_is_kept_only_by_partial(tmp_path):
    path = write_video(
        tmp_path / "v.mp4", [texture(i) for i in range(120)], [i / 25 for i in range(120)],
        container_options={"movflags": "+faststart"},
    )  # fmt: skip
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    out = tmp_path / "out"
    assert run([path], out, partial=True).done == ["v"]
    assert "truncated: " in (out / "extraction.jsonl").read_text()
    assert run([path], out, partial=True).kept == ["v"]
    found = run([path], out)
    assert not found.kept and "v.mp4 is truncated" in found.failed[str(path)]
