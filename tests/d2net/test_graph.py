"""Steps as graphs, without a GPU: a capture keeps what every iteration has, and replays give eager's bits."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from capturing import CpuRecorder, OnOneDevice, Traced
from steps import CLASSES, batches, prepared

import d2kernels as d2k
from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
from d2net.data.features.arrays import ArrayFeatures
from d2net.data.rounding import rounded
from d2net.methods.d2net.network import D2Net
from d2net.training import graph
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.graph import GraphedSteps, changed_by_steps, why_not
from d2net.training.loop import Run
from d2net.training.state import ROOM, State
from d2net.training.step import train_step

native_only = pytest.mark.skipif(not d2k.backends.can_run("head", "native"), reason="no compiled extension")
CPU = torch.device("cpu")


def test_few_numbers_of_rows_occur_and_little_is_added():
    sizes = {rounded(n) for n in range(1, 8001)}
    assert all(rounded(n) >= n and rounded(rounded(n)) == rounded(n) for n in range(1, 8001))
    assert len(sizes) < 70 and max((rounded(n) - n) / n for n in range(1024, 8001)) < 1 / 16


@native_only
@pytest.mark.parametrize(("clip", "decay"), [(None, 0.0), (0.1, 1.0)])
@pytest.mark.parametrize("iterations", [(2, 5), (4, 6)], ids=["without L_D", "with L_D"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_what_is_captured_is_the_same_in_every_iteration(recipe, iterations, clip, decay, monkeypatch):
    """No value read back, no constant of the host, and no number that another iteration would have otherwise."""
    state, config = prepared(recipe, **{"train.gradient_clip": clip, "train.decay_share": decay})
    # The layout's check reads the host's copy, which a batch on a device has none of.
    monkeypatch.setattr(d2k.ragged, "_values_can_be_checked", lambda *tensors: False)
    (batch,) = batches(1, config)
    train_step(state, batch, config)  # the optimiser makes its moments
    found = []
    for at in iterations:
        state.iteration = at - 1
        state.tick()
        with Traced() as traced:
            graph.compute_step(state, batch, config)
        found.append(traced.trace)
    assert len(found[0]) > 30 and found[0] == found[1]


@native_only
def test_a_number_of_the_host_is_found(monkeypatch):
    """L1's schedule stays there, and it is not captured."""
    state, config = prepared(**{"loss.denoising_kind": "L1"})
    (batch,) = batches(1, config)
    monkeypatch.setattr(d2k.ragged, "_values_can_be_checked", lambda *tensors: False)
    found = []
    for at in (4, 6):
        state.iteration = at - 1
        state.tick()
        with Traced() as traced:
            graph.compute_step(state, batch, config)
        found.append(traced.trace)
    assert found[0] != found[1]
    assert "keeps its schedule on the host" in why_not(config, torch.device("cuda"), 1, CLASSES)


@native_only
@pytest.mark.parametrize(
    ("recipe", "precision", "decay"),
    [("release", "fp32", 0.0), ("paper", "fp32", 0.0), ("release", "bf16", 0.0), ("release", "fp32", 1.0)],
)
def test_replays_give_the_bits_of_steps_as_they_come(recipe, precision, decay):
    count = 14
    settings = {"train.precision": precision, "train.decay_share": decay, "train.iterations": 20}
    state, config = prepared(recipe, **settings)
    eager, _ = prepared(recipe, **settings)
    recorder = CpuRecorder(state)
    steps = GraphedSteps(state, config, recorder)
    given = batches(count, config)
    assert len({len(b.features) for b in given}) < count
    random = torch.get_rng_state()
    for i, batch in enumerate(given):
        torch.set_rng_state(random)
        train_step(eager, batch, config)
        after = torch.get_rng_state()
        torch.set_rng_state(random)
        steps(batch)
        random = torch.get_rng_state()
        assert torch.equal(random, after), f"random numbers of step {i}"
        assert torch.equal(state.generator.get_state(), eager.generator.get_state())
        assert all(torch.equal(a, b) for a, b in zip(changed_by_steps(state), changed_by_steps(eager), strict=True)), i
        grads = zip(state.network.parameters(), eager.network.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in grads)
        assert state.iteration == eager.iteration and state.counted == eager.counted
    assert not steps.given_up and len(steps._good) == 2
    assert recorder.replays >= 5 and recorder.warmed + recorder.replays == count


class Wrong(CpuRecorder):
    """Of which the last captured number is another."""

    def capture(self, work):
        replay = super().capture(work)
        return lambda: (replay(), self.state.sums.add_(1))


class Undefined(CpuRecorder):
    """Of which no captured number is 0: it is NaN."""

    def capture(self, work):
        replay = super().capture(work)

        def changed():
            replay()
            assert (self.state.sums == 0).any()
            self.state.sums.masked_fill_(self.state.sums == 0, float("nan"))

        return changed


