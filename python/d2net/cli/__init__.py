"""The command line: one file a command."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
import warnings
from typing import Annotated

import typer

from d2kernels._pipe import readers_may_leave
from d2net.cli.ablate import ablate
from d2net.cli.convert import convert
from d2net.cli.demo import demo
from d2net.cli.evaluate import evaluate
from d2net.cli.export import export
from d2net.cli.extract import extract
from d2net.cli.inspect import inspect
from d2net.cli.localize import localize
from d2net.cli.optional_value import optional_value
from d2net.cli.parity import parity
from d2net.cli.plot import plot
from d2net.cli.report import compare, report
from d2net.cli.synth import synth
from d2net.cli.train import train
from d2net.cli.tune import tune
from d2net.terminal import printable

BAD_INPUT, BUG = 2, 70
SHARED = ("train", "localize", "evaluate")  # what processes that torchrun starts do together

app = typer.Typer(
    name="d2net",
    help="Weakly-supervised temporal action localization: train on video-level labels, get segments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (
    extract,
    inspect,
    convert,
    train,
    localize,
    evaluate,
    tune,
    ablate,
    plot,
    report,
    compare,
    synth,
    export,
    parity,
    demo,
):
    app.command(cls=optional_value("--errors") if command is evaluate else None)(command)


def _version(asked: bool) -> None:
    if asked:
        from d2kernels import __version__

        print(f"d2net {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand in SHARED or "RANK" not in os.environ:
        return
    from d2net.distributed.launch import rank, refuse

    if rank():  # process 0 says it
        raise typer.Exit(BAD_INPUT)
    refuse(str(context.invoked_subcommand), "start it without torchrun")


def _one_line(message: Warning | str, *_: object) -> None:
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def _said(error: BaseException) -> str:
    """What a user is told of bad input or a machine's limits; empty where the error is a bug."""
    from d2kernels.backends import BackendUnavailable

    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return name + (error.strerror or text or type(error).__name__)
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' if text else ''}{text}; use a smaller batch, or shorter videos"
    if isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text):
        return f"not enough memory: {text[:200]}; use a smaller batch, or shorter videos"
    if isinstance(error, (ValueError, ImportError, BackendUnavailable)):
        return text or type(error).__name__
    return ""


def _report(error: BaseException) -> int:
    """Prints one line, unless another process of the run does; a bug's traceback goes to a file."""
    voice = getattr(error, "voice", None)  # of `distributed.voice`, where several processes run
    if voice is None:
        return _tell(error)
    if not voice.wanted():
        return BAD_INPUT if _said(error) else BUG
    status = _tell(error, voice.process)
    voice.told()
    return status


def _tell(error: BaseException, process: int = 0) -> int:
    if said := _said(error):
        if process and not said.startswith("process "):
            said = f"process {process}: {said}"
        print(f"error: {printable(said)}", file=sys.stderr)
        return BAD_INPUT
    kept = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="d2net-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        kept = f"; please report it with {file.name}"
    except OSError:
        pass
    what = printable(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    print(f"error: this is a bug in d2net, not in your input: {what}{kept}", file=sys.stderr)
    return BUG


def _sleep_while_waiting() -> None:
    """OpenMP's threads sleep where they wait for work, unless the user has chosen: spinning ones make a machine that
    others use many times slower. To be called before torch loads OpenMP."""
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def main() -> None:
    """Entry point: bad input is one line on standard error and exit status 2, a bug one line and 70."""
    _sleep_while_waiting()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label that the locale lacks is no error
    try:
        with warnings.catch_warnings(), readers_may_leave():
            warnings.showwarning = _one_line
            app()
    except Exception as error:
        sys.exit(_report(error))
