"""Whether a run learns anything: steps that are skipped, gradients of 0, weights that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import torch

from d2net.config import Config
from d2net.data.dataset import Batch
from d2net.training.state import State

FEW = 1 / 8  # of a window's steps: what is left of a run that went wrong in it
NOTABLE = 1 / 5
SATURATED = 17.0  # of a logit: the sigmoid is 1 in float32, or as far from 0
RUNAWAY = 1e3  # no training that fits its labels goes there


class TrainingError(ValueError):
    """Training that cannot go on; the message says why and what to try."""


class TrainingWarning(UserWarning):
    """Training that goes on although something about it is odd."""


@torch.no_grad()
def _runaway(state: State, batch: Batch, limit: float) -> bool:
    """Whether the logits of nearly all snippets and classes are beyond the limit, or not numbers."""
    network = state.network
    network.eval()
    logits = torch.cat([z.flatten() for z in network(batch.ragged()).logits.unpack()]).to(torch.float32)
    network.train()
    return bool((logits.abs() <= limit).sum() <= FEW * logits.numel()) and logits.numel() > 0


def check_start(state: State, batch: Batch, config: Config) -> None:
    """Raises TrainingError where the fresh network's activations are all saturated, so that no gradient passes."""
    if _runaway(state, batch, SATURATED):
        raise TrainingError(
            "nothing could be trained: before the first step activations are saturated, at exactly 0 or 1 in float32; "
            f"scale the features to about unit size ({_largest(batch)}), or lower model.init_std "
            f"({config.model.init_std:g})"
        )


class Health:
    """Looks at every window of steps, and at the weights before they are saved."""

    def __init__(self, config: Config, learned: bool):
        self.config, self.learned, self.warned = config, learned, False

    def check(self, state: State, sums: Mapping[str, float], steps: int, batch: Batch, kept: str) -> None:
        """Looks at a window of `steps` steps with these sums of the log's terms, ended by `batch`.

        Args:
            kept: what of the run is saved, for the message.

        Raises:
            TrainingError: nothing is being learned, or a weight is not finite.
        """
        skipped = int(sums["skipped_steps"])
        self.learned |= sums["gradient_norm"] > 0
        self.check_weights(state, kept)
        train = self.config.train
        if steps - skipped <= FEW * steps and not _finite(p.grad for p in state.network.parameters()):
            raise TrainingError(
                f"{skipped} of the last {steps} steps were skipped because the loss or its gradient was not finite, up "
                f"to iteration {state.iteration}: lower train.learning_rate ({train.learning_rate:g}) or set "
                f"train.gradient_clip, and see that features are near unit size ({_largest(batch)}); {kept}"
            )
        if _runaway(state, batch, RUNAWAY):
            raise TrainingError(
                f"activations are saturated far beyond what labels ask for, by iteration {state.iteration}: lower "
                f"train.learning_rate ({train.learning_rate:g}) or train.weight_decay ({train.weight_decay:g}); {kept}"
            )
        if not self.learned:
            raise TrainingError(
                f"the gradient was 0 in each of the first {steps} steps, so that nothing was learned: see that "
                f"features are near unit size ({_largest(batch)}), and that model.init_std "
                f"({self.config.model.init_std:g}) is not too large; {kept}"
            )
        if skipped >= NOTABLE * steps:
            self._warn(
                f"{skipped} of the last {steps} steps were skipped, up to iteration {state.iteration}: their loss was "
                "0 or not finite; the log counts them as skipped_steps"
            )
        elif sums["gradient_norm"] == 0:
            self._warn(
                f"the gradient was 0 in each of the last {steps} steps, up to iteration {state.iteration}: the labels "
                "are fitted exactly, or a learning rate that is too large has saturated the activations"
            )

    def _warn(self, text: str) -> None:
        if not self.warned:
            self.warned = True
            warnings.warn(text, TrainingWarning, stacklevel=3)

    def check_weights(self, state: State, kept: str) -> None:
        """Raises TrainingError where a weight, a buffer or one of the optimiser's moments is not finite."""
        moments = [t for s in state.optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
        if not _finite([*state.network.state_dict().values(), *moments]):
            train = self.config.train
            raise TrainingError(
                f"weights or Adam's moments are not finite at iteration {state.iteration}: lower train.learning_rate "
                f"({train.learning_rate:g}) or train.weight_decay ({train.weight_decay:g}); {kept}"
            )


def _finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    # One answer for all, so that the device is waited for once.
    flags = [t.isfinite().all() for t in tensors if t is not None]
    return bool(torch.stack(flags).all()) if flags else True


def _largest(batch: Batch) -> str:
    return f"the largest here is {float(batch.features.abs().max()):.3g}" if batch.features.numel() else "none here"
