"""Goes a new user's way in an environment of its own, from the documentation alone, and says how long each step took.

python scripts/new_user.py [--python 3.12] [--pages start domain] [--out table.md]

Installs torch and this checkout by pip into an empty environment, runs `d2net demo`, then every command of the pages'
`sh` blocks in their order, each page in an empty folder. The first command that fails ends it with what it printed.
Where PIP_FIND_LINKS or an index of one's own is set, pip takes it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import venv
from pathlib import Path

from fresh import FOREIGN, PINS, ROOT, Failed, files, run


def commands(page: Path) -> list[str]:
    """A page's commands, those that are continued over lines whole."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def checkout(folder: Path) -> Path:
    """A copy of the project's files, so that nothing built here is used."""
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


class Way:
    """The environment, and the seconds of each step gone."""

    def __init__(self, work: Path, python: str | None) -> None:
        self.took: list[tuple[str, float]] = []
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.env = clean | {"PATH": f"{work / 'env/bin'}:{os.environ['PATH']}"}
        if python:
            self.timed(f"{python} -m venv env", work)
        else:
            venv.create(work / "env", with_pip=True)

    def timed(self, command: str, where: Path, shown: str = "") -> None:
        start = time.monotonic()
        run(["sh", "-c", command], where, self.env)
        self.took.append((shown or command, time.monotonic() - start))
        print(f"{self.took[-1][1]:6.1f} s  {self.took[-1][0]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", help="the Python of the environment (default: the running one)")
    parser.add_argument("--pages", nargs="+", default=["start", "domain"], help="pages of docs/, by name")
    parser.add_argument("--out", type=Path, help="where to write the times as a Markdown table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d2k-user-") as name:
        work = Path(name)
        way = Way(work, given.python)
        source = checkout(work / "d2kernels")
        pins = shlex.quote(str(PINS))
        (torch,) = re.findall(r"^torch==\S+", PINS.read_text(), re.MULTILINE)
        try:
            way.timed(f"pip install -q -c {pins} {torch}", source, f"pip install {torch}")
            way.timed(f"pip install -q -c {pins} '.[plot]'", source, "pip install '.[plot]'")
            for page in ("demo", *given.pages):
                (work / page).mkdir()
                for command in ["d2net demo"] if page == "demo" else commands(ROOT / f"docs/{page}.md"):
                    way.timed(command, work / page)
        except Failed as failed:
            print(failed, file=sys.stderr)
            return 1
    total = sum(seconds for _, seconds in way.took)
    print(f"{total:6.1f} s  in all")
    if given.out:
        rows = [f"| `{command}` | {seconds:.0f} |" for command, seconds in way.took]
        given.out.write_text("\n".join(["| step | seconds |", "| --- | --- |", *rows, f"| in all | {total:.0f} |", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
