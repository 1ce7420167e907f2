"""Shared fixtures: real data where it is, and hypothesis without deadlines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("d2k", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("d2k")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden outputs and real data, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("D2K_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden outputs and real data at {folder}; set D2K_SHARED")
    return folder
