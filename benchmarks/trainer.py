"""d2net's training step, wherever the revision that is timed keeps it."""

from __future__ import annotations

try:
    from d2net.methods.d2net.losses import compute_losses
    from d2net.methods.d2net.losses.pairs import Permutations, random_permutations
    from d2net.training.state import new_state
    from d2net.training.step import train_step
except ModuleNotFoundError:  # revision 5f6afe9 and before
    from d2net.losses import compute_losses
    from d2net.losses.pairs import Permutations, random_permutations

    from d2net.training import new_state, train_step

__all__ = ["Permutations", "compute_losses", "new_state", "random_permutations", "train_step"]
