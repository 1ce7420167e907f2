"""A device's log is read one line later: same lines, same order, none lost; a fake stream stands in for the device."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from capturing import Captured
from steps import CLASSES, prepared
from steps import batches as made

from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.features.arrays import ArrayFeatures
from d2net.data.files import DataError
from d2net.training import health, logs, loop, windows
from d2net.training.checkpoint import read_checkpoint
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.later import Later
from d2net.training.loop import Run

SETTINGS = {
    "train.iterations": 27, "train.batch_size": 4, "train.learning_rate": 1e-2, "train.log_every": 4,
    "train.checkpoint_every": 100, "loss.denoising_start": 1, "model.init_std": 0.3,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::d2net.training.health.TrainingWarning")


class Stream:
    """Copies are as of when they were asked for, and on the host only after somebody has waited for them."""

    def __init__(self, monkeypatch):
        self.events: list[tuple[str, int]] = []
        self.iteration = 0
        stream = self

        class Delayed(Later):
            def __init__(self, tensors):
                super().__init__(tensors)
                self.asked = stream.iteration
                self.hidden = {name: x.clone() for name, x in self._copies.items()}
                for x in self._copies.values():
                    x.fill_(float("nan") if x.is_floating_point() else 1)

            def read(self):
                stream.events.append(("read", self.asked))
                for name, x in self.hidden.items():
                    self._copies[name].copy_(x)
                return super().read()

        step = loop.train_step

        def counted(state, *args):
            step(state, *args)
            stream.iteration = state.iteration
            stream.events.append(("step", state.iteration))

        monkeypatch.setattr(health, "Later", Delayed)
        monkeypatch.setattr(windows, "Later", Delayed)
        monkeypatch.setattr(loop, "train_step", counted)
        monkeypatch.setattr(loop, "deferred", lambda device: True)


def trained(out, resume=False, score=None, **overrides):
    rng = np.random.default_rng(1)
    lengths = (20, 31, 9, 14, 25)
    store = ArrayFeatures({f"v{i}": rng.standard_normal((s, 8)).astype(np.float32) for i, s in enumerate(lengths)})
    config = make_config(overrides=SETTINGS | overrides)
    meta = {"classes": ["a", "b", "c"], "width": 8, "streams": 2, "timing": None}
    batches = TrainingBatches(store, list(store), np.eye(3)[np.arange(5) % 3], config.train, config.model.gap)
    run = Run(config, batches, out, meta, torch.device("cpu"), 2, score, progress=False)
    run.finish(run.start(resume))


def lines(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "snippets_per_second"} for row in rows]


@pytest.mark.parametrize("more", [{}, {"train.selection": "cls_mAP", "train.evaluate_every": 6}], ids=["", "selection"])
def test_the_same_lines_in_the_same_order(tmp_path, monkeypatch, more):
    score = (lambda network: network.conv1.weight[0, 0, 0].item()) if more else None
    trained(tmp_path / "at once", score=score, **more)
    Stream(monkeypatch)
    trained(tmp_path / "later", score=score, **more)
    assert lines(tmp_path / "later") == lines(tmp_path / "at once")
    a, b = (read_checkpoint(tmp_path / name) for name in ("at once", "later"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert torch.equal(a["collapse"]["p"], b["collapse"]["p"]) and a["collapse"]["p"].any()


def test_nothing_is_read_before_the_next_line(tmp_path, monkeypatch):
    stream = Stream(monkeypatch)
    trained(tmp_path / "run")
    at = {}
    for i, (what, iteration) in enumerate(stream.events):
        if what == "read":
            at.setdefault(iteration, stream.events[:i].count)
            done = max(n for kind, n in stream.events[:i] if kind == "step")
            assert done == min(iteration + 4, 27), "read at the next line, or at the end"
    assert sorted(at) == [4, 8, 12, 16, 20, 24, 27]


def test_before_a_checkpoint_its_lines_are_told(tmp_path, monkeypatch):
    trained(tmp_path / "whole", **{"train.checkpoint_every": 9})
    Stream(monkeypatch)
    save = Run.save

    def killed(self, state, *args):
        save(self, state, *args)
        if state.iteration == 18:
            self.windows.due = None  # what is still due is lost, as a kill would lose it
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "run", **{"train.checkpoint_every": 9})
    assert [row["iteration"] for row in lines(tmp_path / "run")] == [4, 8, 12, 16]
    trained(tmp_path / "run", resume=True, **{"train.checkpoint_every": 9})
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_an_error_loses_no_line(tmp_path, monkeypatch):
    Stream(monkeypatch)
    step = loop.train_step

    def failing(state, *args):
        if state.iteration == 10:
            raise RuntimeError("broken")
        step(state, *args)

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(RuntimeError, match="broken"):
        trained(tmp_path / "run")
    assert [row["iteration"] for row in lines(tmp_path / "run")] == [4, 8]


def test_a_run_that_a_due_line_ends_leaves_no_checkpoint_to_whatever_else_ends_it(tmp_path, monkeypatch):
    Stream(monkeypatch)
    step = loop.train_step

    def failing(state, *args):
        if state.iteration == 6:
            raise DataError("v3 cannot be read")
        step(state, *args)

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(TrainingError, match="nothing was learned"):
        trained(tmp_path / "run", **{"train.learning_rate": 1e-12})
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_what_no_line_could_be_written_of_is_in_the_checkpoint(tmp_path, monkeypatch):
    trained(tmp_path / "whole")
    write = logs.Log.write

    def full(self, entry):
        if entry.get("iteration") == 12:
            raise OSError(28, "No space left on device")
        write(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(logs.Log, "write", full)
        with pytest.raises(OSError, match="No space left"):
            trained(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")["iteration"] == 12
    trained(tmp_path / "run", resume=True)
    told, whole = ({row["iteration"]: row for row in lines(tmp_path / name)} for name in ("run", "whole"))
    assert told.keys() == whole.keys() - {12}
    assert told[16]["total"] == pytest.approx((whole[12]["total"] + whole[16]["total"]) / 2)


def test_weights_that_are_not_finite_end_the_run_one_line_later(tmp_path, monkeypatch):
    stream = Stream(monkeypatch)
    step = loop.train_step

    def poisoned(state, *args):
        step(state, *args)
        if state.iteration == 6:
            state.network.conv1.weight.data[0] = float("inf")

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(TrainingError, match="not finite at iteration 8"), warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        trained(tmp_path / "run")
    assert stream.iteration == 12
    assert [row["iteration"] for row in lines(tmp_path / "run")] == [4, 8]


def test_what_is_overwritten_is_read_as_it_was():
    x = torch.arange(3.0)
    later = Later({"x": x})
    x.zero_()
    assert later.read()["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("learned", [False, True])
def test_looking_waits_for_nothing(monkeypatch, learned):
    monkeypatch.setattr("d2kernels.ragged._values_can_be_checked", lambda *tensors: False)  # as on a device
    state, config = prepared(**{"train.iterations": 4})
    seen = health.Health(config, state, [str(c) for c in range(CLASSES)])
    batch, *_ = made(1, config)
    for state.iteration in range(4):
        loop.train_step(state, batch, config)
    seen.learned = learned
    with Captured():
        reading = seen.look(state, batch)
    assert {"weights", "T", "foreground"} <= reading.values.read().keys()
