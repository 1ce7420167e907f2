"""Commands whose reader goes away, as `head` does. Needs the standard library alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Ends the process with status 1, and nothing said, where who reads standard output has closed it."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what fails later would be told by the interpreter
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor can anything be flushed at exit
        sys.exit(1)
