"""A whole training step of the release recipe: network, every loss, gradients and Adam, ragged against padded."""

from __future__ import annotations

import copy

import minimal
import pytest
import torch
import workloads as shapes
from contenders import reference
from harness import Side
from peers import compiled
from peers import step as by
from trainer import compute_losses, new_state, random_permutations, train_step

from d2kernels import backends
from d2net.config import make_config
from d2net.data.batch import Batch

ITERATION = 2000  # even and after the start of L_D: every loss takes part
SEED = 1
# The work of 0.2. Of 15 million elements rounding puts some on the other side of 0, which must not decide the check.
SLOPE = 0.99
TAPS = {"model.classifier_kernel_size": 3, "model.classifier_dilation": 1}  # what peers have, and every revision


def spread(network: torch.nn.Module) -> None:
    """Attention on both sides of 0.5 in every video, as in training; freshly initialised it is 0.5 everywhere."""
    with torch.no_grad():
        network.classifier.weight.mul_(4)
        network.classifier.bias.fill_(-3)


@pytest.mark.parametrize(("precision", "way"), [("fp32", ""), ("fp32", "winograd"), ("bf16", "")])
@pytest.mark.parametrize("work", [shapes.THUMOS, shapes.FULL, shapes.HAPT], ids=lambda w: w.name)
def test_step(contest, device, full, work, precision, way, monkeypatch):
    if way and device.type != "cpu":
        pytest.skip("on a CPU only")
    monkeypatch.setenv("D2K_FLOAT32", way)
    if work is shapes.HAPT and (precision, way) != ("fp32", ""):
        pytest.skip("small: float32 alone")
    if device.type == "cpu" and not full and (work is shapes.FULL or precision != "fp32"):
        pytest.skip("takes a minute on a CPU; --full runs it")
    settings = {"model.dropout": 0.0, "model.negative_slope": SLOPE, "train.precision": precision}
    settings |= TAPS if work is shapes.HAPT else {}
    config = make_config("hapt" if work is shapes.HAPT else "thumos14", "release", settings)
    n, classes = len(work.lengths), work.classes
    labels = torch.eye(classes, dtype=torch.bool, device=device)[torch.arange(n) % classes]
    # Rows for and against one direction, so that rounding does not decide who is foreground.
    direction = shapes.normal(work.width, seed=2, dtype=torch.float32, device=device)
    side = shapes.normal(work.total, 1, seed=3, dtype=torch.float32, device=device).sign()
    values = shapes.normal(work.total, work.width, seed=0, dtype=torch.float32, device=device) + side * direction
    lengths = torch.tensor(work.lengths, device=device)
    batch = Batch(values, work.offsets(device), lengths, labels)

    def fresh():
        state = new_state(config, work.width, work.groups, classes, device)
        spread(state.network)
        state.network.reference.copy_(direction.unflatten(0, (work.groups, -1)).mean(0))
        state.generator.manual_seed(SEED)
        return state

    def gradients(network):
        return [p.grad for p in network.parameters()]

    everyone = torch.ones(n, dtype=torch.bool, device=device)
    fixed = random_permutations(everyone, everyone, torch.Generator(device).manual_seed(SEED))
    autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": precision == "bf16"}

    def step_of(state):
        state.iteration = ITERATION - 1
        train_step(state, batch, config)
        return gradients(state.network)

    def exact():
        network = copy.deepcopy(fresh().network).double()
        out = network(work.ragged(values.double()))
        losses = compute_losses(
            out.activations, out.embeddings, labels, network.reference, config.loss,
            iteration=ITERATION, permutations=fixed,
        )  # fmt: skip
        losses.total.backward()
        return gradients(network)

    mask, dense = work.mask(device), work.padded(values)

    def padded_network():
        state = fresh()
        taps = config.model.classifier_kernel_size
        network = by.PaddedNet(work.width, classes, 0.0, work.kernel, SLOPE, taps).to(device)
        weights = state.network.state_dict()
        start = weights.pop("reference")
        network.load_state_dict(weights)
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=config.train.learning_rate,
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        return network, optimizer, start

    def research_style():
        network, optimizer, start = padded_network()

        def run():
            with torch.autocast(**autocast):
                t, x = network(dense, mask)
            total, _ = by.losses(
                t.float(), x.float(), list(work.lengths), labels, start, fixed,
                denoising=config.loss.ds_weight, divisor=config.loss.pool_divisor,
            )  # fmt: skip
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return gradients(network)

        return run

    network, optimizer, start = padded_network()

    def with_our_losses(name, forward):
        def run():
            with torch.autocast(**autocast), backends.use("reference"):
                t, x = (work.ragged(part.float()[mask]) for part in forward(dense, mask))
                losses = compute_losses(t, x, labels, start, config.loss, iteration=ITERATION, permutations=fixed)
                optimizer.zero_grad()
                losses.total.backward()
                optimizer.step()
            return gradients(network)

        return Side(name, run)

    state, checked = fresh(), fresh()
    wide = (2 * minimal.temporal_conv(work, 4 if precision == "fp32" else 2, True)[i] for i in (0, 1))
    contest(
        op="step",
        work=f"{work.name}, {way}" if way else work.name,
        direction="forward+backward",
        dtype="float32" if precision == "fp32" else "bfloat16",
        ours=Side("+".join(sorted(_backends(device))), lambda: step_of(state)),
        peers=[
            Side("research style: padded, loops over videos", research_style()),
            compiled.peer(device, network, with_our_losses, "torch.compile, padded; our losses"),
        ],
        oracle=reference(None, exact),
        reference=reference(None, lambda: step_of(checked)),
        cost=tuple(wide),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("work", [shapes.THUMOS, shapes.FULL], ids=lambda w: w.name)
def test_graphed_step(contest, device, work, precision):
    """The trainer's own graphs against its steps as they come; tests/gpu/test_step_graph.py compares their bits."""
    if device.type != "cuda":
        pytest.skip("graphs need a GPU")
    from d2net.data.rounding import rounded
    from d2net.training.graph import cuda_steps

    config = make_config("thumos14", "release", {"train.precision": precision})
    n, gap = len(work.lengths), config.model.gap
    lengths = torch.tensor(work.lengths, device=device)
    offsets = torch.cat([lengths.new_zeros(1), (lengths + gap).cumsum(0)]) + gap
    values = shapes.normal(rounded(int(offsets[-1])), work.width, seed=0, dtype=torch.float32, device=device)
    batch = Batch(values, offsets, lengths, torch.eye(work.classes, dtype=torch.bool, device=device)[:n], gap)
    batch = batch._replace(features=batch.ragged().zero_gaps().values)
    ours, eager = (new_state(config, work.width, work.groups, work.classes, device) for _ in range(2))
    steps = cuda_steps(ours, config)

    def run(state, step):
        def once():
            state.iteration = ITERATION - 1
            step(batch)

        return once

    sides = run(ours, steps), run(eager, lambda batch: train_step(eager, batch, config))
    for _ in range(3):
        sides[0]()
    contest(
        op="graphed step",
        work=work.name,
        direction="forward+backward",
        dtype="float32" if precision == "fp32" else "bfloat16",
        ours=Side("graph", sides[0], checked=False, graph=False),
        peers=[Side("as it comes", sides[1], checked=False, graph=False)],
        oracle=None,
    )


def _backends(device: torch.device) -> set[str]:
    ops = {"temporal_conv", "topk_pool", "head", "losses", "step_record"}.intersection(backends.OPS)
    return {backends.select(op, device.type, torch.float32).__name__.rpartition(".")[2] for op in ops}
