"""Tests of videos make their own; without PyAV and OpenCV there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is missing; pip install 'd2kernels[video]'")
pytest.importorskip("cv2", reason="OpenCV is missing; pip install 'd2kernels[video]'")
sys.path.insert(0, str(Path(__file__).parent))
