"""What can be trained, each in a folder of its own: settings, network, losses, and the `Method` that joins them.

Nothing here imports torch: the configuration reads the methods' settings.
"""

from __future__ import annotations

import importlib
from typing import Any

# Name of a method -> its folder here, and of its section in the configuration.
METHODS = {"d2net": "d2net", "wtalc": "wtalc", "3cnet": "threecnet", "basnet": "basnet"}


def settings_of(name: str, preset: str | None) -> dict[str, Any]:
    """The fields that the method sets in place of the recipe's and the preset's; none for d2net, which those are of."""
    if name == "d2net":
        return {}
    settings = importlib.import_module(f"d2net.methods.{METHODS[name]}.settings")
    return {**settings.DEFAULTS, **settings.PRESETS.get(preset, {})}
