"""Options and fixtures of the benchmarks."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import roofline
from harness import Contest

CEILINGS: dict[str, dict[str, float]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of d2kernels")
    group.addoption("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a GPU first")
    group.addoption("--full", action="store_true", help="every shape and size, some minutes each")
    group.addoption("--no-peers", action="store_true", help="ours alone, as comparing two revisions does")
    group.addoption("--rows", type=Path, default=None, help="a file that gets each row as a line of JSON at once")
    group.addoption("--budget", type=float, default=None, help="seconds of timing a contest (default 1.5, full 6)")


def chosen_device(config: pytest.Config) -> torch.device:
    kind = config.getoption("--device")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(kind)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    found = chosen_device(pytestconfig)
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device=cuda: torch sees no GPU", returncode=2)
    return found


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--full")


@pytest.fixture(scope="session")
def ceilings(device: torch.device) -> dict[str, float]:
    """Measured once a run, so that every share is of the machine as it is now."""
    if device.type not in CEILINGS:
        CEILINGS[device.type] = roofline.measure(device)
    return CEILINGS[device.type]


@pytest.fixture
def contest(benchmark: Any, device: torch.device, request: pytest.FixtureRequest) -> Contest:
    option = request.config.getoption
    if not option("--no-peers"):
        request.getfixturevalue("ceilings")
    budget = option("--budget") or (6.0 if option("--full") else 1.5)
    return Contest(benchmark, device, budget, not option("--no-peers"), option("--rows"))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    device = chosen_device(config)
    machine_info["d2k"] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _cpu_model(),
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "full": config.getoption("--full"),
        "ceilings": CEILINGS.get(device.type, {}),
    }
