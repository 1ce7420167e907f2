"""One of several trainings side by side: a process that `beside` has started."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from d2net.config import Config
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore
from d2net.data.shared import Shared, attached
from d2net.distributed.ranks import portable
from d2net.terminal import told_to


class Work(NamedTuple):
    """A training: arguments of `train_once`, the features that are shared, and torch's number of threads."""

    store: FeatureStore
    annotations: Annotations
    folder: Path
    config: Config
    given: dict[str, Any]
    shared: Shared
    threads: int


class _Said(io.TextIOBase):
    """Standard output, which the starting process prints."""

    def __init__(self, line: Connection):
        self.line = line

    def write(self, text: str) -> int:
        self.line.send(("said", text))
        return len(text)


def main() -> None:
    """Reads the pipe's descriptor and the work from standard input, and trains."""
    line = Connection(pickle.load(sys.stdin.buffer), readable=False)
    with line:
        try:
            work: Work = pickle.load(sys.stdin.buffer)
            sys.stdout = _Said(line)
            warnings.simplefilter("always")  # the starting process has the user's filters
            warnings.showwarning = lambda text, category, *_: line.send(("warned", str(text), category))
            with told_to(lambda *said: line.send(("bar", *said))):
                _train(work)
            line.send(("done",))
        except KeyboardInterrupt as stop:
            line.send(("stopped", str(stop).partition(";")[0] or "was interrupted"))
        except Exception as error:
            with suppress(BrokenPipeError):  # of a starting process that is gone
                line.send(("failed", portable(error)))


def _train(work: Work) -> None:
    from d2net.api.single import train_once

    torch.set_num_threads(work.threads)
    cache = attached(work.store, work.shared, work.config.train)
    train_once(work.store, work.annotations, work.folder, work.config, cache=cache, **work.given)
