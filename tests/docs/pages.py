"""Runs a page: its titled blocks become files, its commands and its Python run in the order in which they stand."""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from d2net import cli, open_features

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
# Added to a command, so that a page of many trainings takes seconds: fewer steps, seeds and decoders, nothing else.
SHORTER = {
    "train": ["--set", "train.iterations=12", "--set", "train.evaluate_every=6", "--set", "train.log_every=4"],
    "ablate": ["--set", "train.iterations=3", "--seeds", "1"],
    "tune": ["--settings", "20"],
    "synth": ["--videos", "24"],
}
STEPS = re.compile(r'"train\.iterations": \d+|(?<=d2net\.auto_config\(features, annotations)(?=\))')

FEWER = ', overrides={"train.iterations": 12}'  # what preset auto is told in Python


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, title, textwrap.dedent(text)) for _, language, title, text in found]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a shell block, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.removeprefix("$ "), comments=True):
            yield words


def d2net(words: list[str]) -> int:
    """The exit status of `d2net …` in this process."""
    before = sys.argv
    sys.argv = [*words, *SHORTER.get(words[1], [])]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def python(block: Block, where: str) -> None:
    code = STEPS.sub(lambda m: '"train.iterations": 12' if m[0] else FEWER, block.text)
    exec(compile(code, where, "exec"), {"my_video": _video()})


def _video() -> object:
    """A video's features, where the page is given any: what README calls my_video."""
    if not Path("features.npz").exists():
        return None
    features = open_features("features.npz")
    return features[features.names[0]]


def run(page: Path, not_run: dict[str, str]) -> dict[str, int]:
    """Runs a page in the current folder; how many blocks of Python and how many commands ran.

    Args:
        not_run: beginnings of commands, and words of Python blocks, that are run elsewhere or nowhere, with the reason.

    Raises:
        AssertionError: a command failed, or is none of ours and not in not_run.
    """
    ran = {"python": 0, "commands": 0}
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and not any(word in block.text for word in not_run):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                python(block, page.name)
            ran["python"] += 1
        elif block.language == "sh":
            for words in commands(block.text):
                if any(" ".join(words).startswith(start) for start in not_run):
                    continue
                assert words[0] == "d2net", f"{page.name}: run it, or say why not: {' '.join(words)}"
                assert d2net(words) == 0, f"{page.name}: {' '.join(words)}"
                ran["commands"] += 1
    return ran
