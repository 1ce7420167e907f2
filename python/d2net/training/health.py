"""Whether a run learns anything: steps that are skipped, gradients of 0, weights that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import d2kernels as d2k
from d2net.config import Config
from d2net.data.batch import Batch
from d2net.methods.base import Output, foreground_of
from d2net.training.collapse import Collapse
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.later import Later
from d2net.training.state import State

FEW = 1 / 8  # of a window's steps: what is left of a run that went wrong in it
NOTABLE = 1 / 5
SATURATED = 17.0  # of a logit: the sigmoid is 1 in float32, or as far from 0
RUNAWAY = 1e3  # no training that fits its labels goes there
EPSILON = 1e-8  # Adam's: steps along smaller gradients vanish
SAMPLE = 2**16  # of a weight's values
HOPELESS, SMALL = 1e-6, 1e-4  # of its size, what a weight changes in the whole run


@torch.no_grad()
def _evaluated(state: State, batch: Batch) -> Output:
    """The network's outputs in evaluation mode."""
    network = state.network
    network.eval()
    out = network(batch._replace(features=batch.features.float()).ragged())
    network.train()
    return out


def _within(out: Output, limit: float) -> Tensor:
    """(2,): how many logits of snippets and classes are within the limit, and how many there are; NaN is not."""
    z = out.logits.values.to(torch.float32)
    inside = out.logits.row_mask().view(-1, *[1] * (z.dim() - 1))
    return torch.stack([((z.abs() <= limit) & inside).sum(), inside.sum() * z[:1].numel()])


def _runaway(within: Tensor) -> bool:
    """Whether the logits of nearly all snippets and classes are beyond a limit, or not numbers."""
    few, all_of_them = within.tolist()
    return few <= FEW * all_of_them and all_of_them > 0


def check_start(state: State, batch: Batch, config: Config) -> None:
    """Raises TrainingError where the fresh network's activations are all saturated, so that no gradient passes."""
    if _runaway(_within(_evaluated(state, batch), SATURATED)):
        raise TrainingError(
            "nothing could be trained: before the first step activations are saturated, at exactly 0 or 1 in float32; "
            f"scale the features to about unit size ({_said(_largest(batch))}), or lower model.init_std "
            f"({config.model.init_std:g})"
        )


@dataclass(frozen=True)
class Reading:
    """What a window of steps, ended by a batch, is judged by."""

    iteration: int
    values: Later


