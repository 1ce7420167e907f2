"""Restarts: what chooses among runs, what is kept, and an average of their activations."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from d2net import api, cli
from d2net.api import training
from d2net.config import make_config
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.export import export_onnx
from d2net.training.checkpoint import CheckpointError
from d2net.training.criteria import CRITERIA, contrast, correlation, entropy, of_runs, total_variation
from d2net.training.folder import RunExists
from d2net.training.lock import FolderInUse, FolderLock

SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 12, "train.learning_rate": 3e-3, "train.batch_size": 4,
    "train.seed": 5, "timing.snippet_seconds": 1.0, "loss.denoising": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=12, classes=3, width=8))


def train(files, out, **changed):
    config = make_config(overrides=SETTINGS | changed.pop("settings", {}))
    return api.train(*files, out, config, progress=False, **{"restarts": 3, **changed})


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(files, out)
    return out


def test_criteria_by_hand():
    t = np.array([[0.0, 0.5], [1.0, 0.5], [0.0, 0.5], [1.0, 0.5]])
    assert total_variation(t).tolist() == [1.5, 0]
    assert contrast(t, 2).tolist() == [1.0, 0] and contrast(t[:1], 4).tolist() == [0, 0]
    np.testing.assert_allclose(entropy(t), [0, np.log(2)], atol=1e-7)
    assert correlation(t, 1 - t).tolist() == [-1, 0]


def test_the_run_that_disagrees_stands_out():
    rng = np.random.default_rng(0)
    base = {f"v{i}": rng.random((20, 2)) for i in range(5)}
    runs = [{v: t + 0.05 * rng.random(t.shape) for v, t in base.items()} for _ in range(3)]
    runs.append({v: 1 - t for v, t in base.items()})
    labels = np.ones((5, 2))
    labels[4] = 0  # a video without labels says nothing
    found = [row["agreement"] for row in of_runs(runs, labels, 8)]
    assert found[3] < 0 < min(found[:3])
    assert set(of_runs(runs, labels, 8)[0]) == set(CRITERIA)


def test_one_run_is_kept_as_any_other(run, files):
    record = json.loads((run / "restarts.json").read_text())
    assert record["seeds"] == [5, 6, 7] and set(record["values"]) == set(CRITERIA)
    values = record["values"]["agreement"]
    assert len(set(values)) == 3 and record["chosen"] == 5 + int(np.argmax(values))
    chosen = run / f"seed-{record['chosen']}"
    for name in ("checkpoint.pt", "config.yaml", "log.jsonl"):
        assert (run / name).read_bytes() == (chosen / name).read_bytes()
    a, b = api.load(run).network.state_dict(), api.load(chosen).network.state_dict()
    assert all(a[k].equal(b[k]) for k in a)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_criterion_is_followed(files, run, tmp_path, criterion, monkeypatch):
    kept, models = [], {f"seed-{s}": api.load(run / f"seed-{s}") for s in (5, 6, 7)}
    monkeypatch.setattr(training, "train_all", lambda *_: None)
    monkeypatch.setattr(training, "keep", lambda out, found: kept.append(found))
    monkeypatch.setattr(training, "load", lambda folder, *_: models.get(folder.name))
    train(files, tmp_path / "run", criterion=criterion)
    best = max if CRITERIA[criterion] else min
    values = kept[0].values[criterion]
    assert values[kept[0].seeds.index(kept[0].chosen)] == best(values)


def test_each_run_is_the_one_that_its_seed_trains_alone(run, files, tmp_path):
    alone = train(files, tmp_path / "alone", restarts=1, settings={"train.seed": 6}).network.state_dict()
    one_of = api.load(run / "seed-6").network.state_dict()
    assert all(alone[k].equal(one_of[k]) for k in alone)


def test_an_average_of_activations(run, files, tmp_path):
    model = train(files, tmp_path / "run", average=True)
    parts = [api.load(run / f"seed-{s}") for s in (5, 6, 7)]
    features = np.load(files[0])
    name = features.files[0]
    own = model.activations(features[name])
    each = [m.activations(features[name]) for m in parts]
    np.testing.assert_allclose(own.classes, np.mean([a.classes for a in each], 0), rtol=1e-6)
    np.testing.assert_allclose(own.foreground, np.mean([a.foreground for a in each], 0), rtol=1e-5, atol=1e-7)
    found = api.localize(model, files[0], keep_activations=True)
    np.testing.assert_allclose(found.activations[name].classes, own.classes, rtol=1e-5, atol=1e-7)
    again = api.load(tmp_path / "run")
    np.testing.assert_array_equal(again.activations(features[name]).classes, own.classes)
    with pytest.raises(ValueError, match="an average of several networks; export one of its runs"):
        export_onnx(model, tmp_path / "m.onnx")


def test_what_was_stopped_goes_on(run, files, tmp_path, monkeypatch):
    out, real = tmp_path / "run", training.train_once

    def stops(*given, **named):
        if given[2].name == "seed-7":
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(training, "train_once", stops)
    with pytest.raises(KeyboardInterrupt):
        train(files, out)
    monkeypatch.undo()
    with pytest.raises(RunExists, match="already holds a run"):
        train(files, out)
    train(files, out, resume=True)
    assert json.loads((out / "restarts.json").read_text()) == json.loads((run / "restarts.json").read_text())
    with pytest.raises(ValueError, match="holds restarts: go on with them"):
        train(files, out, restarts=1, resume=True)
    train(files, out, restarts=1, overwrite=True)
    assert not (out / "restarts.json").exists() and api.load(out).config.train.seed == 5


def test_bad_arguments_and_records(run, files, tmp_path, capsys, monkeypatch):
    for says, changed in {
        "restarts must be at least 1, got 0": {"restarts": 0},
        "criterion must be one of separation, contrast": {"criterion": "loss"},
        "two runs agree alike": {"restarts": 2, "criterion": "agreement"},
        "average is of several restarts": {"restarts": 1, "average": True},
    }.items():
        with pytest.raises(ValueError, match=says):
            train(files, tmp_path / "run", **changed)
    for text in ('{"seeds": [1]}', "[]", '{"seeds": ["../x"], "chosen": "../x", "average": false, "criterion": "", '
                 '"values": {}}'):  # fmt: skip
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "restarts.json").write_text(text)
        with pytest.raises(DataError, match=r"restarts\.json"):
            api.load(tmp_path / "bad")
    command = ["d2net", "train", "--features", files[0], "--annotations", files[1], "--out", tmp_path / "cli"]
    options = "--restarts 2 --set train.subsets=[train] --set iterations=2 --criterion total_variation".split()
    monkeypatch.setattr(sys, "argv", [*map(str, command), *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "no segments were looked at" in out and "total_variation" in out


def test_a_run_that_is_no_restart_stays(files, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"nothing to resume: .* seeds 5 to 7"):
        train(files, out, resume=True)
    assert not out.exists()
    train(files, out, restarts=1)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(files, out, resume=True)
    with FolderLock(out), pytest.raises(FolderInUse):
        train(files, out, overwrite=True)
    with pytest.raises(ValueError, match=r"pass 2\*\*63 - 1; lower train.seed"):
        train(files, out, overwrite=True, settings={"train.seed": 2**63 - 2})
    assert all((out / name).read_bytes() == data for name, data in before.items())


def test_what_fails_before_a_step_leaves_nothing(files, tmp_path):
    for changed in ({"loss.min_snippets": 100_000}, {"model.streams": 3}):
        with pytest.raises(ValueError, match=r"nothing could be trained|cannot be split"):
            train(files, tmp_path / "new" / "run", settings=changed)
        assert not (tmp_path / "new").exists()


def test_an_average_is_said_to_be_its_folder(files, tmp_path, capsys, monkeypatch):
    command = ["d2net", "train", "--features", files[0], "--annotations", files[1], "--out", tmp_path, "--quiet"]
    options = "--restarts 2 --set train.subsets=[train] --set iterations=2 --average".split()
    monkeypatch.setattr(sys, "argv", [*map(str, command), *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert f"checkpoint: {tmp_path}\n" in capsys.readouterr().out
