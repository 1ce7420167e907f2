"""Text for a terminal, and how far along is what takes long."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_JOINERS = "\u200c\u200d"  # part of words in Persian and of emoji
LINES = 30.0  # seconds between lines where there is no terminal
FRAMES = 0.5  # seconds between pictures of a bar, of which one takes some 4 ms
SHORT = 2.0  # seconds after which it is worth a line that something has ended
WINDOW = 30.0  # seconds that a rate is the mean of

T = TypeVar("T")
Listener = Callable[[str, float, float, "float | None", str, str], object]  # of what, first, done, total, unit, note
_listener: Listener | None = None


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Within, bars show nothing: the listener is told how far along they are, as often as they would be drawn anew."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def printable(text: str) -> str:
    r"""Control, direction and other invisible characters as escapes: names out of files must not act on a terminal."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def seconds(value: float) -> str:
    """As 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Bar:
    """How far along something is, on standard error: a bar on a terminal, else a line now and then.

    Bars may be nested; the inner ones stand below. On a terminal, what is printed meanwhile appears above them.

    Args:
        what: in a word or two. total: how much there is to do, None where that is not known.
        unit: of what is counted; "B" is shown in larger units. done: what an earlier run has done.
        show: False is silent.

    Attributes:
        note: shown behind the figures. total: may be changed on the way.
    """

    def __init__(self, what: str, total: float | None = None, *, unit: str = "", done: float = 0, show: bool = True):
        self.what, self.total, self.unit, self.done, self.show = what, total, unit, done, show
        self.note = ""
        self._first, self._began = done, time.monotonic()
        self._shown = self._began
        self._marks: deque[tuple[float, float]] = deque([(self._began, done)])
        self._task: Any = None
        self._listener = _listener if show else None
        self._live = show and self._listener is None and on_terminal()
        if self._live:
            self._task = _display.add(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(whole=kind is None)

    def update(self, n: float = 1) -> None:
        """Counts n more."""
        self.set(self.done + n)

    def set(self, done: float) -> None:
        """Counts `done` in all."""
        self.done = done
        if not self.show:
            return
        now = time.monotonic()
        if now - self._shown < (FRAMES if self._live or self._listener else LINES):
            return
        self._shown = now
        if self._listener:
            self._tell(self._listener)
            return
        while len(self._marks) > 1 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        self._marks.append((now, done))
        if self._live:
            _display.draw()
        else:
            self._say(self.figures())

    def begin(self, part: str) -> None:
        """Begins a part of what is to be done; the one before it is done."""
        if self.note:
            self.done += 1
        self.note = part
        if self._live and self.show:
            _display.draw()
        self.update(0)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted once it has been dealt with; the bar ends with them."""
        with self:
            for item in items:
                yield item
                self.update()

    def close(self, whole: bool = True) -> None:
        """Ends the bar; a line says what was done where that took long. whole: it went to its end."""
        if not self.show:
            return
        self.show = False
        if self._listener:
            self._tell(self._listener)
            return
        if self._live:
            _display.remove(self)
        took, made = time.monotonic() - self._began, self.done - self._first
        if not self.unit:
            self.note = ""  # of the last part
        if whole and took >= SHORT:
            count = f"{self._amount(made)}{self._spaced(made)} in " if made > 0 and self.unit else ""
            self._say(f"{count}{seconds(took)}{self._rate(made / took)}{self._noted()}")

    def _tell(self, listener: Listener) -> None:
        listener(self.what, self._first, self.done, self.total, self.unit, self.note)

    def figures(self) -> str:
        """As "1200/2000 it, 35.1 it/s, 0:22 left; loss 0.2"."""
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        rate = (done - before) / (now - then) if now > then else 0.0
        of = "" if self.total is None else f"/{self._amount(self.total)}"
        left = f", {seconds((self.total - self.done) / rate)} left" if self.total is not None and rate > 0 else ""
        count = self.done if self.total is None else self.total
        return f"{self._amount(self.done)}{of}{self._spaced(count)}{self._rate(rate)}{left}{self._noted()}"

    def _say(self, text: str) -> None:
        print(printable(f"{self.what}: {text}"), file=sys.stderr, flush=True)

    def _noted(self) -> str:
        return f"; {printable(self.note)}" if self.note else ""

    def _spaced(self, count: float = 1) -> str:
        if not self.unit or self.unit == "B":
            return ""
        return f" {self.unit}s" if len(self.unit) > 2 and count != 1 else f" {self.unit}"

    def _rate(self, rate: float) -> str:
        if rate <= 0 or not self.unit:
            return ""
        return f", {self._amount(rate)}{self._spaced(rate)}/s" if rate >= 1 else f", {1 / rate:.1f} s/{self.unit}"

    def _amount(self, value: float) -> str:
        if self.unit == "B":
            for unit in ("B", "kB", "MB", "GB"):
                if value < 1000:
                    break
                value, unit = value / 1000, {"B": "kB", "kB": "MB", "MB": "GB"}.get(unit, "TB")
            return f"{value:.3g} {unit}"
        return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def on_terminal() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except ValueError:  # closed
        return False


class _Display:
    """All bars on the terminal. It has no thread: a process that is forked meanwhile inherits no lock that is held."""

    def __init__(self) -> None:
        self.progress: Any = None

    def add(self, bar: Bar) -> Any:
        if self.progress is None:
            self.progress = _progress()
            self.progress.start()
        return self.progress.add_task(printable(bar.what), total=bar.total, completed=bar.done, bar=bar)

    def draw(self) -> None:
        for task in self.progress.tasks:
            bar = task.fields["bar"]
            self.progress.update(task.id, total=bar.total, completed=bar.done)
        self.progress.refresh()

    def remove(self, bar: Bar) -> None:
        self.progress.remove_task(bar._task)
        if not self.progress.tasks:
            self.progress.stop()
            self.progress = None
        else:
            self.draw()


_display = _Display()


def _progress() -> Any:
    """rich's display; not its tqdm front end, which is experimental and makes one display for each bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(task.fields["bar"].figures(), no_wrap=True, overflow="ellipsis")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Figures(table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=Console(file=sys.stderr, force_terminal=True),
        auto_refresh=False,
        transient=True,
        expand=True,
        redirect_stdout=sys.stdout.isatty(),
    )
