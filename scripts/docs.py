"""Builds the documentation's site into build/site: `make docs`. Links that lead nowhere are errors.

Pages of docs/ as they are; beside them pages that are made from the code, so that they cannot lag behind it: every
configuration field, every command, every op, the Python API and what has run on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT), str(ROOT / "python")]

from docsite import commands, configuration, gpu, links, nav, ops, reference  # noqa: E402

PAGES = ROOT / "build/docs"
STYLE = """
@media screen and (min-width: 76.25em) { .md-grid { max-width: 72rem; } }
.md-typeset table:not([class]) th { min-width: 0; }
.md-typeset table:not([class]) td:first-child code { white-space: nowrap; }
.md-nav .md-nav__link--active, .md-nav .md-nav__link--active .md-ellipsis { color: #2f45c5; }
"""  # the last line: the theme's own blue has too little contrast on what it marks
# The theme's script makes these parts of code blocks later on: what scrolls is reached by keys, landmarks have names.
SCRIPT = """
const reach = () => {
  document.querySelectorAll(".md-code__content, .md-typeset__scrollwrap").forEach(part => { part.tabIndex = 0; });
  document.querySelectorAll(".md-code__nav").forEach((part, i) => { part.ariaLabel = `Code ${i + 1}`; });
};
new MutationObserver(reach).observe(document.body, {childList: true, subtree: true});
reach();
"""
SETTINGS = """
[project]
site_name = "d2kernels"
site_description = "Fast training and localization on ragged sequences in time"
docs_dir = "docs"
site_dir = "site"
extra_css = ["style.css"]
extra_javascript = ["keys.js"]
nav = [
{nav}
]
[project.theme]
features = ["navigation.sections", "navigation.top", "search.highlight", "content.code.copy"]
[project.markdown_extensions]
{extensions}
"""
# The generator's own set, but for emoji and for a link at each line of code, which has no name to read out.
EXTENSIONS: dict[str, str] = {
    "toc": "permalink = true",
    "pymdownx.highlight": 'line_spans = "__span", pygments_lang_class = true',
    "pymdownx.arithmatex": "generic = true",
    **dict.fromkeys(("abbr", "admonition", "attr_list", "def_list", "footnotes", "md_in_html"), ""),
    **{
        f"pymdownx.{name}": ""
        for name in ("betterem", "caret", "details", "inlinehilite", "magiclink", "mark", "smartsymbols", "superfences")
    },
}


def made(pictures: Path | None = None) -> dict[str, str]:
    """Every page's text by its name; pictures go into that folder."""
    files = nav.sources()
    pages = {n: links.by_hand(p.read_text(encoding="utf-8"), p, n, pictures) for n, p in files.items()}
    for name in ops.by_hand():
        pages[name] = ops.page(name.removeprefix("ops/"), pages[name], pictures)
    pages |= {"ops": ops.overview(), "commands": commands.commands(), "configuration": configuration.configuration()}
    return pages | {"api": reference.api(), "gpu": gpu.gpu()}


def main() -> int:
    shutil.rmtree(PAGES, ignore_errors=True)
    for folder in ("", *nav.UNDER):
        (PAGES / folder).mkdir(parents=True, exist_ok=True)
    (PAGES / "style.css").write_text(STYLE, encoding="utf-8")
    (PAGES / "keys.js").write_text(SCRIPT, encoding="utf-8")
    pages = made(PAGES)
    for name, text in pages.items():
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    if wrong := links.broken(pages):
        raise SystemExit("docs: links that lead nowhere: " + "; ".join(wrong))
    extensions = "\n".join(f'"{name}" = {{ {options} }}' for name, options in EXTENSIONS.items())
    settings = ROOT / "build/zensical.toml"
    settings.write_text(SETTINGS.format(nav=nav.toml(pages), extensions=extensions), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(settings)]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
