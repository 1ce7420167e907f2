"""The command line: one file a command."""

from __future__ import annotations

import sys
import warnings

import typer

from d2net.cli.ablate import ablate
from d2net.cli.demo import demo
from d2net.cli.evaluate import evaluate
from d2net.cli.export import export
from d2net.cli.localize import localize
from d2net.cli.parity import parity
from d2net.cli.train import train

app = typer.Typer(
    name="d2net",
    help="Weakly-supervised temporal action localization: train on video-level labels, get segments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (train, localize, evaluate, ablate, export, parity, demo):
    app.command()(command)


def _one_line(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: bad input is one line on standard error and exit status 2."""
    from d2kernels.backends import BackendUnavailable

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line
            app()
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, TypeError, BackendUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
