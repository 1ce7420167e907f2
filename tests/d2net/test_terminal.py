"""Progress: what is said where, how often, and that --quiet is silent."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest
import typer

from d2net import terminal
from d2net.cli import app
from d2net.terminal import Bar

COMMANDS = typer.main.get_command(app).commands
LONG = "train localize evaluate ablate inspect extract tune convert report compare plot synth".split()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(terminal.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_can_be_quiet(name):
    assert "--quiet" in {o for p in COMMANDS[name].params for o in p.opts}


def test_lines_come_every_30_seconds_where_there_is_no_terminal(clock, capsys):
    with Bar("train", 1000, unit="it") as bar:
        for _ in range(100):
            clock.now += 1
            bar.note = "loss 0.5"
            bar.update(10)
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [f"train: {n}/1000 it, 10 it/s, {left} left; loss 0.5"
                        for n, left in ((300, "1:10"), (600, "0:40"), (900, "0:10"))]  # fmt: skip
    assert said[3:] == ["train: 1000 it in 1:40, 10 it/s; loss 0.5"]


def test_what_is_short_or_fails_or_is_not_shown_says_nothing(clock, capsys):
    for _ in Bar("a", 3, unit="video").over(range(3)):
        clock.now += 0.5
    with pytest.raises(KeyError), Bar("b", 3) as bar:
        clock.now += 20
        bar.update()
        raise KeyError
    for _ in Bar("c", 3, show=False).over(range(3)):
        clock.now += 100
    assert capsys.readouterr() == ("", "")


def test_figures(clock):
    resumed = Bar("train", 2000, unit="it", done=1000)
    clock.now += 31
    resumed.update(62)
    assert resumed.figures() == "1062/2000 it, 2 it/s, 7:49 left"  # what was there before is no speed
    slow = Bar("ablate", 4, unit="run")
    clock.now += 40
    slow.update()
    assert slow.figures() == "1/4 runs, 40.0 s/run, 2:00 left"
    size = Bar("extract", 3e9, unit="B")
    clock.now += 100
    size.set(5e8)
    assert size.figures() == "500 MB/3 GB, 5 MB/s, 8:20 left"
    unknown = Bar("features", unit="video")
    assert unknown.figures() == "0 videos"
    assert terminal.seconds(3723) == "1:02:03" and terminal.seconds(7) == "0:07"


def test_names_cannot_act_on_a_terminal(clock, capsys):
    with Bar("read \x1b[2J", 2) as bar:
        bar.note = "a\x1b]0;x\x07"
        clock.now += 31
        bar.update()
    assert "\x1b" not in capsys.readouterr().err


def test_parts_of_a_whole(clock, capsys):
    with Bar("evaluate", 2) as bar:
        bar.begin("metrics")
        clock.now += 31
        bar.begin("errors")
        assert bar.figures() == "1/2, 0:31 left; errors"
    assert capsys.readouterr().err.splitlines() == ["evaluate: 1/2, 0:31 left; errors", "evaluate: 0:31"]


def test_a_dumb_or_closed_terminal_is_none(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.on_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.on_terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", closed := io.StringIO())
    closed.close()
    assert not terminal.on_terminal()


SCRIPT = """
import sys, time
from d2net import terminal
from d2net.terminal import Bar
terminal.FRAMES, terminal.SHORT = 0.0, 0.0
with Bar("outer", 2, unit="run") as outer:
    for k in range(2):
        with Bar("inner [red]", 3, unit="it") as inner:
            for i in range(3):
                inner.update()
                print("warning of", k, i, file=sys.stderr)
        outer.update()
print("result")
import threading
assert threading.active_count() == 1
"""


def test_bars_on_a_terminal_are_nested_and_let_others_speak():
    """On a pseudo-terminal; the result goes where standard output goes, which is no terminal."""
    above, below = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=below, stdout=subprocess.PIPE, text=True, env=env)
    os.close(below)
    seen = b""
    while True:
        try:
            part = os.read(above, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    out, _ = process.communicate(timeout=60)
    os.close(above)
    assert process.returncode == 0 and out == "result\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    lines = re.split(r"[\r\n]+", text)
    assert any(re.match(r"outer +\S+ +1/2 runs", x) for x in lines), text
    assert any(re.match(r"inner \[red\] +\S+ +2/3 it", x) for x in lines), text
    assert [x for x in lines if x.startswith("warning of")] == [f"warning of {k} {i}" for k in (0, 1) for i in range(3)]
    assert sum(bool(re.match(r"inner \[red\]: 3 it in \d+:\d\d", x)) for x in lines) == 2, text
    assert sum(bool(re.match(r"outer: 2 runs in \d+:\d\d", x)) for x in lines) == 1, text
