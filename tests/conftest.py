"""Shared fixtures: real data where it is, hypothesis without deadlines, and what no GPU has vouched for."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# A worker's pytest-benchmark times nothing, and its children's shall: they are no workers.
if os.environ.pop("PYTEST_XDIST_WORKER", None):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the other workers' time

import torch
from hypothesis import HealthCheck, settings

# Before anything imports Triton: with no GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("D2K_VERIFY", "off")  # the tests are the check

# A background job of a shell is started with Ctrl-C ignored, and its children inherit that: tests of Ctrl-C would wait.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("d2k", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("sanitize", settings.get_profile("d2k"), max_examples=15)
settings.load_profile("d2k")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent / "fakes"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU; scripts/gpu_check.sh runs it on a machine that has one"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not (Path(__file__).parents[1] / "d2kernels").is_dir():
        return  # an installed package is tested: no sources to hold against the records
    from verified import standings

    for name, standing in standings().items():
        terminalreporter.write_line(f"{name}: {standing.says(name)}")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Stored outputs of the authors' code; what is whole and what is thinned is in its README.md."""
    return Path(__file__).parent / "parity" / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and the whole golden outputs, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("D2K_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data, which has licences of its own, at {folder}; set D2K_SHARED")
    return folder
