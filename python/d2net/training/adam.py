"""Adam's update by torch's fused kernel: what torch.optim does around it takes longer than a small network's update."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Tensors(NamedTuple):
    """Of a group: weights, both moments and the counts of steps, one each per parameter."""

    weights: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class FusedAdam(torch.optim.Adam):
    """torch.optim.Adam(fused=True), with its state and its bits, of parameters on one device and of one dtype.

    `update` takes the place of `step`: it looks the tensors up once, and calls no hooks.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self._known: list[_Tensors] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._known = []  # tensors of the state before

    @torch.no_grad()
    def update(self, leave: Tensor, rate: Tensor | None = None) -> None:
        """One step from the parameters' gradients.

        Args:
            leave: 0-d float32 on the parameters' device, 1 where weights and moments must stay.
            rate: the learning rate likewise, by default the groups' own.
        """
        known = self._known or self._look_up()
        for at, settings in enumerate(self.param_groups):
            group = known[at] if known else None
            gradients = [w.grad for w in group.weights] if group else []
            for gradient in gradients:
                if gradient is None:
                    group = None
            if group is None:
                # Makes the moments in the first step, and leaves parameters without a gradient out of any.
                found: list[list[Tensor]] = [[] for _ in range(6)]
                self._init_group(settings, *found)
                weights, gradients, means, squares, _, steps = found
                group = _Tensors(weights, means, squares, steps)
            if not gradients:
                continue
            torch._foreach_add_(group.steps, 1)
            torch._fused_adam_(
                group.weights,
                gradients,  # type: ignore[arg-type]
                group.means,
                group.squares,
                [],
                group.steps,
                amsgrad=False,
                lr=settings["lr"] if rate is None else rate,
                beta1=settings["betas"][0],
                beta2=settings["betas"][1],
                weight_decay=settings["weight_decay"],
                eps=settings["eps"],
                maximize=False,
                found_inf=leave,
            )
            torch._foreach_sub_(group.steps, [leave] * len(group.steps))

    def _look_up(self) -> list[_Tensors]:
        """Every group's tensors; none where a parameter has no moments yet."""
        groups = []
        for group in self.param_groups:
            weights = list(group["params"])
            moments = [self.state[w] for w in weights if w in self.state]
            if len(moments) < len(weights) or not weights:
                return []
            names = ("exp_avg", "exp_avg_sq", "step")
            groups.append(_Tensors(weights, *([m[name] for m in moments] for name in names)))
        self._known = groups
        return groups


# torch keeps torch.compile out of these by importing all of its compiler at their first call: 2 s of each training.
for _name in ("add_param_group", "state_dict", "load_state_dict"):
    setattr(FusedAdam, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))
