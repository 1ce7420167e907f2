"""Windows of steps: what the log's line of each says, told and judged once it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from d2net.config import Config
from d2net.data.batch import Batch
from d2net.data.dataset import TrainingBatches
from d2net.distributed.ranks import Ranks
from d2net.methods.base import method_named
from d2net.terminal import Bar
from d2net.training.health import Health, Reading
from d2net.training.later import Later
from d2net.training.logs import Log
from d2net.training.state import State, log_terms


@dataclass
class _Window:
    """Steps since the last line of the log, that is not told yet."""

    iteration: int
    counted: int
    logged: bool
    snippets: int
    seconds: float
    sums: Later
    reading: Reading | None = None


@dataclass
class Windows:
    """The last window of a run, between its end and its line.

    Args:
        log: of rank 0, None on the others; kept: what of the run is saved, for messages.
    """

    config: Config
    ranks: Ranks
    log: Log | None
    health: Health
    batches: TrainingBatches
    kept: Callable[[], str]
    bar: Bar
    due: _Window | None = None

    def tell(self, entry: Mapping[str, Any]) -> None:
        """Writes a line of the log."""
        self.ranks.on_main(lambda: self.log.write(entry))  # type: ignore[union-attr]

    def take(self, state: State, batch: Batch, logged: bool, snippets: int, seconds: float) -> None:
        """Takes what the window that `batch` ends says and is judged by, of the whole batch; waits for nothing."""
        sums = Later({"sums": state.sums})
        window = self.due = _Window(state.iteration, state.counted, logged, snippets, seconds, sums)

        def look() -> None:
            whole = batch if batch.whole is None else self.batches.whole(state.iteration - 1).to(batch.features.device)
            window.reading = self.health.look(state, whole)

        self.ranks.on_main(look)

    def settle(self) -> None:
        """Tells the log what is due, and judges it.

        Raises:
            TrainingError: the run cannot go on.
        """
        window = self.due
        if window is None:
            return
        named = zip(log_terms(self.config), window.sums.read()["sums"].tolist(), strict=True)
        sums = {name: value for name, value in named if name}
        if window.logged:
            entry = self._entry(window, sums)
            self.tell(entry)
            self.bar.note = shown(entry, self.config.method)
        self.due = None

        def judge() -> list[str]:
            if window.reading is None:
                return []
            return self.health.judge(window.reading, sums, window.counted, self.kept())

        if found := self.ranks.on_main(judge):
            self.tell({"iteration": window.iteration, "collapsed": found})

    def _entry(self, window: _Window, sums: dict[str, float]) -> dict[str, Any]:
        method = method_named(self.config.method)
        count = dict.fromkeys(sums, window.counted)
        if method.entered is not None:  # a term is averaged over the iterations that it enters
            steps = range(window.iteration - window.counted + 1, window.iteration + 1)
            active = [method.entered(self.config, i) for i in steps]
            count |= {name: max(1, sum(name in terms for terms in active)) for name in method.terms}
        means = {k: v if k.startswith("skipped") else v / count[k] for k, v in sums.items()}
        rate = window.snippets / max(window.seconds, 1e-9)
        return {"iteration": window.iteration, **means, "snippets_per_second": rate}


def shown(entry: dict[str, Any], method: str) -> str:
    """A line of the log for the progress bar."""
    skipped = f", {entry['skipped_steps']:.0f} steps skipped" if entry["skipped_steps"] else ""
    named = enumerate(method_named(method).terms.items())
    terms = [f"{called} {entry[name]:.{3 if i else 4}f}" for i, (name, called) in named]
    return f"loss {entry['total']:.4f} ({', '.join(terms)}){skipped}, {entry['snippets_per_second']:.0f} snippets/s"
