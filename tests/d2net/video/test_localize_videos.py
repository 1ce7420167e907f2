"""From video files to a trained model and, with it, from other files to segments and subtitles."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from d2net import api
from d2net.cli import app
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.video.backbones import make_backbone
from d2net.video.demo import run_video_demo, video_demo_config
from d2net.video.extract import extract
from d2net.video.localize import backbone_of
from d2net.video.synth import write_script, write_videos


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a few videos, and a short run on their features without a word on timing."""
    folder = tmp_path_factory.mktemp("trained")
    annotations = load_annotations(write_videos(folder / "videos", 6))
    extract(
        sorted((folder / "videos").iterdir()), folder / "features", make_backbone("motion", short=48), progress=False
    )
    config = video_demo_config(30)
    api.train(folder / "features", annotations, folder / "run", config, device="cpu", progress=False)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, ["localize", *map(str, arguments), "--quiet"])


def test_models_know_what_made_their_features(trained, tmp_path):
    model = api.load(trained / "run")
    store = open_features(trained / "features")
    assert model.extraction == store.identity and model.network.streams == 2
    assert model.timing is not None and (model.timing.fps, model.timing.stride) == (25, 16)


def test_video_gives_what_features_give(trained, tmp_path):
    first, second = (trained / "videos" / f"video_{i:03d}.mp4" for i in (0, 3))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    run = ["--checkpoint", trained / "run"]
    made = invoke(
        *run, "--video", first, second, tmp_path / "bad.mp4", "--out", tmp_path / "new.json",
        "--render", "srt, vtt,PNG,mp4", "--render-to", tmp_path / "shown",
    )  # fmt: skip
    assert made.exit_code == 1 and "bad.mp4 is no video" in made.stderr, made.output
    names = {f"{p.stem}.{kind}" for p in (first, second) for kind in ("srt", "vtt", "png", "mp4")}
    assert {p.name for p in (tmp_path / "shown").iterdir()} == names
    same = invoke(*run, "--features", trained / "features", "--out", tmp_path / "old.json")
    assert same.exit_code == 0, same.output
    new, old = (json.loads((tmp_path / f"{n}.json").read_text())["results"] for n in ("new", "old"))
    assert new == {name: old[name] for name in ("video_000", "video_003")}


def test_features_can_be_kept(trained, tmp_path):
    run = ["--checkpoint", trained / "run", "--video", trained / "videos" / "video_001.mp4"]
    kept = ["--features", tmp_path / "kept", "--out", tmp_path / "out.json"]
    assert invoke(*run, *kept).exit_code == 0
    assert list(open_features(tmp_path / "kept")) == ["video_001"]
    run[-1] = trained / "videos" / "video_002.mp4"
    assert invoke(*run, *kept).exit_code == 0
    assert list(json.loads((tmp_path / "out.json").read_text())["results"]) in ([], ["video_002"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--video", "VIDEO", "--activations", "a.npz"], "exclude each other"),
        (["--video", "VIDEO", "--render", "avi"], "--render avi: it takes srt, vtt, png, mp4"),
        (["--features", "FEATURES", "--render", "srt"], "go with --video"),
        (["--features", "FEATURES", "VIDEO"], "give videos as --video FILE"),
        (["--video", "VIDEO", "--backbone", "i3d"], "was trained on features of motion"),
        (["--video", "gone.mp4"], "no file gone.mp4"),
        (["--video", "EMPTY"], "ends as a video does"),
    ],
)
def test_what_does_not_fit_is_said(trained, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    named = {
        "VIDEO": trained / "videos" / "video_000.mp4",
        "FEATURES": trained / "features",
        "EMPTY": tmp_path / "empty",
    }
    made = invoke(
        "--checkpoint", trained / "run", "--out", tmp_path / "out.json", *(named.get(a, a) for a in arguments)
    )
    assert made.exit_code != 0 and says in f"{made.exception}" and not (tmp_path / "out.json").exists()


def test_no_video_is_written_onto(trained, tmp_path):
    video = tmp_path / "video_000.mp4"
    shutil.copy(trained / "videos" / video.name, video)
    before = video.read_bytes()
    made = invoke("--checkpoint", trained / "run", "--video", video, "--out", tmp_path / "o.json", "--render", "mp4")
    assert made.exit_code != 0 and "is the input" in str(made.exception) and "--render-to" in str(made.exception)
    assert os.listdir(tmp_path) == [video.name] and video.read_bytes() == before  # it is said before anything is done


def test_only_given_videos_are_rendered(trained, tmp_path):
    """Also where a subset of the annotations names others, whose features are kept."""
    made = invoke(
        "--checkpoint", trained / "run", "--video", trained / "videos" / "video_000.mp4", "--render", "srt",
        "--features", shutil.copytree(trained / "features", tmp_path / "kept"), "--out", tmp_path / "found" / "o.json",
        "--annotations", trained / "annotations.json", "--subset", "test",
    )  # fmt: skip
    assert made.exit_code == 0, made.exception
    assert sorted(os.listdir(tmp_path / "found")) == ["o.json", "video_000.srt"]
    assert len(json.loads((tmp_path / "found" / "o.json").read_text())["results"]) == 3


@pytest.mark.parametrize(
    "change", ["x", [1], {"backbone": None}, {"fps": "x"}, {"size": [1]}, {"size": {"short": "a", "crop": None}},
               {"size": {"short": None, "crop": None}}, {"stride": "y"}, {"size": {"short": 48, "crop": [1]}}],
)  # fmt: skip
def test_models_that_lie_about_their_features(change):
    identity = make_backbone("motion", short=48).identity()
    assert backbone_of(identity).identity() == identity
    with pytest.raises(ValueError, match=r"give --features extracted anew|stride must be"):
        backbone_of(identity | change if isinstance(change, dict) else change)


def test_made_up_videos_follow_their_script():
    for seed in range(40):
        script = write_script("v", seed)
        ends = [0.0, *(t for e in script.events for t in (e.start, e.end)), script.seconds]
        assert script.events and ends == sorted(ends) and script.times == sorted(set(script.times))


def test_the_demo_fails_without_training(tmp_path, capsys):
    assert run_video_demo(tmp_path, iterations=1, videos=4) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    for name in ("data/videos", "features", "run", "detections.json", "shown/video_000.mp4"):
        assert str(tmp_path / name) in out and (tmp_path / name).exists()


@pytest.mark.slow
def test_the_demo_learns(tmp_path, capsys):
    assert run_video_demo(tmp_path, videos=16, iterations=150) == 0
