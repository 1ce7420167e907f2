"""The site's generated pages are complete, links lead somewhere, and commands have the options that pages give them."""

from __future__ import annotations

import inspect
import re
import shlex

import pages
import pytest
import typer
from docsite import links, markup, measured, nav, ops, reference
from pages import ROOT
from test_pages import ALL

import d2net
from d2net.cli import app
from d2net.config import Config, field_names, make_config
from d2net.methods import METHODS, settings_of
from d2net.presets import PRESETS, RECIPES

BACKENDS = ["use", "explain", "can_run", "select"]
COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def made(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return site.made(folder), folder


def test_commands_and_their_options_exist():
    found = 0
    text = "\n".join(b.text.replace("\\\n", " ") for p in ALL.values() for b in pages.blocks(p) if b.language == "sh")
    text += "\n" + "\n".join(c for p in ALL.values() for c in re.findall(r"`(d2net [^`]+)`", p.read_text()))
    for line in re.findall(r"^(?:\$ )?(d2net .*)$", text, re.MULTILINE):
        name, *rest = shlex.split(line.partition("#")[0].replace("…", ""))[1:] or ["--help"]
        if name.startswith("-") or name == "COMMAND":
            continue
        assert name in COMMANDS, line
        options = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        asked = {word.partition("=")[0] for word in rest if word.startswith("-") and not re.match(r"-\d", word)}
        assert asked <= options, (line, asked - options)
        found += 1
    assert found > 30


def test_every_field_has_a_place_a_meaning_and_its_defaults(made):
    text = made[0]["configuration"]
    for name in field_names():
        section, _, field = name.rpartition(".")
        part = text.partition(f"\n## {section}\n")[2] if section else text.partition("\n## ")[0]
        row = next(line for line in part.partition("\n## ")[0].splitlines() if line.startswith(f"| `{field}` |"))
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4 and cells[3], f"{name} has no description"
        if not section:
            continue
        for recipe in RECIPES:
            value = getattr(getattr(make_config(recipe=recipe), section), field)
            assert markup.cell(markup.code(value)) in cells[2], (name, recipe)
        for preset, by_recipe in PRESETS.items():
            assert all(name not in values or preset in cells[2] for values in by_recipe.values()), (name, preset)
        assert all(name not in settings_of(m, None) or f"; {m} " in cells[2] for m in METHODS), name
    assert "`0.025:0.475:0.025`; paper `0.025:0.5:0.025`" in text
    assert all(f"\n## {s}\n" in text for s, f in Config.model_fields.items() if hasattr(f.annotation, "model_fields"))


def test_every_command_op_and_public_name_has_its_place(made):
    text = made[0]
    assert all(f"\n## {name}\n" in text["commands"] for name in COMMANDS)
    for function, page in ops.functions().items():
        assert f"d2k.{function}(" in text[f"ops/{page}"] and f"](ops/{page}.md)" in text["ops"]
    assert all(f"\n### {name}\n" in text["api"] for name in d2net.__all__)
    assert all(f"\n### {name}\n" in text["api"] for name in ("Ragged", *reference.modules(), "use"))


def test_docstrings_of_public_names_say_what_they_take_and_raise():
    import d2kernels as d2k
    from d2kernels import nn

    owners = [(d2k, d2k._PUBLIC), (d2net, d2net.__all__), (nn, reference.modules()), (d2k.backends, BACKENDS)]
    for owner, names in owners:
        for name in names:
            value = getattr(owner, name)
            text = inspect.getdoc(value)
            assert text, f"{name} has no docstring"
            if not callable(value) or value is Config:
                continue
            arguments = re.search(r"\nArgs:\n(.*?)(\n\n(?=\S)|\Z)", text, re.DOTALL)
            said = re.findall(r"\w+", arguments[1]) if arguments else []
            missing = [p for p in inspect.signature(value).parameters if p not in said]
            assert not missing, f"{name} says nothing of {', '.join(missing)}"
            if inspect.isfunction(value):
                gives = owner is not d2k.backends and inspect.signature(value).return_annotation != "None"
                assert not gives or re.search("Returns:|^Reads |^The backbone", text), f"{name}: what does it give?"
                assert "\nRaises:\n" in text or "is a finding" in text, f"{name} lacks Raises"


def test_an_op_without_a_page_or_a_section_stops_the_site(monkeypatch):
    monkeypatch.setattr(ops, "functions", lambda: {"new_op": "new_op"})
    with pytest.raises(SystemExit, match=r"write docs/ops/new_op\.md"):
        ops.by_hand()
    monkeypatch.undo()
    monkeypatch.setattr(ops, "SECTIONS", ("Equation", "Verse"))
    with pytest.raises(SystemExit, match="lacks the sections Verse"):
        ops.by_hand()


def test_a_page_of_an_op_has_arguments_backends_and_measurements(made):
    text, folder = made
    page = text["ops/topk_pool"]
    assert "- `divisor`: used where k is None." in page and "**Raises**" in page
    assert "| `native` | CPU |" in page and "| `native` | NVIDIA GPU | CUDA; " in page
    rows = measured.measured("topk_pool")
    assert rows.table in page and ("THUMOS, forward, float32 | torch.topk, padded") in dict(rows.ratios)
    picture = (folder / "pictures/topk_pool.svg").read_text()
    assert "torch.topk, padded" in picture and "peer's time over ours" in picture
    assert measured.measured("no_such_op") is None


def test_gpu_status_says_plainly_when_nothing_ran(site, monkeypatch, tmp_path):
    import verified

    monkeypatch.setattr(verified, "RESULTS", tmp_path)
    standings = verified.standings
    monkeypatch.setattr(verified, "standings", lambda: standings(results=tmp_path, emulated=tmp_path / "none"))
    text = site.gpu.gpu()
    assert "Nothing has run on a GPU" in text
    assert all(f"| `{name}` |" in text for name in verified.kernels()) and "run on a GPU (" not in text


def test_links_lead_somewhere(made, tmp_path):
    text, _ = made
    assert links.broken(text) == []
    planted = {**text, "start": "[a](nowhere.md) [b](index.md#no-such-heading) [c](#neither)\n"}
    assert links.broken(planted) == ["start: nowhere.md", "start: index.md#no-such-heading", "start: #neither"]
    with pytest.raises(SystemExit, match=r"nowhere\.md is not there"):
        links.by_hand("[a](nowhere.md)", ROOT / "README.md", "index")
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links.by_hand((ROOT / page).read_text(), ROOT / page, page)


def test_every_page_is_in_the_navigation_once(made):
    text = nav.toml(made[0])
    for name in made[0]:
        assert text.count(f'"{name}.md"') == 1, name
    assert '"More" = [{ "A page" = "page.md" }]' in nav.toml({"page": "# A page\n"})


def test_markup_of_docstrings_and_signatures():
    def function(a: int, *, first: str = "x" * 60, second: float | None = None) -> list[int]:
        """Does it.

        Args:
            a, first: both of
                them.
            second: none.

        Raises:
            ValueError, TypeError: never.
        """
        return [a]

    text = markup.docstring(function.__doc__)
    assert "**Arguments**" in text and "- `a`, `first`: both of\nthem." in text
    assert "- `ValueError`, `TypeError`: never." in text
    shown = markup.signature("m.function", function)
    assert shown.startswith("m.function(\n    a: int,\n    *,\n    first: str = ") and shown.endswith(") -> list[int]")
