"""A training step as CUDA graphs against the same steps as they come, bit for bit."""

from __future__ import annotations

import pytest
import torch
from steps import CLASSES, batches, prepared

from d2net.training.graph import changed_by_steps, cuda_steps, why_not
from d2net.training.step import train_step

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("recipe", "precision"), [("release", "fp32"), ("paper", "fp32"), ("release", "bf16")])
def test_replays_give_the_bits_of_steps_as_they_come(recipe, precision):
    settings = {"train.precision": precision, "device": "cuda", "width": 128}
    state, config = prepared(recipe, **settings)
    eager, _ = prepared(recipe, **settings)
    if reason := why_not(config, torch.device("cuda"), 1, CLASSES):
        pytest.fail(f"steps are not captured: {reason}")
    steps = cuda_steps(state, config)
    random = torch.cuda.get_rng_state()
    for i, batch in enumerate(batches(16, config, width=128)):
        batch = batch.to(torch.device("cuda"))
        torch.cuda.set_rng_state(random)
        train_step(eager, batch, config)
        after = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(random)
        steps(batch)
        random = torch.cuda.get_rng_state()
        assert torch.equal(random, after), f"random numbers of step {i}"
        assert torch.equal(state.generator.get_state(), eager.generator.get_state())
        assert all(torch.equal(a, b) for a, b in zip(changed_by_steps(state), changed_by_steps(eager), strict=True)), i
    assert any(steps._graphs.values()) and not steps.given_up
