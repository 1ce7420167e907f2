"""Tests of videos make their own; without PyAV and OpenCV there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    for module, name in (("av", "PyAV"), ("cv2", "OpenCV")):
        pytest.importorskip(module, reason=f"{name} is missing; pip install 'd2kernels[video]'")
