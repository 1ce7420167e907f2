"""What the documentation says can be done: Python runs, commands have their options, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from d2net.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts/docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(language):
    return [(page.name, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def test_commands_and_their_options_exist():
    found = 0
    text = "\n".join(text.replace("\\\n", " ") for _, text in blocks("sh"))
    text += "\n" + "\n".join(c for page in PAGES for c in re.findall(r"`(d2net [^`]+)`", page.read_text()))
    for line in re.findall(r"^(?:\$ )?(d2net .*)$", text, re.MULTILINE):
        name, *rest = shlex.split(line.partition("#")[0].replace("…", ""))[1:] or ["--help"]
        if name.startswith("-") or name == "COMMAND":
            continue
        assert name in COMMANDS, line
        options = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        asked = {word.partition("=")[0] for word in rest if word.startswith("-") and not re.match(r"-\d", word)}
        assert asked <= options, (line, asked - options)
        found += 1
    assert found > 10


def test_python_that_needs_no_data_runs():
    ran = 0
    for page, text in blocks("python"):
        code = compile(text, page, "exec")
        if ".npz" not in text and "my_video" not in text and "mine.py" not in text:
            exec(code, {})
            ran += 1
    assert ran


def test_every_field_command_and_op_has_its_place(site):
    from d2kernels import _PUBLIC
    from d2net.config import field_names

    configuration, commands, ops = site.configuration(), site.commands(), site.ops()
    assert all(f"| `{name.rpartition('.')[2]}` |" in configuration for name in field_names() if "." in name)
    assert all(f"\n## {name}\n" in commands for name in COMMANDS)
    assert all(f"\n## {name}\n" in ops for name in _PUBLIC)
    assert "`0.025:0.475:0.025`; paper `0.025:0.5:0.025`" in configuration


def test_links_between_pages_lead_somewhere(site):
    made = {name: text for name, text in ((p.stem, site.by_hand(p.read_text(), p.parent)) for p in PAGES)}
    assert "](videos.md)" in made["README"] or "](features.md)" in made["README"]
    with pytest.raises(SystemExit, match=r"nowhere\.md is not there"):
        site.by_hand("[a](nowhere.md)", ROOT)
