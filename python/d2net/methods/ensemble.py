"""Several networks of one shape whose activations are averaged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from d2net.methods.base import Network


class Ensemble(nn.Module):
    """T and λ' are means over the members, each in evaluation mode; there is no one embedding to give.

    Raises:
        ValueError: no members, or of different widths, classes or streams.
    """

    def __init__(self, members: Sequence[Network]):
        super().__init__()
        shapes = {(m.width, m.classes, m.streams) for m in members}
        if len(shapes) != 1:
            raise ValueError(f"Ensemble: members must be of one (width, classes, streams), got {sorted(shapes)}")
        self.members = nn.ModuleList(members)
        self.width, self.classes, self.streams = next(iter(shapes))
