"""The training loop: exact resumption, skipped steps, no host synchronisation, safe folders."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch

import d2kernels as d2k
from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.features import FeatureError
from d2net.data.features.arrays import ArrayFeatures
from d2net.data.files import DataError
from d2net.training import loop
from d2net.training.checkpoint import CheckpointError, read_checkpoint
from d2net.training.folder import RunExists
from d2net.training.loop import Run
from d2net.training.state import log_terms, new_state
from d2net.training.step import learning_rate, train_step

CPU = torch.device("cpu")


def make_run(out, lengths=(20, 31, 9, 14, 25), score=None, labels=None, **overrides):
    rng = np.random.default_rng(1)
    store = ArrayFeatures({f"v{i}": rng.standard_normal((s, 8)).astype(np.float32) for i, s in enumerate(lengths)})
    settings = {
        "train.iterations": 8,
        "train.batch_size": 4,
        "train.learning_rate": 1e-2,
        "train.log_every": 2,
        "train.checkpoint_every": 3,
        "loss.denoising_start": 1,
        "model.init_std": 0.3,
    }
    config = make_config(overrides=settings | overrides)
    if labels is None:
        labels = np.eye(3)[np.arange(len(lengths)) % 3]
    meta = {"classes": ["a", "b", "c"], "width": 8, "streams": 2, "timing": None}
    batches = TrainingBatches(store, list(store), labels, config.train, config.model.gap)
    return Run(config, batches, out, meta, CPU, 2, score, progress=False)


def weights(path):
    return read_checkpoint(path)["model"]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_resuming_continues_bit_for_bit(tmp_path):
    whole = make_run(tmp_path / "whole")
    assert whole.finish(whole.start())
    first = make_run(tmp_path / "parts", **{"train.iterations": 5})
    first.finish(first.start())
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    second = make_run(tmp_path / "parts")
    second.finish(second.start(resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert read_checkpoint(tmp_path / "parts")["iteration"] == 8


def test_a_signal_saves_and_stops(tmp_path, monkeypatch):
    whole = make_run(tmp_path / "whole")
    whole.finish(whole.start())
    run = make_run(tmp_path / "run")
    state = run.start()
    step = train_step

    def step_and_signal(state, *args):
        step(state, *args)
        if state.iteration == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", step_and_signal)
    assert run.finish(state) is False
    assert read_checkpoint(tmp_path / "run")["iteration"] == 4
    monkeypatch.undo()
    again = make_run(tmp_path / "run")
    again.finish(again.start(resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_kernels_are_checked_before_the_first_step(tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(loop.verify, "ready", lambda device: happened.append(device))
    step = train_step
    monkeypatch.setattr(loop, "train_step", lambda *a: (happened.append("step"), step(*a)))
    run = make_run(tmp_path, **{"train.iterations": 2})
    run.finish(run.start())
    assert happened == [CPU, "step", "step"]


def test_seeds_decide_everything(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run = make_run(tmp_path / name, **{"train.seed": seed})
        run.finish(run.start())
    a, b, c = (weights(tmp_path / n) for n in "abc")
    assert same(a, b) and not same(a, c)


def test_a_step_does_not_synchronise(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    state = new_state(run.config, 8, 2, 3, CPU)
    batch = run.batches[0]
    # Native kernels may read what is in the CPU's memory; the reference runs on any device. What it caches is warm.
    with d2k.backends.use("reference"):
        train_step(state, batch, run.config)

    def refuse(self, *args):
        raise AssertionError("the training step read a tensor on the host")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "numpy", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    # Layout checks read offsets that are on the CPU anyway; on a GPU they are skipped.
    monkeypatch.setattr("d2kernels.ragged._values_can_be_checked", lambda *_: False)
    with d2k.backends.use("reference"):
        for _ in range(3):
            train_step(state, batch, run.config)


@pytest.mark.parametrize("case", ["short", "nan"])
def test_zero_or_nan_losses_leave_the_weights_alone(tmp_path, case):
    run = make_run(tmp_path, lengths=(3, 4, 2) if case == "short" else (20, 21, 22))
    state = new_state(run.config, 8, 2, 3, CPU)
    before = {k: v.clone() for k, v in state.network.state_dict().items()}
    batch = run.batches[0]
    if case == "nan":
        batch.features[5] = float("nan")
    train_step(state, batch, run.config)
    assert same(before, state.network.state_dict())
    assert state.sums[log_terms(run.config).index("skipped_steps")] == 1
    train_step(state, make_run(tmp_path).batches[0], run.config)
    assert not same(before, state.network.state_dict())


def test_gradient_clip_bounds_the_step(tmp_path):
    run = make_run(tmp_path, **{"train.gradient_clip": 1e-3})
    state = new_state(run.config, 8, 2, 3, CPU)
    train_step(state, run.batches[0], run.config)
    norm = torch.stack([p.grad.norm() for p in state.network.parameters()]).norm()
    assert norm <= 1.001e-3 < state.sums[log_terms(run.config).index("gradient_norm")]


def test_the_learning_rate_falls_over_the_last_share(tmp_path):
    falling = make_run(tmp_path, **{"train.decay_share": 0.5})
    config, rates = falling.config, [1e-2] * 5 + [0.75e-2, 0.5e-2, 0.25e-2]
    found = [learning_rate(config.train, torch.tensor(i)) for i in range(1, 9)]
    assert learning_rate(config.train, torch.tensor(config.train.iterations + 3)) == 0
    assert all(r.dtype == torch.float32 for r in found)
    np.testing.assert_allclose(found, rates, rtol=1e-6)
    assert learning_rate(make_run(tmp_path).config.train, torch.tensor(8)) is None
    state, by_hand = (new_state(c, 8, 2, 3, CPU) for c in (config, make_run(tmp_path).config))
    for i, rate in enumerate(found):
        by_hand.optimizer.param_groups[0]["lr"] = float(rate)
        for one, settings in ((state, config), (by_hand, make_run(tmp_path).config)):
            torch.manual_seed(i)
            train_step(one, falling.batches[i], settings)
    assert same(state.network.state_dict(), by_hand.network.state_dict())


def test_a_run_whose_rate_falls_goes_on_to_the_same_end(tmp_path, monkeypatch):
    settings = {"train.decay_share": 0.5}
    whole = make_run(tmp_path / "whole", **settings)
    whole.finish(whole.start())
    cut = make_run(tmp_path / "cut", **settings)
    state, step = cut.start(), loop.train_step

    def interrupted(state, *given):
        if state.iteration == 7:
            raise RuntimeError("cut off")
        step(state, *given)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(RuntimeError, match="cut off"):
        cut.finish(state)
    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(CheckpointError, match=r"train\.iterations is 9 but the checkpoint was trained with 8"):
        make_run(tmp_path / "cut", **settings, **{"train.iterations": 9}).start(resume=True)
    again = make_run(tmp_path / "cut", **settings)
    again.finish(again.start(resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_folders_that_hold_a_run_are_refused(tmp_path):
    run = make_run(tmp_path)
    run.finish(run.start())
    with pytest.raises(RunExists, match=r"checkpoint\.pt.*--resume.*--overwrite"):
        make_run(tmp_path).start()
    make_run(tmp_path).start(overwrite=True)
    assert read_checkpoint(tmp_path)["iteration"] == 0 and not (tmp_path / "log.jsonl").exists()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        make_run(tmp_path / "empty").start(resume=True)


class Broken(ArrayFeatures):
    """A video that cannot be read the first `failures` times that it is asked for, after `good` times."""

    good, failures = 0, 1

    def __getitem__(self, name):
        if name == "v3" and self.good:
            self.good -= 1
        elif name == "v3" and self.failures:
            self.failures -= 1
            raise FeatureError("features: 'v3' holds NaN or infinity in row 0; extract it again")
        return super().__getitem__(name)


def test_a_damaged_video_is_found_before_an_earlier_run_is_replaced(tmp_path):
    run = make_run(tmp_path)
    run.finish(run.start())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    again = make_run(tmp_path)
    again.batches.features.store = Broken(again.batches.features.store.arrays)
    with pytest.raises(FeatureError, match="'v3' holds NaN"):
        again.start(overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_trained_before_a_damaged_video_is_kept(tmp_path, workers):
    settings = {"train.cache_gigabytes": 0.0, "train.workers": workers, "train.batch_size": 1}
    whole = make_run(tmp_path / "whole", **settings)
    whole.finish(whole.start())
    run = make_run(tmp_path / "run", **settings)
    run.batches.features.store = Broken(run.batches.features.store.arrays)
    run.batches.features.store.good = 1  # what is read before training
    with pytest.raises(FeatureError, match=r"^features: 'v3' holds NaN or infinity in row 0; extract it again$"):
        run.finish(run.start())
    assert 0 < read_checkpoint(tmp_path / "run")["iteration"] < 8
    again = make_run(tmp_path / "run", **settings)
    again.finish(again.start(resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_killed_run_resumes_and_its_log_repeats_nothing(tmp_path):
    whole = make_run(tmp_path / "whole")
    whole.finish(whole.start())
    run = make_run(tmp_path / "run", **{"train.iterations": 5})
    run.finish(run.start())
    with open(tmp_path / "run" / "log.jsonl", "a") as log:
        log.write(json.dumps({"iteration": 6}) + '\n{"iteration": 8, "to')
    (tmp_path / "run" / "checkpoint.pt.tmp").write_bytes(b"half")
    again = make_run(tmp_path / "run")
    again.finish(again.start(resume=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in rows] == [2, 4, 6, 8]


def test_a_run_killed_before_its_first_checkpoint_can_only_be_replaced(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(RunExists, match="pass --overwrite: it has no checkpoint"):
        make_run(tmp_path).start()
    with pytest.raises(CheckpointError, match=r"nothing to resume.*pass --overwrite"):
        make_run(tmp_path).start(resume=True)
    make_run(tmp_path).start(overwrite=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write to the folder .*file.*choose another place"):
        make_run(tmp_path / "file" / "run").start()


def test_resuming_another_run_is_refused(tmp_path):
    run = make_run(tmp_path)
    run.finish(run.start())
    with pytest.raises(CheckpointError, match=r"loss\.gamma is 0\.5.*0\.01"):
        make_run(tmp_path, **{"loss.gamma": 0.5}).start(resume=True)
    with pytest.raises(CheckpointError, match="training videos"):
        make_run(tmp_path, labels=np.ones((5, 3))).start(resume=True)


def test_log_and_selection(tmp_path):
    scores = iter([0.2, 0.7, 0.4, 0.1])
    run = make_run(
        tmp_path, score=lambda network: next(scores), **{"train.selection": "cls_mAP", "train.evaluate_every": 2}
    )
    run.finish(run.start())
    lines = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    entries = [x for x in lines if "total" in x]
    assert [x["iteration"] for x in entries] == [2, 4, 6, 8]
    assert all(np.isfinite(list(x.values())).all() and x["snippets_per_second"] > 0 for x in entries)
    assert entries[-1]["ds"] != 0
    assert read_checkpoint(tmp_path / "best.pt")["iteration"] == 4


def test_streams_must_divide_the_width():
    with pytest.raises(ValueError, match="8 features cannot be split into 3"):
        new_state(make_config(), 8, 3, 3, CPU)
