"""A pytest plugin for machines that may be taken away: a line of JSON a test as it begins and ends, in a file.

D2K_LINES names the file, D2K_STEP the step that its lines name. What has run by the file's lines of that step is left
out, so that a step whose process was lost goes on after the test that did it. Exit code 86: a test left CUDA unusable.

Where d2net's requirements are not installed, whatever imports d2net is skipped with that reason.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LOST = 86
NEEDED = ("pydantic", "yaml", "typer")
_file, _step = Path(os.environ["D2K_LINES"]), os.environ["D2K_STEP"]


def _say(**line: Any) -> None:
    with open(_file, "a") as file:
        file.write(json.dumps({"step": _step, **line}) + "\n")


def read(path: Path, step: str | None = None) -> dict[str, dict[str, Any]]:
    """Test to its last line, of one step or of all; a line that was cut short is left out."""
    found: dict[str, dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if step in (None, line["step"]):
            found[line["test"]] = line
    return found


class _NoD2net:
    """Finds no d2net, in the way that pytest takes for a skipped module."""

    def __init__(self, missing: str):
        self.missing = missing

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "d2net":
            pytest.skip(f"d2net needs {self.missing}, which is not installed here", allow_module_level=True)


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def pytest_configure() -> None:
    missing = next((name for name in NEEDED if not _there(name)), None)
    if missing is not None:
        sys.meta_path.insert(0, _NoD2net(missing))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done = read(_file, _step)
    gone = [item for item in items if done.get(item.nodeid, {}).get("outcome") not in (None, "waits")]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        _say(test=item.nodeid, outcome="waits")


def _skipped(report: Any) -> str:
    return str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)[-500:]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _say(test=report.nodeid, outcome="skipped", why=_skipped(report))
    if report.failed:
        _say(test=report.nodeid, outcome="failed", why=str(report.longrepr)[-2000:])


def pytest_runtest_logstart(nodeid: str) -> None:
    _say(test=nodeid, outcome="begun")


class _Seen:
    outcome, why, seconds = "passed", "", 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """One line when all of the test, its fixtures included, is over; then whether CUDA still works."""
    _Seen.outcome, _Seen.why, _Seen.seconds = "passed", "", 0.0
    result = yield
    _say(test=item.nodeid, outcome=_Seen.outcome, seconds=round(_Seen.seconds, 3), why=_Seen.why)
    torch = sys.modules.get("torch")
    if _Seen.outcome == "failed" and torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"\n{item.nodeid} left CUDA unusable: {error}", flush=True)
            os._exit(LOST)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _Seen.seconds += report.duration
    if report.failed:
        _Seen.outcome, _Seen.why = "failed", str(report.longrepr)[-2000:]
    elif report.skipped and _Seen.outcome == "passed":
        _Seen.outcome, _Seen.why = "skipped", _skipped(report)
