"""The order of the pages, by section. A page of docs/ that is not named here stands under its first heading in More."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDEX = "index"  # the entry page
# Section to (page, title); a page is docs/<page>.md, one of ELSEWHERE, or made by one of docsite's modules.
SECTIONS: dict[str, list[tuple[str, str]]] = {
    "Start": [
        ("index", "What this is"),
        ("start", "Five minutes"),
        ("install", "Installing"),
        ("versions", "Supported versions"),
    ],
    "Use": [
        ("own_features", "Your own features"),
        ("videos", "Your own videos"),
        ("domain", "A new domain from nothing"),
        ("features", "Features that are not I3D"),
        ("formats", "Formats, by example"),
        ("data", "Converting and making up data"),
        ("evaluation", "Evaluation"),
        ("plots", "Plots"),
        ("reproduce", "THUMOS14 and ActivityNet 1.2"),
        ("methods", "Methods of the paper's tables"),
        ("distributed", "Several GPUs or machines"),
        ("large", "Many videos, long videos"),
        ("threads", "Machines that others use"),
    ],
    "Operations": [("ops", "Overview"), ("trainer", "In your own trainer")],
    "Reference": [
        ("commands", "Command line"),
        ("configuration", "Configuration"),
        ("api", "Python API"),
        ("changelog", "Changes"),
    ],
    "Inside": [
        ("internals", "How it works"),
        ("numerics", "Numerics"),
        ("performance", "Performance"),
        ("report", "Every measurement"),
        ("gpu", "GPU status"),
        ("contributing", "Contributing"),
    ],
}
ELSEWHERE = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "report": "benchmarks/report.md",
}
UNDER = {"ops/": "Operations", "notes/": "Inside"}  # pages in a folder, and the section that they end


def sources() -> dict[str, Path]:
    """Page to the file that it is written in: docs/*.md, docs/ops/<op>.md, benchmarks/notes/<note>.md and ELSEWHERE."""
    found = {name: ROOT / path for name, path in ELSEWHERE.items()}
    found |= {f"notes/{path.stem}": path for path in sorted((ROOT / "benchmarks/notes").glob("*.md"))}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        found[path.relative_to(ROOT / "docs").with_suffix("").as_posix()] = path
    return found


def title_of(text: str) -> str:
    """A page's first heading."""
    return next(line for line in text.splitlines() if line.startswith("# "))[2:].strip().strip("`")


def _short(name: str, text: str) -> str:
    return f"Notes: {title_of(text).partition(':')[0]}" if name.startswith("notes/") else title_of(text)


def toml(pages: dict[str, str]) -> str:
    """The value of nav: SECTIONS as far as their pages are there, folders as UNDER says, and the rest under More."""
    left = {name: text for name, text in pages.items() if not name.startswith(tuple(UNDER))}
    sections = {}
    for section, listed in SECTIONS.items():
        found = [(title, name) for name, title in listed if left.pop(name, None) is not None]
        for folder in (f for f, of in UNDER.items() if of == section):
            found += [(_short(name, text), name) for name, text in pages.items() if name.startswith(folder)]
        sections[section] = found
    if left:
        sections["More"] = [(title_of(text), name) for name, text in left.items()]
    lines = []
    for section, found in sections.items():
        entries = ", ".join(f'{{ "{title}" = "{name}.md" }}' for title, name in found)
        lines.append(f'  {{ "{section}" = [{entries}] }},')
    return "\n".join(lines)
