"""What a training says where it cannot go on, or goes on although something is odd."""

from __future__ import annotations


class TrainingError(ValueError):
    """Training that cannot go on; the message says why and what to try."""


class TrainingWarning(UserWarning):
    """Training that goes on although something about it is odd."""