class Health:
    """Looks at every window of steps, the first most closely, and at the weights before they are saved."""

    def __init__(self, config: Config, state: State, classes: Sequence[str]):
        self.config, self.learned, self.warned = config, state.iteration > 0, False
        self.before = [] if self.learned else _sample(state)
        self.collapse = Collapse(config, classes, state.network.streams)

    @torch.no_grad()
    def look(self, state: State, batch: Batch) -> Reading:
        """Takes the readings after a window that `batch` ends; waits for nothing."""
        out = _evaluated(state, batch)
        values = {
            "weights": _finite(_kept_tensors(state)),
            "gradients": _finite(p.grad for p in state.network.parameters()),
            "within": _within(out, RUNAWAY),
            "largest": _largest(batch),
        }
        if not self.learned:
            values |= {"sizes": _sizes(self.before, _sample(state)), "norm": _norm(state)}
        if state.iteration > self.config.train.iterations // 2:
            values |= {"T": out.activations.values, "z": out.logits.values, "labels": batch.labels}
            values |= {"foreground": foreground_of(state.network, out), "offsets": batch.offsets}
            values |= {"lengths": batch.lengths}
        return Reading(state.iteration, Later(values))

    def judge(self, reading: Reading, sums: Mapping[str, float], steps: int, kept: str) -> list[str]:
        """Judges a window of `steps` steps with these sums of the log's terms.

        Args:
            kept: what of the run is saved, for the message.

        Returns:
            What has collapsed, each told once; warned of too.

        Raises:
            TrainingError: nothing is being learned, or a weight is not finite.
        """
        values, at = reading.values.read(), reading.iteration
        skipped, largest = int(sums["skipped_steps"]), _said(values["largest"])
        self._check_finite(values["weights"], at, kept)
        train = self.config.train
        if steps - skipped <= FEW * steps and not bool(values["gradients"]):
            raise TrainingError(
                f"{skipped} of the last {steps} steps were skipped because the loss or its gradient was not finite, up "
                f"to iteration {at}: lower train.learning_rate ({train.learning_rate:g}) or set "
                f"train.gradient_clip, and see that features are near unit size ({largest}); {kept}"
            )
        if _runaway(values["within"]):
            raise TrainingError(
                f"activations are saturated far beyond what labels ask for, by iteration {at}: lower "
                f"train.learning_rate ({train.learning_rate:g}) or train.weight_decay ({train.weight_decay:g}); {kept}"
            )
        if not self.learned:
            self._check_first(values, sums["gradient_norm"], steps, steps - skipped, kept)
            self.learned, self.before = True, []
        if skipped >= NOTABLE * steps:
            self._warn(
                f"{skipped} of the last {steps} steps were skipped, up to iteration {at}: their loss was "
                "0 or not finite; the log counts them as skipped_steps"
            )
        elif sums["gradient_norm"] == 0:
            self._warn(
                f"the gradient was 0 in each of the last {steps} steps, up to iteration {at}: the labels "
                "are fitted exactly, or a learning rate that is too large has saturated the activations"
            )
        return self._collapsed(values, at)

    def _collapsed(self, values: Mapping[str, Tensor], at: int) -> list[str]:
        if "T" not in values:
            return []
        activations = d2k.Ragged._trusted(values["T"], values["offsets"], values["lengths"])
        self.collapse.add(activations, activations.with_values(values["z"]), values["foreground"], values["labels"])
        found = self.collapse.findings() if at > self.config.train.iterations * 3 // 4 else []
        for text in found:
            warnings.warn(f"iteration {at}: {text}", TrainingWarning, stacklevel=3)
        return found

    def _check_first(self, values: Mapping[str, Tensor], norms: float, steps: int, made: int, kept: str) -> None:
        """Raises, or warns, where the first `steps`, of which `made` were not skipped, have taught nothing."""
        train, loss, norm = self.config.train, self.config.loss, norms / max(1, made)
        clipped = train.gradient_clip is not None and train.gradient_clip < norm
        applied = train.gradient_clip if clipped and train.gradient_clip is not None else norm
        if applied < EPSILON:
            todo = f"see that features are near unit size ({_said(values['largest'])}), and that model.init_std "
            todo += f"({self.config.model.init_std:g}) is not too large"
            if loss.classification != "CE" and loss.beta > 10:
                todo = f"lower loss.beta ({loss.beta:g}), a power of 1 - p, or else {todo}"
            if clipped:
                todo = f"raise train.gradient_clip ({train.gradient_clip:g}), or leave it out"
            was = f"{applied:.3g} in the mean of" if applied else "0 in each of"
            raise TrainingError(
                f"the gradient was {was} the first {steps} steps, so that nothing was learned: {todo}; {kept}"
            )
        size, change = values["sizes"].tolist()
        share = change * train.iterations / max(1, made) / max(size, 1e-30)
        if share < SMALL:
            text = (
                f"weights changed by {change / max(size, 1e-30):.2g} of their size in the first {steps} steps: raise "
                f"train.learning_rate ({train.learning_rate:g})"
            )
            if share < HOPELESS:
                raise TrainingError(f"nothing was learned: {text}; {kept}")
            self._warn(text)
        decay = train.weight_decay * float(values["norm"])
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
        self._check_finite(_finite(_kept_tensors(state)), state.iteration, kept)

    def _check_finite(self, finite: Tensor, at: int, kept: str) -> None:
        if not bool(finite):
            train = self.config.train
            raise TrainingError(
                f"weights or Adam's moments are not finite at iteration {at}: lower train.learning_rate "
                f"({train.learning_rate:g}) or train.weight_decay ({train.weight_decay:g}); {kept}"
            )


def _kept_tensors(state: State) -> list[Tensor]:
    """Weights, buffers and the optimiser's moments, on one device."""
    moments = [t for s in state.optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    return [*state.network.state_dict().values(), *moments]


def _weights(state: State) -> list[Tensor]:
    """Without biases, which begin at 0."""
    return [w.detach() for w in state.network.parameters() if w.dim() > 1]


def _sample(state: State) -> list[Tensor]:
    return [w.reshape(-1)[:: max(1, w.numel() // SAMPLE)].to(torch.float64, copy=True) for w in _weights(state)]


def _sizes(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """(2,): norms of the weights and of their change."""
    a, b = torch.cat(before), torch.cat(after)
    return torch.stack([a.norm(), (b - a).norm()])


def _norm(state: State) -> Tensor:
    return torch.stack([w.norm() for w in _weights(state)]).norm()


def _finite(tensors: Iterable[Tensor | None]) -> Tensor:
    """One answer for all, 0-d bool; True of none."""
    flags = [t.isfinite().all() for t in tensors if t is not None]
    return torch.stack(flags).all() if flags else torch.ones((), dtype=torch.bool)


def _largest(batch: Batch) -> Tensor:
    """The features' smallest and largest value (2,), or none of either."""
    x = batch.features
    return torch.stack(torch.aminmax(x)) if x.numel() else x.new_empty(0)


def _said(extremes: Tensor) -> str:
    return f"the largest here is {float(extremes.abs().max()):.3g}" if extremes.numel() else "none here"
