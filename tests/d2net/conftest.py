"""What the tests of commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from d2net import cli


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """d2net in this process: (exit status, standard output, standard error) of a call with these arguments."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d2net", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run
