"""The container file: what the script that stands in for a builder makes of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def container(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("container", ROOT / "scripts/container.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorded:
    """A stage that notes what it is asked for."""

    def __init__(self, image, folder):
        self.image, self.folder, self.env, self.args, self.where, self.entry = image, folder, {}, {}, "/", []
        self.done = []

    def path(self, inside):
        return self.folder / str(inside).lstrip("/")

    def run(self, command):
        self.done.append((command[-1], dict(self.args)))

    def copy(self, source, what, target):
        self.done.append((source, what, target))


def test_instructions_without_comments_and_on_one_line(container):
    text = '# A\nFROM a AS b\nRUN one && \\\n    two\n# C\nENTRYPOINT ["d2net"]\n'
    said = container.instructions(text)
    assert said[0] == ("FROM", "a AS b") and said[2] == ("ENTRYPOINT", '["d2net"]')
    assert said[1][1].split() == ["one", "&&", "two"]
    assert container.filled("${A}/$B:$PATH", {"A": "x", "B": "y"}) == "x/y:$PATH"


def test_the_file_builds_in_one_stage_and_installs_in_another(container, monkeypatch, tmp_path):
    monkeypatch.setattr(container, "Stage", Recorded)
    stage = container.built(ROOT / "Containerfile", tmp_path, {"TORCH_INDEX": "", "BASE": "debian:trixie-slim"})
    assert stage.image == "debian:trixie-slim" and stage.entry == ["d2net"] and stage.where == "/data"
    assert stage.env["PATH"].startswith("/opt/d2net/bin:/usr/local/sbin")
    copies = [step for step in stage.done if len(step) == 3]
    assert copies[0] == (tmp_path / "builder", "/wheels", "/wheels")
    commands = " ".join(step[0] for step in stage.done if len(step) == 2)
    assert "pip install" in commands and "g++" not in commands
    assert all(args.get("TORCH_INDEX", "") == "" for _, args in (s for s in stage.done if len(s) == 2))


def test_what_it_cannot_make_is_named(container, tmp_path):
    with pytest.raises(SystemExit, match=r"nvidia/cuda:13 is not to be made with debootstrap"):
        container.Stage("nvidia/cuda:13", tmp_path / "a")
    file = tmp_path / "Containerfile"
    file.write_text("RUN a\n")
    with pytest.raises(SystemExit, match="RUN before any FROM"):
        container.built(file, tmp_path, {})


def test_without_root_or_debootstrap_it_says_what_to_do(container, monkeypatch):
    monkeypatch.setattr(container.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["container.py"])
    with pytest.raises(SystemExit, match="build the Containerfile itself"):
        container.main()
