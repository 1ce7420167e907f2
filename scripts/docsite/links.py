"""Links between the repository's files become links between pages; what leads nowhere is an error."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from docsite.nav import ROOT, sources

LINK = re.compile(r"(!?)\[([^\]\n]+)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
MADE = {"docs/commands.md", "docs/configuration.md", "docs/ops.md", "docs/api.md", "docs/gpu.md"}


def slug(heading: str) -> str:
    """The anchor that the site and GitHub give a heading of plain words."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip())


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings; of a heading that stands twice the second has _1 behind it."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        name, i = slug(heading), 0
        while (name if i == 0 else f"{name}_{i}") in found:
            i += 1
        found.add(name if i == 0 else f"{name}_{i}")
    return found


def pages_by_file() -> dict[Path, str]:
    """Every file that is a page, and where pages are made from code, the file that they would be in."""
    found = {path.resolve(): name for name, path in sources().items()}
    found |= {(ROOT / name).resolve(): Path(name).stem for name in MADE}
    return found | {(ROOT / "README.md").resolve(): "index"}


def by_hand(text: str, file: Path, page: str, pictures: Path | None = None) -> str:
    """The text of `file` as the page `page`: links by page, or as text where a file is no page.

    Args:
        pictures: folder of the site's pages; pictures that the text shows are copied there.

    Raises:
        SystemExit: a link to a file that is not there.
    """
    pages = pages_by_file()
    here = os.path.dirname(page)

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        target, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not target:
            return match[0]
        path = (file.parent / target).resolve()
        if path in pages and not picture:
            to = os.path.relpath(f"{pages[path]}.md", here or ".")
            return f"[{words}]({to}{'#' + anchor if anchor else ''})"
        if not path.exists():
            raise SystemExit(f"docs: {file.relative_to(ROOT)}: {target} is not there")
        if picture:
            name = "-".join(path.relative_to(ROOT).parts)
            if pictures is not None:
                (pictures / "pictures").mkdir(exist_ok=True)
                shutil.copyfile(path, pictures / "pictures" / name)
            return f"![{words}]({os.path.relpath(f'pictures/{name}', here or '.')})"
        return words

    return LINK.sub(link, text)


def broken(pages: dict[str, str]) -> list[str]:
    """Links of the site's pages, as `page: target`, whose page or heading is not there."""
    heads = {name: anchors(text) for name, text in pages.items()}
    found = []
    for name, text in pages.items():
        for picture, _, target in LINK.findall(FENCE.sub("", text)):
            if picture or "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = target.partition("#")
            to = os.path.normpath(os.path.join(os.path.dirname(name), path.removesuffix(".md"))) if path else name
            if to not in heads or (anchor and anchor not in heads[to]):
                found.append(f"{name}: {target}")
    return found
