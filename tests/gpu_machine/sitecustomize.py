"""With this folder first on PYTHONPATH, Python has the distributions of packages.txt and what is of none, no others.

They are those of a GPU machine for which gpu_check.sh is meant; pydantic is not among them.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path


@cache
def _allowed() -> set[str]:
    names = (Path(__file__).parent / "packages.txt").read_text().split()
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@cache
def _owners() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


class Hidden:
    """Refuses the modules of any other distribution, as where it is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if "." in name or name in sys.stdlib_module_names or name.startswith(("d2kernels", "d2net")):
            return
        owners = {re.sub(r"[-_.]+", "-", owner).lower() for owner in _owners().get(name, ())}
        if owners and not owners & _allowed():
            raise ModuleNotFoundError(f"No module named {name!r}: it is of {', '.join(sorted(owners))}", name=name)


sys.meta_path.insert(0, Hidden())