class Refusing(CpuRecorder):
    def capture(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")


@native_only
@pytest.mark.parametrize("recorder", [Wrong, Undefined, Refusing])
def test_graphs_that_are_not_right_serve_nobody(recorder):
    says = r"cannot be captured \(operation not permitted" if recorder is Refusing else "gives other results"
    state, config = prepared()
    eager, _ = prepared()
    steps = GraphedSteps(state, config, recorder(state))
    given = batches(9, config)
    random = torch.get_rng_state()
    with pytest.warns(TrainingWarning, match=f"{says}.*goes on without graphs") as warned:
        for batch in given:
            steps(batch)
    assert steps.given_up and len([w for w in warned if w.category is TrainingWarning]) == 1
    torch.set_rng_state(random)
    for batch in given:
        train_step(eager, batch, config)
    assert all(torch.equal(a, b) for a, b in zip(changed_by_steps(state), changed_by_steps(eager), strict=True))
    state, config = prepared(**{"train.graph": "on"})
    steps = GraphedSteps(state, config, recorder(state))
    with pytest.raises(TrainingError, match=f"^train.graph is on, but .*{says}.*; set it to off$"):
        for batch in given:
            steps(batch)


@native_only
def test_features_that_lie_where_the_graph_reads_are_not_copied():
    state, config = prepared()
    steps = GraphedSteps(state, config, CpuRecorder(state))
    (batch,) = batches(1, config)
    of = batch.features.shape[1], torch.float32
    room = steps.room(len(batch.features), *of)
    assert steps.room(len(room), *of) is room and steps.room(len(room), of[0], torch.bfloat16) is not room
    for _ in range(6):
        steps(batch._replace(features=room.copy_(batch.features)))
    captured = [found for found in steps._graphs.values() if found]
    assert captured and all(found.batch.features is room for found in captured)
    smaller, larger = (steps.room(len(room) + more, *of) for more in (-64, 64))
    assert smaller.data_ptr() == room.data_ptr() != larger.data_ptr()


@native_only
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_rows_that_are_added_change_nothing(recipe):
    """One step on rounded rows: losses and weights within rounding, since sums over rows end elsewhere."""
    found = []
    for rounds in (True, False):
        state, config = prepared(recipe)
        torch.manual_seed(5)
        state.iteration = 3
        (batch,) = batches(1, config, rounds=rounds)
        train_step(state, batch, config)
        found.append([*(p.grad for p in state.network.parameters()), state.network.reference, state.sums])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_where_steps_are_captured(tmp_path):
    config = make_config("thumos14")
    assert why_not(config, CPU, 1, 20) == "training is on the CPU"
    cuda = torch.device("cuda")
    assert why_not(config, cuda, 4, 20) == "4 processes share each batch"
    assert why_not(make_config("thumos14", overrides={"train.graph": False}), cuda, 1, 20) == "train.graph is off"
    assert "method wtalc" in why_not(make_config(method="wtalc"), cuda, 1, 20)
    wide = make_config("thumos14", overrides={"train.batch_size": 200})
    assert "L_DV of more than 128 videos and classes" in why_not(wide, cuda, 1, 200)


def make_run(out, setting):
    rng = np.random.default_rng(0)
    store = ArrayFeatures({f"v{i}": rng.standard_normal((20, 8)).astype(np.float32) for i in range(4)})
    config = make_config(overrides={"train.graph": setting, "train.batch_size": 2})
    batches = TrainingBatches(store, store.names, np.eye(2)[[0, 1, 0, 1]], config.train, config.model.gap)
    meta = {"classes": ["a", "b"], "width": 8, "streams": 2, "timing": None}
    return Run(config, batches, out, meta, CPU, 2, progress=False)


def test_on_a_cpu_it_is_an_error_in_one_line(tmp_path):
    run = make_run(tmp_path / "run", "on")
    with pytest.raises(ValueError, match=r"^train.graph is on, but training is on the CPU; set it to auto$"):
        run.start()
    assert not (tmp_path / "run").exists()
    auto = make_run(tmp_path / "run", "auto")
    auto.start()
    auto.log.close()
    auto.lock.release()
    assert auto.graphs is None and not auto.batches.rounds


class Unstepped(torch.optim.SGD):
    """In Adam's place where there is no device for a fused one."""

    def update(self, leave, rate):
        pass


@pytest.mark.parametrize("iteration", [5, 6], ids=["without L_D", "with L_D"])
@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_nothing_of_a_step_lies_on_the_host(recipe, iteration, monkeypatch):
    """All tensors on a device without memory: one that is made on the host, or copied, shows by its device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    _, config = prepared(recipe)
    (batch,) = batches(1, config)
    network = D2Net(64, CLASSES, 2, config.model).to("meta")
    state = State(network, Unstepped(network.parameters(), lr=1.0), None, sums=torch.zeros(ROOM, device="meta"))
    state.iteration = iteration - 1
    state.tick()
    batch = batch.to(torch.device("meta"))
    with OnOneDevice("meta") as seen:
        graph.compute_step(state, batch, config)
    assert seen.count > 30
