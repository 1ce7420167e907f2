"""What is written: nothing but files is replaced, links are followed, and a full disk costs nothing that was there."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext

import numpy as np
import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.files import (
    DataError,
    check_destination,
    check_outputs,
    read_text,
    replacing,
    write_atomically,
    write_text,
)
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.terminal import printable
from d2net.training.folder import RunExists, check_folder, run_files


def write(path):
    write_atomically(path, lambda file: file.write(b"new"))


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "link to a device", "loop"])
def test_only_files_are_replaced(tmp_path, kind):
    import socket

    path = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("device nodes need root")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if kind == "link to a device" else path)
    before = os.lstat(path)
    for call in (write, check_destination):
        with pytest.raises(DataError) as error:
            call(path)
        assert str(path) in str(error.value)
    assert os.lstat(path) == before and os.listdir(tmp_path) == ["out"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    for name, target in (("old", "there/file"), ("new", "there/absent")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "there/file").write_bytes(b"old")
    for name in ("old", "new"):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "there")) == ["absent", "file"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match="No space left on device; what was there before is whole"):
        write_atomically(path, full)
    with pytest.raises(ZeroDivisionError), replacing(path):
        _ = 1 / 0
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


SCRIPT = """
import locale, sys
from d2net.config import load_config, make_config
from d2net.data.files import read_text, write_text
assert "utf" not in locale.getpreferredencoding(False).lower()
make_config(overrides={"train.subsets": ["entraînement"]}).save(sys.argv[1])
load_config(sys.argv[1])
write_text(sys.argv[2], "± ü")
assert read_text(sys.argv[2]) == "± ü"
"""


def test_text_is_utf8_whatever_the_locale(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, script, tmp_path / "c.yaml", tmp_path / "t"], check=True, env=environment)
    assert "entra" in (tmp_path / "c.yaml").read_text(encoding="utf-8")
    write_text(tmp_path / "s", "lone \ud800")
    assert read_text(tmp_path / "s") == "lone \\ud800"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_marks_and_line_ends(tmp_path, mark, end):
    from d2net.config import load_config
    from d2net.data.annotations import load_annotations
    from d2net.data.video_info import load_video_info
    from d2net.evaluation import load_ambiguous

    def saved(name, text):
        path = tmp_path / name
        path.write_bytes(mark + text.encode().replace(b"\n", end))
        return path

    assert load_ambiguous(saved("a.txt", "v1 1 2\nv2 3 4\n")) == {"v1": [(1, 2)], "v2": [(3, 4)]}
    info = load_video_info(saved("i.csv", "video,duration\nv1,3\nv2,4\n"))
    assert info.durations == {"v1": 3, "v2": 4}
    assert load_config(saved("c.yaml", "train:\n  seed: 7\n")).train.seed == 7
    assert load_config(saved("c.toml", "[train]\nseed = 8\n")).train.seed == 8
    tree = {"database": {"v1": {"video_labels": ["ü"]}}}
    assert load_annotations(saved("a.json", json.dumps(tree, indent=1, ensure_ascii=False))).classes == ("ü",)


def test_nothing_in_a_name_acts_on_a_terminal():
    assert printable("plain ü 中 \u00a0x") == "plain ü 中 \u00a0x"
    shown = printable("a\x1b[2Jb\x07\r\n\u202e\u2028\x9bz\ud800")
    assert shown == r"a\x1b[2Jb\x07\r\n\u202e\u2028\x9bz\ud800"


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def test_a_full_disk_does_not_cost_the_run_that_is_replaced(tmp_path):
    data = write_synthetic(tmp_path / "data", make_synthetic(videos=9, classes=2, width=16))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "d2net", "train", "--features", data[0], "--annotations", data[1], "--out", out]
    command += ["--quiet", "--set", "iterations=3", "--set", "train.subsets=train", "--set", "log_every=1"]
    config = make_config(overrides={"train.iterations": 3, "train.subsets": ["train"], "train.log_every": 1})
    api.train(*data, out, config, progress=False)
    before = contents(out)
    # Files of at most 4 KiB stand for a disk with no more room.
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "-", *map(str, command), "--overwrite"]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot write" in done.stderr and "is whole" in done.stderr, done.stderr
    assert contents(out) == before
    api.train(*data, out, config, progress=False, overwrite=True)
    assert len((out / "log.jsonl").read_text().splitlines()) == 3


def test_no_output_lies_in_an_input_or_replaces_what_a_run_is_read_from(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "v1.npy").write_bytes(b"x")
    run = tmp_path / "run"
    run.mkdir()
    for out in (folder / "v1.npy", folder / "deeper/x.json"):
        with pytest.raises(DataError, match="lies in the input"):
            check_outputs([out], [folder])
    with pytest.raises(DataError, match="is the input"):
        check_outputs([run / "checkpoint.pt"], run_files(run))
    check_outputs([run / "detections.json", tmp_path / "features.json"], [*run_files(run), folder])


@pytest.mark.parametrize("name", ["holdout.json", "best.pt"])
def test_files_of_others_in_a_new_run_s_folder_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunExists, match=name):
        check_folder(tmp_path, False, False)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["config.yaml", "best.pt", "log.jsonl"])
def test_a_run_whose_files_cannot_be_written_is_known_before_the_old_one_goes(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=name):
        check_folder(tmp_path, False, True)


def test_long_names_in_any_script_are_written(tmp_path):
    path = tmp_path / ("名" * 80 + ".json")
    write(path)
    assert path.read_bytes() == b"new"


def test_what_fails_before_anything_is_written_leaves_no_folder(tmp_path, capsys, monkeypatch):
    from d2net import cli

    np.savez(tmp_path / "f.npz", v=np.ones((5, 4), np.float32))
    (tmp_path / "bad.pt").write_bytes(b"x")
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v": {"subset": "train", "video_labels": ["a"]}}}))
    common = ["--features", tmp_path / "f.npz", "--annotations", tmp_path / "a.json"]
    for args in (
        ["localize", "--checkpoint", tmp_path / "bad.pt", *common, "--out", tmp_path / "new/deep/d.json"],
        ["export", "--checkpoint", tmp_path / "bad.pt", "--out", tmp_path / "new/deep/d.onnx"],
        ["evaluate", "--predictions", tmp_path / "bad.pt", "--ground-truth", tmp_path / "a.json",
         "--out", tmp_path / "new/deep/m.json"],
        ["train", *common, "--out", tmp_path / "new/deep/run", "--quiet",
         "--set", "train.subsets=train", "--set", "loss.min_snippets=50"],
    ):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["d2net", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2, capsys.readouterr()
        assert not (tmp_path / "new").exists(), args[0]


def test_two_outputs_of_which_one_is_the_other_s_folder(tmp_path):
    for outputs in ([tmp_path / "a", tmp_path / "a/b"], [tmp_path / "a/b", tmp_path / "a"]):
        with pytest.raises(DataError, match="cannot both be files"):
            check_outputs(outputs, [])
    check_outputs([tmp_path / "a/b", tmp_path / "a/c", tmp_path / "ab"], [])


def test_many_outputs_are_checked_in_linear_time(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: made.append(dir) or nullcontext())
    outputs = [tmp_path / f"v{i}.srt" for i in range(20_000)]
    began = time.process_time()
    check_outputs(outputs, [tmp_path / "v.mp4"])
    assert time.process_time() - began < 60 and made == [tmp_path]  # pairs of them would take hours
    with pytest.raises(DataError, match="cannot both be files"):
        check_outputs([*outputs, outputs[7] / "x"], [])
    assert list(tmp_path.iterdir()) == []
