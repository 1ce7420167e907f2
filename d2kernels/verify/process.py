"""Starts the checking process, watches it, and starts it again for the kernels after one that broke it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from d2kernels.verify import cache
from d2kernels.verify.cache import Result
from d2kernels.verify.machine import PACKAGE

START_SECONDS = 300.0  # to import torch and open the device, on a busy machine too
KERNEL_SECONDS = 300.0  # for one kernel: its forms are compiled in this time, and run
COMMAND = (sys.executable, "-m", "d2kernels.verify.child")
# What would make the process check something else than the kernel it is given, or fail for another reason.
_LEFT_OUT = (
    *("D2K_BACKEND", "D2K_AUTOTUNE", "D2K_FLOAT32", "TRITON_INTERPRET"),
    *("PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONSTARTUP"),
)


class Unavailable(Exception):
    """No process could check anything: the device is not to be had a second time, or no process starts."""


class Outcome(NamedTuple):
    """Kernel to result; and to a reason, where a kernel could not be checked."""

    results: dict[str, Result]
    unchecked: dict[str, str]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "D2K_VERIFY": "off"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started; one that the driver holds is left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _events(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any] | None]:
    """The lines as they come, None whenever there was nothing for a moment; ends with the process."""
    with open(path) as file:
        rest = ""
        while True:
            over = process.poll() is not None
            rest += file.read()
            *lines, rest = rest.split("\n")
            yield from map(json.loads, lines)
            if over:
                return
            if not lines:
                yield None
                time.sleep(0.05)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"the process died of {signal.Signals(-code).name}"
        except ValueError:
            return f"the process died of signal {-code}"
    return f"the process ended with exit code {code}"


def details_folder() -> Path:
    """Where logs go: the cache folder, or the system's temporary one where that cannot be written to."""
    place = cache.folder() / "logs"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError:
        return Path(tempfile.mkdtemp(prefix="d2kernels-verify-"))


def _one(device: str, kernels: Sequence[str], log: Path, found: Outcome) -> None:
    """One process; adds to `found` what it did with the first kernels, at least one.

    Raises:
        Unavailable: it reached none.
    """
    with tempfile.TemporaryDirectory(prefix="d2kernels-") as folder, open(log, "ab") as output:
        events = Path(folder) / "events"
        events.touch()
        command = [*COMMAND, *kernels, f"--device={device}", f"--events={events}"]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"no process could be started: {error}") from None
        current, since, limit = None, time.monotonic(), START_SECONDS
        date = time.strftime("%Y-%m-%d %H:%M")

        def failed(error: str) -> None:
            assert current is not None
            found.results[current] = Result(False, error, str(log), date)

        try:
            for event in _events(events, process):
                if event is None:
                    if time.monotonic() - since <= limit:
                        continue
                    if current is None:
                        raise Unavailable(f"the process did not start within {limit:.0f} s; see {log}")
                    failed(f"no result after {limit:.0f} s")
                    return
                since, limit = time.monotonic(), KERNEL_SECONDS
                if event["event"] == "no device":
                    raise Unavailable(f"a second process cannot use {device}: {event['error']}")
                if event["event"] == "begin":
                    current = event["kernel"]
                elif event["event"] == "end":
                    if event["passed"] is None:
                        found.unchecked[event["kernel"]] = event["error"]
                    elif event["passed"]:
                        found.results[event["kernel"]] = Result(True, date=date)
                    else:
                        failed(event["error"])
                    current = None
            code = process.wait()
            if current is not None:
                failed(_how_it_ended(code))
            elif not any(k in found.results or k in found.unchecked for k in kernels):
                raise Unavailable(f"{_how_it_ended(code)} before it checked anything; see {log}")
        finally:
            _end(process)


def check(device: str, kernels: Sequence[str]) -> Outcome:
    """Checks every kernel on the device, in as many processes as it takes.

    Raises:
        Unavailable: no process could use the device, or none could be started.
    """
    if not sys.executable:
        raise Unavailable("there is no Python interpreter to start")
    found, left = Outcome({}, {}), list(kernels)
    log = details_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    while left:
        try:
            _one(device, left, log, found)
        except Unavailable as error:
            if not found.results:
                raise
            found.unchecked.update(dict.fromkeys(left, str(error)))  # the kernel before may have taken it along
        left = [k for k in left if k not in found.results and k not in found.unchecked]
    return found
