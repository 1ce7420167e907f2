"""The command line from end to end on made-up data, and what it says to bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from d2net import api, cli
from d2net.config import make_config
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.data.video_info import load_video_info
from d2net.timing import Timing, UnknownTiming
from d2net.training.checkpoint import read_checkpoint

SHORT = ["--set", "iterations=30", "--set", "learning_rate=1e-3", "--set", "train.subsets=[train]", "--quiet"]
SET_TIMING = ["--set", "fps=25", "--set", "stride=16", "--set", "snippet_frames=16"]
TIMING = ["--fps", "25", "--stride", "16", "--snippet-frames", "16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=18, classes=3, width=16))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    command = [sys.executable, "-m", "d2net", "train", "--features", data[0], "--annotations", data[1], "--out", out]
    subprocess.run([*command, *TIMING, *SHORT], check=True)
    return out


def test_train_localize_evaluate(command, data, trained, tmp_path):
    features, annotations = data
    found, metrics = tmp_path / "detections.json", tmp_path / "metrics.json"
    status, out, err = command(
        "localize", "--checkpoint", trained, "--features", features, "--annotations", annotations,
        "--subset", "test", "--out", found, "--save-activations", tmp_path / "a.npz",
    )  # fmt: skip
    assert status == 0, err
    assert "detections in 6 videos" in out
    assert "features: an .npz keyed by video: 18 videos of width 16" in out
    results = json.loads(found.read_text())["results"]
    truth = json.loads(annotations.read_text())["database"]
    assert set(results) <= {v for v in truth if truth[v]["subset"] == "test"}
    for video, rows in results.items():
        for row in rows:
            assert 0 <= row["segment"][0] < row["segment"][1] <= truth[video]["duration_second"] + 1e-9
    status, out, err = command(
        "evaluate", "--predictions", found, "--ground-truth", annotations, "--subset", "test", "--out", metrics
    )
    assert status == 0, err
    report = json.loads(metrics.read_text())
    assert report["protocol"] == "activitynet" and 0 <= report["average_mAP"] <= 1
    assert set(report["ap"]) == {"class_0", "class_1", "class_2"} and len(report["iou"]) == 7

    again = tmp_path / "again.json"
    status, _, err = command(
        "localize", "--checkpoint", trained, "--activations", tmp_path / "a.npz", "--annotations", annotations,
        "--subset", "test", "--out", again,
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(again.read_text())["results"] == results


def test_decoder_fields_can_be_changed_and_others_not(command, data, trained, tmp_path):
    common = ["localize", "--checkpoint", trained, "--features", data[0]]
    counts = []
    for extra in ([], ["--set", "iou_threshold=1.0"]):
        out = tmp_path / "d.json"
        assert command(*common, "--out", out, *extra)[0] == 0
        counts.append(sum(map(len, json.loads(out.read_text())["results"].values())))
    assert counts[1] > counts[0]
    status, _, err = command(*common, "--out", tmp_path / "d.json", "--set", "gamma=3")
    assert status == 2 and "loss.gamma" in err


def broken_annotations(data, folder, change):
    tree = json.loads(data[1].read_text())
    change(tree)
    path = folder / "annotations.json"
    path.write_text(json.dumps(tree))
    return path


def broken_features(data, folder, change):
    with np.load(data[0]) as z:
        arrays = {k: z[k] for k in z.files}
    change(arrays)
    np.savez(folder / "features.npz", **arrays)
    return folder / "features.npz"


TRAINED_VIDEO = "video_010"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a[TRAINED_VIDEO].__setitem__((3, 2), np.nan), TRAINED_VIDEO),
        (lambda a: a.__setitem__(TRAINED_VIDEO, a[TRAINED_VIDEO][:, :7]), TRAINED_VIDEO),
        (lambda a: a.__setitem__(TRAINED_VIDEO, a[TRAINED_VIDEO][:0]), TRAINED_VIDEO),
        (lambda a: a.pop(TRAINED_VIDEO), TRAINED_VIDEO),
    ],
    ids=["nan", "width", "no-rows", "missing"],
)
def test_bad_features(command, data, tmp_path, change, says):
    features = broken_features(data, tmp_path, change)
    status, _, err = command(
        "train", "--features", features, "--annotations", data[1], "--out", tmp_path / "run", *SHORT, *TIMING
    )
    assert status == 2 and says in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: [v.pop("subset") for v in t["database"].values()], "subset"),
        (lambda t: t["database"][TRAINED_VIDEO]["annotations"][0].__setitem__("label", "juggling"), "juggling"),
        (lambda t: t.pop("database"), "database"),
        (lambda t: [v.update(annotations=[]) for v in t["database"].values()], "none of the 12 training videos has a"),
        (lambda t: (t.pop("classes"), [v.update(annotations=[]) for v in t["database"].values()]), "has a label"),
    ],
    ids=["no-subset", "label-outside", "no-database", "no-labels", "no-classes"],
)
def test_bad_annotations(command, data, tmp_path, change, says):
    annotations = broken_annotations(data, tmp_path, change)
    status, _, err = command(
        "train", "--features", data[0], "--annotations", annotations, "--out", tmp_path / "run", *SHORT
    )
    assert status == 2 and says in err and "Traceback" not in err


def selecting(**more):
    given = {"train.iterations": 6, "train.subsets": ["train"], "train.evaluate_every": 4, "train.holdout": 0.4}
    return make_config(overrides={**given, "train.learning_rate": 1.0, **more})


def test_a_folder_loads_the_checkpoint_that_was_selected(data, tmp_path):
    config = selecting(**{"train.selection": "cls_mAP"})
    api.train(*data, tmp_path, config, device="cpu", progress=False)
    best, last = (read_checkpoint(tmp_path / name) for name in ("best.pt", "checkpoint.pt"))
    assert best["iteration"] < last["iteration"]
    kept = api.load(tmp_path, "cpu").network.state_dict()
    assert all(torch.equal(kept[k], best["model"][k]) for k in kept)


def test_a_selection_that_cannot_be_made_is_refused_first(data, tmp_path):
    config = selecting(**{"train.selection": "loc_mAP"})
    with pytest.raises(UnknownTiming, match="loc_mAP needs the features' timing"):
        api.train(*data, tmp_path / "run", config, device="cpu")
    weak = broken_annotations(
        data, tmp_path, lambda t: [v.update(annotations=[], video_labels=["class_0"]) for v in t["database"].values()]
    )
    config = selecting(**{"train.selection": "loc_mAP", "timing.snippet_seconds": 0.64})
    with pytest.raises(ValueError, match="loc_mAP needs segments"):
        api.train(data[0], weak, tmp_path / "run", config, device="cpu")
    assert not (tmp_path / "run").exists()


def test_features_of_another_kind(data, trained, tmp_path):
    arrays = [np.zeros((9, 16), np.float32)]
    with pytest.raises(TypeError, match=r"localize: features must be a path.* got list"):
        api.localize(api.load(trained, "cpu"), arrays)
    with pytest.raises(ValueError, match=r"features\['v'\]: expected numbers, got object"):
        api.localize(api.load(trained, "cpu"), {"v": arrays[0].astype(object)})
    with pytest.raises(TypeError, match=r"train: features must be a path.* got dict"):
        api.train({"v": arrays[0]}, data[1], tmp_path / "run")


def test_training_videos_by_name(data, tmp_path):
    config = make_config(overrides={"train.iterations": 2})
    for names, says in ((["nobody"], "no video 'nobody'"), ([], "none of the 0 training videos")):
        with pytest.raises(ValueError, match=says):
            api.train(*data, tmp_path / "run", config, names=names, device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_truncated_files_and_folders_in_use(command, data, trained, tmp_path):
    short = tmp_path / "features.npz"
    short.write_bytes(data[0].read_bytes()[:5000])
    base = ["train", "--annotations", data[1], *SHORT]
    status, _, err = command(*base, "--features", short, "--out", tmp_path / "run")
    assert status == 2 and "features.npz" in err
    status, _, err = command(*base, "--features", data[0], "--out", trained, *TIMING)
    assert status == 2 and "--resume" in err and "--overwrite" in err
    bad = tmp_path / "checkpoint.pt"
    bad.write_bytes((trained / "checkpoint.pt").read_bytes()[:3000])
    status, _, err = command("localize", "--checkpoint", bad, "--features", data[0], "--out", tmp_path / "d.json")
    assert status == 2 and "checkpoint.pt" in err and not (tmp_path / "d.json").exists()


def test_seconds_are_refused_without_timing(command, data, tmp_path):
    out = tmp_path / "run"
    status, _, err = command("train", "--features", data[0], "--annotations", data[1], "--out", out, *SHORT)
    assert status == 0, err
    common = ["localize", "--checkpoint", out, "--features", data[0], "--out", tmp_path / "d.json"]
    status, _, err = command(*common)
    assert status == 2 and "--snippet-seconds" in err
    assert command(*common, "--snippet-seconds", "0.64")[0] == 0


def test_ctrl_c_says_how_to_go_on(data, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "d2net", "train", "--features", data[0], "--annotations", data[1], "--out", out]
    command += [*TIMING, "--quiet", "--set", "train.subsets=train", "--set", "log_every=1"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    log, deadline = out / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "stopped at iteration" in err and "--resume" in err
    assert (out / "checkpoint.pt").exists()


def test_resized_features_need_durations(command, data, trained, tmp_path):
    found = tmp_path / "d.json"
    common = ["localize", "--checkpoint", trained, "--features", data[0], "--out", found, "--resized"]
    status, _, err = command(*common)
    assert status == 2 and "'video_000' was resized and its duration is unknown" in err and not found.exists()
    assert command(*common, "--annotations", data[1])[0] == 0
    info = tmp_path / "info.csv"
    info.write_text("video,duration,resized\nvideo_000,20,1\n")
    assert load_video_info(info).timings == {"video_000": Timing(resized=True)}


def test_outputs_that_cannot_be_written_are_refused_first(command, data, tmp_path):
    nothing = ["localize", "--checkpoint", tmp_path / "absent", "--features", data[0], "--out"]
    status, _, err = command(*nothing, tmp_path)
    assert status == 2 and "is a folder; give the name of a file" in err
    status, _, err = command(*nothing, data[0] / "d.json")
    assert status == 2 and "cannot write to the folder" in err


def test_no_output_is_an_input_or_another_output(command, data, trained, tmp_path):
    before = data[0].read_bytes()
    (tmp_path / "link.npz").symlink_to(data[0])
    common = ["localize", "--checkpoint", trained, "--features", data[0], "--out"]
    for out, says in (
        (data[0], "is the input"),
        (tmp_path / "link.npz", "is the input"),
        (tmp_path / "a", "another output"),
    ):
        status, _, err = command(*common, out, "--save-activations", tmp_path / "a")
        assert status == 2 and says in err, err
    assert data[0].read_bytes() == before
    common = ["evaluate", "--predictions", data[1], "--ground-truth", data[1], "--out", data[1]]
    assert "is the input" in command(*common)[2]


def test_snippet_times_of_the_release_protocol(command, data, tmp_path):
    rows = [{"label": "class_0", "score": 1, "segment": [0, 4]}]
    found = tmp_path / "d.json"
    found.write_text(json.dumps({"results": {"video_000": rows}}))
    common = ["evaluate", "--predictions", found, "--ground-truth", data[1], "--protocol"]
    for options, says in (
        (["activitynet", "--fps", "25"], "are for --protocol release"),
        (["release", "--fps", "25"], "--fps and --stride go together"),
        (["release", "--fps", "0", "--stride", "16"], "fps must be a positive number"),
        (["thumos", "--ambiguous", tmp_path / "absent"], "no file"),
        (["thumos", "--ambiguous", data[0]], "is not UTF-8 text"),
    ):
        status, _, err = command(*common, *options)
        assert status == 2 and says in err, err


def test_ablate_keeps_the_runs_that_its_folder_holds(command, data, tmp_path):
    asked = ["ablate", "--features", data[0], "--annotations", data[1], "--out", tmp_path, "--rows", "CE, Dis"]
    asked += ["--seeds", "1", "--set", "iterations=2", "--set", "train.subsets=train", *SET_TIMING]
    assert command(*asked)[0] == 0
    before = (tmp_path / "Dis-0" / "checkpoint.pt").stat().st_mtime_ns
    (tmp_path / "CE-0" / "checkpoint.pt").unlink()
    status, _, err = command(*asked)
    assert status == 2 and "already holds a run" in err
    assert (tmp_path / "Dis-0" / "checkpoint.pt").stat().st_mtime_ns == before
    assert command(*asked, "--resume")[0] == 0
    assert (tmp_path / "CE-0" / "checkpoint.pt").exists()


def test_demo_replaces_nothing_of_others(command, tmp_path):
    (tmp_path / "run").mkdir()
    status, _, err = command("demo", "--out", tmp_path)
    assert status == 2 and "already holds 'run'" in err and not (tmp_path / "data").exists()


def test_empty_detections_evaluate_to_zero(command, data, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"results": {}}))
    out = tmp_path / "m.json"
    status, _, err = command(
        "evaluate", "--predictions", empty, "--ground-truth", data[1], "--subset", "test", "--out", out
    )
    assert status == 0, err
    assert json.loads(out.read_text())["average_mAP"] == 0


def test_version(command):
    from d2kernels import __version__

    assert command("--version") == (0, f"d2net {__version__}\n", "")


def test_durations_do_not_need_known_classes(command, data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("d2net.terminal.SHORT", 0.0)
    def rename(tree):
        tree["classes"] = None
        for video in tree["database"].values():
            for row in video["annotations"]:
                row["label"] = f"other {row['label']}"

    annotations = broken_annotations(data, tmp_path, rename)
    common = ["localize", "--checkpoint", trained, "--features", data[0], "--out", tmp_path / "d.json"]
    status, _, err = command(*common, "--annotations", annotations, "--subset", "test")
    assert status == 0 and re.search(r"^localize: \d+ videos", err, re.MULTILINE), err
    assert command(*common, "--annotations", annotations, "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (RecursionError("too deep"), 70, "a bug in d2net, not in your input: RecursionError: too deep; please"),
        (KeyError("k\x1b[2J"), 70, r"KeyError: 'k\x1b[2J'"),
        (ValueError("a\nb\x1b"), 2, r"error: a b\x1b"),
        (MemoryError(), 2, "error: not enough memory; use a smaller batch"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you"), 2, "error: not enough memory: Def"),
        (OSError(28, "No space left on device", "x"), 2, "error: x: No space left on device"),
    ],
)
def test_any_error_is_one_line(command, monkeypatch, tmp_path, error, status, says):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("d2net.demo.run_demo", lambda *_: (_ for _ in ()).throw(error))
    got, _, err = command("demo", "--out", tmp_path / "x")
    assert got == status and says in err and len(err.splitlines()) == 1 and "\x1b" not in err
    kept = list(tmp_path.glob("d2net-*.txt"))
    assert len(kept) == (status == 70) and all("Traceback" in k.read_text() and str(k) in err for k in kept)


def test_labels_that_the_terminal_cannot_show(data, tmp_path):
    truth = {"database": {"v": {"annotations": [{"label": "ü\x1b[2J", "segment": [0, 1]}]}}}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    rows = [{"label": "ü\x1b[2J", "score": 1, "segment": [0, 1]}]
    (tmp_path / "d.json").write_text(json.dumps({"results": {"v": rows}}))
    command = [sys.executable, "-m", "d2net", "evaluate", "--per-class", "--predictions", tmp_path / "d.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = subprocess.run([*command, "--ground-truth", tmp_path / "t.json"], capture_output=True, env=environment)
    assert out.returncode == 0 and rb"\xfc\x1b[2J" in out.stdout and b"\x1b" not in out.stdout, out


def test_a_reader_that_closes_the_pipe_is_no_error(data, tmp_path):
    rows = [{"label": "class_0", "score": 1, "segment": [0, 1]}]
    (tmp_path / "d.json").write_text(json.dumps({"results": {"video_000": rows}}))
    command = f"{sys.executable} -m d2net evaluate --predictions {tmp_path}/d.json --ground-truth {data[1]} | true"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert out.stderr == ""


def test_every_command_has_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    commands = [c.callback.__name__.replace("_", "-") for c in cli.app.registered_commands]
    assert {"train", "localize", "evaluate", "ablate", "parity", "demo"} <= set(commands)
    for command in commands:
        out = CliRunner().invoke(cli.app, [command, "--help"])
        assert out.exit_code == 0 and "Usage" in out.stdout, command


def test_ablate_lists_other_methods_beside_the_losses(command, data, tmp_path):
    asked = ["ablate", "--features", data[0], "--annotations", data[1], "--out", tmp_path, "--rows", "Dis"]
    small = ["--seeds", 1, *(x for v in ("train.iterations=2", "train.batch_size=8", "train.subsets=[train]",
             "loss.gamma=0.02", "wtalc.margin=0.25") for x in ("--set", v)), *SET_TIMING]  # fmt: skip
    status, out, err = command(*asked, *small, "--methods", "wtalc, basnet")
    assert status == 0, err
    rows = [line.split("|")[1].strip() for line in out.splitlines() if "±" in line]
    assert rows == ["Dis", "wtalc", "basnet"]
    kept = [api.load(tmp_path / f"{row}-0", "cpu").config for row in rows]
    assert [c.method for c in kept] == ["d2net", "wtalc", "basnet"]
    assert (kept[0].loss.gamma, kept[1].wtalc.margin, kept[2].train.iterations) == (0.02, 0.25, 2)
    status, _, err = command(*asked, "--methods", "wtalc,wtalc")
    assert status == 2 and "methods: 'wtalc' is given twice" in err


@pytest.mark.parametrize(
    ("rows", "says"), [("CE,CE", "CE is given twice in CE, CE"), ("CE,x", "unknown row 'x'"), ("", "unknown row ''")]
)
def test_rows_of_an_ablation_that_are_refused_first(command, data, tmp_path, rows, says):
    out = tmp_path / "out"
    files = ["--features", data[0], "--annotations", data[1]]
    status, _, err = command("ablate", *files, "--out", out, "--rows", rows)
    assert status == 2 and says in err and not out.exists()


def test_a_command_without_arguments_runs_or_names_what_it_needs():
    for name, command in typer.main.get_command(cli.app).commands.items():
        if any(p.required for p in command.params):
            result = CliRunner().invoke(cli.app, [name])
            assert result.exit_code == 2 and "Missing" in result.output, (name, result.output)
        else:
            assert command.make_context(name, []).params, name
