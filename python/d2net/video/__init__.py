"""From a video file to features, and from detections back to a video."""

from __future__ import annotations

import importlib
from types import ModuleType

from d2net.data.files import DataError


class VideoError(DataError):
    """A video that cannot be used; names the file and what to do."""


def needed(module: str, package: str) -> ModuleType:
    """An optional module; ImportError says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"video: the package {package} is missing; pip install 'd2kernels[video]'") from error
