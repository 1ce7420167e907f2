"""Every command and every Python block of the documentation runs, in the order in which a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pages
import pytest
from pages import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL = {p.relative_to(ROOT).as_posix(): p for p in FILES}
# What a page is given that does not make it itself, of the shared data set.
GIVEN = {
    "README.md": ["features.npz", "annotations.json", "annotations_12.json"],
    "docs/own_features.md": ["features.npz", "annotations.json"],
    "docs/features.md": ["features.npz", "annotations_12.json"],
    "docs/methods.md": ["features.npz", "annotations.json", "annotations_12.json"],
    "docs/evaluation.md": ["annotations.json", "detections.json"],
    "docs/data.md": [
        "annotations.json",
        "Thumos14reduced-I3D-JOINTFeatures.npy",
        "Thumos14reduced-Annotations",
        "csv_mean_100",
        "results.pkl",
        "thumos_14.json",
    ],
    "docs/reproduce.md": [
        "Thumos14reduced-I3D-JOINTFeatures.npy",
        "Thumos14reduced-Annotations",
        "ActivityNet1.2-I3D-JOINTFeatures.npy",
        "ActivityNet1.2-Annotations",
        "THUMOS14",
        "thumos",
    ],
}
# Beginnings of commands, or words of Python blocks, that do not run here, and where they do.
NOT_RUN = {
    "pip install": "changes the environment; scripts/install.py is what CI runs",
    "make ": "CI runs make itself",
    "d2net parity": "tests/parity runs it",
    "d2net extract": "tests/d2net/video runs it, where PyAV is",
    "d2net train --features features --annotations labels.json": "of extracted videos: tests/d2net/video",
    "d2net localize --checkpoint run --video": "tests/d2net/video runs it",
    "d2net demo": "CI runs the demo",
    "d2net plot demo_output/run": "of the demo; tests/d2net/test_plot.py plots others",
    "d2net plot run baseline --embedding": "tests/d2net/test_plot.py runs it, where scikit-learn is",
    "mine.py": "needs a network of the reader's",
}
# Pages whose commands need what this machine may lack, and who runs those: only their options are checked.
ELSEWHERE = {"docs/install.md": "make wheel", "docs/distributed.md": "tests/d2net/distributed"}


@pytest.mark.parametrize("name", [name for name in ALL if name not in ELSEWHERE])
def test_page_runs(name, shared_data, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    folder.mkdir()
    for given in GIVEN.get(name, ()):
        source = shared_data / given
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / given)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    ran = pages.run(ALL[name], NOT_RUN)
    wanted = {b.language for b in pages.blocks(ALL[name])} & {"python"}
    assert not wanted or ran["python"] or "mine.py" in ALL[name].read_text()


def test_what_is_given_and_left_out_is_needed():
    """Names that no page has any more are out of date."""
    text = "\n".join(p.read_text() for p in ALL.values())
    assert all(start.strip() in text for start in NOT_RUN)
    assert GIVEN.keys() <= ALL.keys()


def test_a_page_with_a_wrong_command_or_block_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for text, error in (
        ("```sh\nd2net inspect nowhere.npz nowhere.json\n```\n", AssertionError),
        ("```sh\nrm nothing\n```\n", AssertionError),
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
    ):
        page.write_text(text)
        with pytest.raises(error):
            pages.run(page, {})
    page.write_text('```json title="a.json"\n{"a": 1}\n```\n')
    assert pages.run(page, {}) == {"python": 0, "commands": 0} and os.path.exists("a.json")


def test_block_titles_are_plain_names():
    titles = [b.title for p in ALL.values() for b in pages.blocks(p) if b.title]
    assert titles and all(Path(t).name == t for t in titles)


def table_rows(text: str) -> list[list[str]]:
    """Every row of numbers of a page's tables, without the method's name."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row[1:] for row in rows if row[0] not in ("method", "loss", "---") and row[1]]


def test_published_tables_are_the_papers(shared_dir):
    text = (shared_dir / "paper/d2net.txt").read_text()
    published = set()
    for line in re.sub(r"<[^>]*>|\[[^\]]*\]|\$[^$]*\$", "", text).splitlines():
        cells = [re.findall(r"(?<!\S)(?:\d+\.\d|-)(?!\S)", cell) for cell in line.split("\t")[1:]]
        for k in range(max(map(len, cells), default=0)):
            published.add(tuple(cell[k] for cell in cells if len(cell) > k))
    rows = table_rows(ALL["docs/reproduce.md"].read_text().partition("## As published")[2])
    assert len(rows) == 13 + 8 + 3
    assert [row for row in rows if tuple(row) not in published] == []
