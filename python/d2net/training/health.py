"""Whether a run learns anything: steps that are skipped, gradients of 0, weights that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch

from d2net.config import Config
from d2net.data.dataset import Batch
from d2net.methods.base import Output, foreground_of
from d2net.training.collapse import Collapse
from d2net.training.state import State

FEW = 1 / 8  # of a window's steps: what is left of a run that went wrong in it
NOTABLE = 1 / 5
SATURATED = 17.0  # of a logit: the sigmoid is 1 in float32, or as far from 0
RUNAWAY = 1e3  # no training that fits its labels goes there
EPSILON = 1e-8  # Adam's: steps along smaller gradients vanish
SAMPLE = 2**16  # of a weight's values
HOPELESS, SMALL = 1e-6, 1e-4  # of its size, what a weight changes in the whole run


class TrainingError(ValueError):
    """Training that cannot go on; the message says why and what to try."""


class TrainingWarning(UserWarning):
    """Training that goes on although something about it is odd."""


@torch.no_grad()
def _evaluated(state: State, batch: Batch) -> Output:
    """The network's outputs in evaluation mode."""
    network = state.network
    network.eval()
    out = network(batch._replace(features=batch.features.float()).ragged())
    network.train()
    return out


def _runaway(out: Output, limit: float) -> bool:
    """Whether the logits of nearly all snippets and classes are beyond the limit, or not numbers."""
    logits = torch.cat([z.flatten() for z in out.logits.unpack()]).to(torch.float32)
    return bool((logits.abs() <= limit).sum() <= FEW * logits.numel()) and logits.numel() > 0


def check_start(state: State, batch: Batch, config: Config) -> None:
    """Raises TrainingError where the fresh network's activations are all saturated, so that no gradient passes."""
    if _runaway(_evaluated(state, batch), SATURATED):
        raise TrainingError(
            "nothing could be trained: before the first step activations are saturated, at exactly 0 or 1 in float32; "
            f"scale the features to about unit size ({_largest(batch)}), or lower model.init_std "
            f"({config.model.init_std:g})"
        )


class Health:
    """Looks at every window of steps, the first most closely, and at the weights before they are saved."""

    def __init__(self, config: Config, state: State, classes: Sequence[str]):
        self.config, self.learned, self.warned = config, state.iteration > 0, False
        self.before = [] if self.learned else _sample(state)
        self.collapse = Collapse(config, classes, state.network.streams)

    def check(self, state: State, sums: Mapping[str, float], steps: int, batch: Batch, kept: str) -> list[str]:
        """Looks at a window of `steps` steps with these sums of the log's terms, ended by `batch`.

        Args:
            kept: what of the run is saved, for the message.

        Returns:
            What has collapsed, each told once; warned of too.

        Raises:
            TrainingError: nothing is being learned, or a weight is not finite.
        """
        skipped = int(sums["skipped_steps"])
        self.check_weights(state, kept)
        train = self.config.train
        if steps - skipped <= FEW * steps and not _finite(p.grad for p in state.network.parameters()):
            raise TrainingError(
                f"{skipped} of the last {steps} steps were skipped because the loss or its gradient was not finite, up "
                f"to iteration {state.iteration}: lower train.learning_rate ({train.learning_rate:g}) or set "
                f"train.gradient_clip, and see that features are near unit size ({_largest(batch)}); {kept}"
            )
        out = _evaluated(state, batch)
        if _runaway(out, RUNAWAY):
            raise TrainingError(
                f"activations are saturated far beyond what labels ask for, by iteration {state.iteration}: lower "
                f"train.learning_rate ({train.learning_rate:g}) or train.weight_decay ({train.weight_decay:g}); {kept}"
            )
        if not self.learned:
            self._check_first(state, sums["gradient_norm"], steps, steps - skipped, batch, kept)
            self.learned, self.before = True, []
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
        return self._collapsed(state, out, batch)

    def _collapsed(self, state: State, out: Output, batch: Batch) -> list[str]:
        last = self.config.train.iterations
        if state.iteration <= last // 2:
            return []
        self.collapse.add(out, foreground_of(state.network, out), batch)
        found = self.collapse.findings() if state.iteration > last * 3 // 4 else []
        for text in found:
            warnings.warn(f"iteration {state.iteration}: {text}", TrainingWarning, stacklevel=3)
        return found

    def _check_first(self, state: State, norms: float, steps: int, made: int, batch: Batch, kept: str) -> None:
        """Raises, or warns, where the first `steps`, of which `made` were not skipped, have taught nothing."""
        train, loss, norm = self.config.train, self.config.loss, norms / max(1, made)
        clipped = train.gradient_clip is not None and train.gradient_clip < norm
        applied = train.gradient_clip if clipped and train.gradient_clip is not None else norm
        if applied < EPSILON:
            todo = f"see that features are near unit size ({_largest(batch)}), and that model.init_std "
            todo += f"({self.config.model.init_std:g}) is not too large"
            if loss.classification != "CE" and loss.beta > 10:
                todo = f"lower loss.beta ({loss.beta:g}), a power of 1 - p, or else {todo}"
            if clipped:
                todo = f"raise train.gradient_clip ({train.gradient_clip:g}), or leave it out"
            was = f"{applied:.3g} in the mean of" if applied else "0 in each of"
            raise TrainingError(
                f"the gradient was {was} the first {steps} steps, so that nothing was learned: {todo}; {kept}"
            )
        size, change = _sizes(self.before, _sample(state))
        share = change * train.iterations / max(1, made) / max(size, 1e-30)
        if share < SMALL:
            text = (
                f"weights changed by {change / max(size, 1e-30):.2g} of their size in the first {steps} steps: raise "
                f"train.learning_rate ({train.learning_rate:g})"
            )
            if share < HOPELESS:
                raise TrainingError(f"nothing was learned: {text}; {kept}")
            self._warn(text)
        decay = train.weight_decay * _norm(state)
        if applied < decay / 1000:
            how = f"raise train.gradient_clip ({train.gradient_clip:g}) or " if clipped else ""
            self._warn(
                f"the gradient, of size {applied:.2g} in the first {steps} steps, is lost beside weight decay's, "
                f"{decay:.2g}: {how}lower train.weight_decay ({train.weight_decay:g})"
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


def _weights(state: State) -> list[torch.Tensor]:
    """Without biases, which begin at 0."""
    return [w.detach() for w in state.network.parameters() if w.dim() > 1]


def _sample(state: State) -> list[torch.Tensor]:
    return [w.reshape(-1)[:: max(1, w.numel() // SAMPLE)].to(torch.float64, copy=True) for w in _weights(state)]


def _sizes(before: list[torch.Tensor], after: list[torch.Tensor]) -> tuple[float, float]:
    """Norms of the weights and of their change."""
    a, b = torch.cat(before), torch.cat(after)
    size, change = torch.stack([a.norm(), (b - a).norm()]).tolist()
    return size, change


def _norm(state: State) -> float:
    return float(torch.stack([w.norm() for w in _weights(state)]).norm())


def _finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    # One answer for all, so that the device is waited for once.
    flags = [t.isfinite().all() for t in tensors if t is not None]
    return bool(torch.stack(flags).all()) if flags else True


def _largest(batch: Batch) -> str:
    return f"the largest here is {float(batch.features.abs().max()):.3g}" if batch.features.numel() else "none here"
