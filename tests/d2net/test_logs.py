"""Trackers: told what log.jsonl is, once each, over stops and resumptions; what fails there costs nothing else."""

from __future__ import annotations

import json
import sys
import types
from typing import ClassVar

import pytest
import torch

from d2net import api
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.demo import demo_config
from d2net.training import logs
from d2net.training.errors import TrainingWarning


class Stopped(BaseException):
    """As if the process were killed."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    features, annotations = write_synthetic(tmp_path_factory.mktemp("logs"), make_synthetic(seed=0))
    return open_features(features), load_annotations(annotations), features, annotations


@pytest.fixture
def fake(monkeypatch):
    """A tracker that keeps what it is told: told[identity] = [(iteration, values)]."""

    class Fake:
        told: ClassVar[dict] = {}
        opened: ClassVar[list] = []
        closed = 0
        at: ClassVar[dict] = {}  # {iteration: what to raise there}

        def __init__(self, out, identity, config):
            Fake.opened.append(identity)
            self.identity = identity or f"run{len(Fake.opened)}"
            assert config["train.iterations"] == 40

        def log(self, iteration, values):
            if (error := Fake.at.pop(iteration, None)) is not None:
                raise error
            Fake.told.setdefault(self.identity, []).append((iteration, dict(values)))

        def close(self):
            Fake.closed += 1

    monkeypatch.setitem(logs.TRACKERS, "fake", (lambda: None, Fake))
    return Fake


def train(data, out, **given):
    config = demo_config(40)
    config.train.log_every, config.train.checkpoint_every, config.train.batch_size = 5, 10, 2
    return api.train(*data[:2], out, config, device="cpu", progress=False, **given)


def written(out):
    """[(iteration, numbers)] of log.jsonl."""
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
    return [(x.pop("iteration"), {k: v for k, v in x.items() if type(v) is float}) for x in lines]


def without_speed(entries):
    return [(i, {k: v for k, v in values.items() if k != "snippets_per_second"}) for i, values in entries]


def test_a_tracker_is_told_what_the_log_says(data, fake, tmp_path):
    train(data, tmp_path, trackers=["fake"])
    assert fake.opened == [None] and fake.closed == 1
    assert fake.told["run1"] == written(tmp_path) and len(fake.told["run1"]) == 8


def test_a_killed_and_resumed_run_has_no_step_twice_and_misses_none(data, fake, tmp_path):
    fake.at = {25: Stopped()}
    with pytest.raises(Stopped):
        train(data, tmp_path, trackers=["fake"])
    assert [i for i, _ in fake.told["run1"]] == [5, 10, 15, 20]
    train(data, tmp_path, trackers=["fake"], resume=True)
    assert fake.opened == [None, "run1"]
    # What a kill strikes is lost there rather than told twice: the checkpoint was of iteration 20.
    assert [i for i, _ in fake.told["run1"]] == [5, 10, 15, 20, 30, 35, 40]
    assert [i for i, _ in written(tmp_path)] == [5, 10, 15, 20, 25, 30, 35, 40]
    whole = tmp_path / "whole"
    train(data, whole)
    assert without_speed(written(whole)) == without_speed(written(tmp_path))


def test_a_tracker_that_is_added_later_gets_all(data, fake, tmp_path):
    fake.at = {25: Stopped()}
    with pytest.raises(Stopped):
        train(data, tmp_path, trackers=["fake"])
    state = json.loads((tmp_path / "trackers.json").read_text())
    (tmp_path / "trackers.json").write_text(json.dumps({"other": state["fake"]}))
    train(data, tmp_path, trackers=["fake"], resume=True)
    assert fake.told["run2"] == written(tmp_path)
    kept = json.loads((tmp_path / "trackers.json").read_text())
    assert kept["other"] == state["fake"] and kept["fake"]["iteration"] == 40


def test_what_a_tracker_raises_costs_its_curves_alone(data, fake, tmp_path):
    fake.at = {15: ConnectionError("no route\nto host")}
    with pytest.warns(TrainingWarning, match="fake is told no more: no route to host; training and log"):
        train(data, tmp_path, trackers=["fake"])
    assert [i for i, _ in fake.told["run1"]] == [5, 10] and len(written(tmp_path)) == 8
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 40


def test_a_tracker_that_cannot_start_costs_no_earlier_run(data, fake, tmp_path, monkeypatch):
    train(data, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def refuse(*_):
        raise RuntimeError("log in first")

    monkeypatch.setitem(logs.TRACKERS, "refuses", (lambda: None, refuse))
    with pytest.raises(DataError, match=r"--log refuses cannot start: log in first; mend it, or leave it out"):
        train(data, tmp_path, trackers=["fake", "refuses"], overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before and fake.closed == 1
    with pytest.raises(DataError):
        train(data, tmp_path / "new", trackers=["refuses"])
    assert not (tmp_path / "new").exists()


def test_an_overwritten_run_is_another_one_there(data, fake, tmp_path):
    train(data, tmp_path, trackers=["fake"])
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.1").write_bytes(b"of the run before")
    train(data, tmp_path, trackers=["fake"], overwrite=True)
    assert fake.opened == [None, None] and fake.told["run1"][-1][0] == fake.told["run2"][-1][0] == 40
    assert not (tmp_path / "tensorboard").exists()


def test_restarts_are_runs_of_their_own(data, fake, tmp_path):
    train(data, tmp_path, trackers=["fake"], restarts=2, average=True)
    for seed, name in enumerate(("run1", "run2")):
        assert fake.told[name] == written(tmp_path / f"seed-{seed}")


def test_a_damaged_record_of_trackers_is_one_line(data, fake, tmp_path):
    fake.at = {25: Stopped()}
    with pytest.raises(Stopped):
        train(data, tmp_path, trackers=["fake"])
    for text in ("[1]", '{"fake": {}}', "{", '{"fake": {"identity": 3, "iteration": 1, "terms": ["total"]}}'):
        (tmp_path / "trackers.json").write_text(text)
        with pytest.raises(DataError, match=r"trackers\.json"):
            train(data, tmp_path, trackers=["fake"], resume=True)


def test_a_log_that_cannot_be_written_leaves_a_checkpoint(data, tmp_path, monkeypatch):
    write = logs.Log.write

    def full(self, entry):
        if entry["iteration"] == 25:
            raise OSError(28, "No space left on device")
        write(self, entry)

    monkeypatch.setattr(logs.Log, "write", full)
    with pytest.raises(OSError, match="No space left"):
        train(data, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 25


def test_unknown_and_absent_trackers_are_one_line_before_anything(data, command, tmp_path, monkeypatch):
    for name in ("trackio", "wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    given = ["train", "--features", data[2], "--annotations", data[3], "--out", tmp_path / "run", "--set",
             "train.subsets=train"]  # fmt: skip
    for names, said in (
        (["tensorboard"], "tensorboard is not installed; pip install 'd2kernels[train]'"),
        (["wandb"], "wandb is not installed; pip install wandb"),
        (["trackio"], "trackio is not installed; pip install trackio"),
        (["mlflow"], "--log mlflow: it takes tensorboard, trackio, wandb"),
    ):
        status, _, err = command(*given, *(x for n in names for x in ("--log", n)))
        assert status == 2 and said in err and err.count("\n") == 1, err
    with pytest.raises(ValueError, match="given twice"):
        logs.check_trackers(["other", "other"] if "other" in logs.TRACKERS else _twice(monkeypatch))
    assert not (tmp_path / "run").exists()


def _twice(monkeypatch):
    monkeypatch.setitem(logs.TRACKERS, "other", (lambda: None, None))
    return ["other", "other"]


class Service(types.ModuleType):
    """trackio or wandb, as far as they are called."""

    def __init__(self, name):
        super().__init__(name)
        self.calls, self.steps, self.finished = [], [], 0
        self.Settings = lambda **given: given

    def init(self, **given):
        self.calls.append(given)
        return self

    def log(self, values, step):
        self.steps.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize(
    ("name", "key", "variable"), [("trackio", "name", "TRACKIO_PROJECT"), ("wandb", "id", "WANDB_PROJECT")]
)
def test_services_go_on_with_their_run(data, tmp_path, monkeypatch, name, key, variable):
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.setenv(variable, "mine")
    begun = logs.Log(tmp_path, [name], {"train.seed": 3}, resume=False)
    begun.begin()
    for i in (5, 10):
        begun.write({"iteration": i, "total": float(i), "collapsed": ["a"]})
    begun.write({"iteration": 10, "loc_mAP": 0.5})
    begun.close()
    again = logs.Log(tmp_path, [name], {"train.seed": 3}, resume=True)
    again.begin()
    for entry in ({"iteration": 10, "loc_mAP": 0.5}, {"iteration": 15, "total": float("nan"), "ds": 1.0}):
        again.write(entry)
    again.close()
    first, second = service.calls
    assert first["resume"] == "allow" and first["project"] == "mine" and first["config"] == {"train.seed": 3}
    assert second[key] == first[key] and service.finished == 2
    assert service.steps == [(5, {"total": 5.0}), (10, {"total": 10.0}), (10, {"loc_mAP": 0.5}), (15, {"ds": 1.0})]


def test_tensorboard_has_each_step_once(data, fake, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'd2kernels[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fake.at = {25: Stopped()}
    with pytest.raises(Stopped):
        train(data, tmp_path, trackers=["tensorboard", "fake"])
    train(data, tmp_path, trackers=["tensorboard"], resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=False).Reload()
    log = written(tmp_path)
    for term in ("total", "gradient_norm", "skipped_steps"):
        shown = [(e.step, e.value) for e in events.Scalars(f"train/{term}")]
        assert shown == [(i, pytest.approx(values[term], rel=1e-6)) for i, values in log]
    assert b"train.learning_rate: 0.001" in events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]
