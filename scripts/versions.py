"""Tries the package with the oldest and the newest versions of what it needs: `make versions`. Writes docs/versions.md.

python scripts/versions.py [NAME ...] [--wheels dist] [--write]

Each set gets an environment of its own (torch's CUDA wheels are gigabytes; uv keeps one copy of each), the wheel that
`make wheel` built for its Python, and an agreed part of the tests. What is not named is the newest that is compatible,
but for "oldest", where everything that pyproject.toml names is at its lower bound.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import shutil
import sys
import tomllib
from pathlib import Path

from fresh import ROOT, Environment, Failed, interpreter, release, unpacked

WORK = ROOT / "build/versions"
RECORD, PAGE = ROOT / "docs/versions.json", ROOT / "docs/versions.md"
EXTRAS = ("train", "plot", "safetensors", "video")
SETS: dict[str, tuple[str, list[str]]] = {
    "oldest": ("3.11", []),
    "torch 2.9": ("3.11", ["torch==2.9.1", "numpy==1.26.4"]),
    "torch 2.10": ("3.11", ["torch==2.10.0", "numpy==2.4.6"]),
    "torch 2.13": ("3.12", ["torch==2.13.0", "numpy==1.26.4"]),
    "newest": ("3.13", ["torch", "numpy"]),
}
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
SHOWN = ("torch", "numpy", "triton", "pydantic", "typer", "pyyaml", "rich", "h5py", "matplotlib", "safetensors", "av")
TESTS = (
    "tests/ops/test_topk_pool.py",
    "tests/ops/test_connected_components.py",
    "tests/ops/test_nms.py",
    "tests/ops/test_attention_pool.py",
    "tests/test_ragged.py",
    "tests/test_nn.py",
    "tests/triton/test_pooling.py::test_one_sequence_alone",
    "tests/triton/test_pooling.py::test_every_dtype",
    "tests/d2net/test_config.py",
    "tests/d2net/test_feature_formats.py",
    "tests/d2net/test_evaluation.py",
    "tests/d2net/test_cli.py::test_train_localize_evaluate",
    "tests/d2net/test_cli.py::test_every_command_has_help",
    "tests/d2net/test_cli.py::test_any_error_is_one_line",
    "tests/d2net/video/test_decode.py",
)


def requirements() -> list[str]:
    """What pyproject.toml asks for, with its lower bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for name in EXTRAS for r in project["optional-dependencies"][name]]
    return [*project["dependencies"], *extras]


def tried(name: str, wheels: Path) -> dict[str, str]:
    """One row: versions, and what the tests said."""
    wanted, pins = SETS[name]
    python = interpreter(wanted)
    tag = f"cp{wanted.replace('.', '')}"
    found = sorted(wheels.glob(f"*-{tag}-*manylinux*.whl"), key=lambda path: ("+" in path.name, path.name))
    found += wheels.glob("*-none-any.whl")
    archives = sorted(wheels.glob("*.tar.gz"))
    if not found or not archives:
        make = f"make wheel ARGS='any cpu --no-test --python {wanted}'"
        raise SystemExit(f"{wheels} has no sdist or no wheel for {tag}; {make}")
    env = Environment(WORK / re.sub(r"\W+", "-", name), python)
    lowest = ["--resolution", "lowest-direct"] if name == "oldest" else []
    env.install(*lowest, *requirements(), *pins, pins=None)
    env.install(*TOOLS, *pins, pins=None)
    env.install("--no-deps", str(found[0]), pins=None)
    sources = unpacked(archives[-1], WORK / "sdist")
    place = env.folder / "tests-alone"
    shutil.copytree(sources, place, ignore=shutil.ignore_patterns("d2kernels", "python", "csrc"))
    kernels = "none" if found[0].name.endswith("-none-any.whl") else "compiled"
    row = {"set": name, "python": release(python), **env.versions(*SHOWN), "kernels": kernels}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "sanitize"]
    try:
        said = env.run(*command, "-n", "2", "--dist=loadfile", *TESTS, where=place)
        row["result"] = next(line for line in reversed(said.splitlines()) if " passed" in line).partition(" in ")[0]
    except Failed as error:
        print(error, flush=True)
        row["result"] = "FAILED"
    row["date"] = datetime.date.today().isoformat()
    return row


def page(record: dict[str, dict[str, str]]) -> str:
    """docs/versions.md."""
    lines = [
        "# Supported versions",
        "",
        "What `make versions` installed, each set in an environment of its own, and what an agreed part of the tests",
        "said there: ops on every backend that a CPU has (Triton's kernels interpreted), configuration, formats,",
        "checkpoints, evaluation and the command line, against the wheel that `make wheel` built. The lower bounds in",
        f'`pyproject.toml` are those of the row "oldest". {platform.system()} {platform.machine()}, no GPU.',
        "Triton's interpreter runs with NumPy 2.4 from Triton 3.7 on; where it does not its tests are skipped.",
        "",
        "| " + " | ".join(["set", "Python", *SHOWN, "kernels", "tests", "date"]) + " |",
        "| " + " | ".join(["---"] * (len(SHOWN) + 5)) + " |",
    ]
    for name in (n for n in SETS if n in record):
        row = record[name]
        cells = [name, row["python"], *(row[n] for n in SHOWN), row["kernels"], row["result"], row["date"]]
        lines.append("| " + " | ".join(cells) + " |")
    if missing := [name for name in SETS if name not in record]:
        lines += ["", f"Not yet run to their end: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"which ones; default: {', '.join(SETS)}")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="where make wheel put them")
    parser.add_argument("--write", action="store_true", help="keep what was found in docs/versions.json and .md")
    asked = parser.parse_args()
    if wrong := set(asked.sets) - SETS.keys():
        parser.error(f"{', '.join(sorted(wrong))}: choose from {', '.join(SETS)}")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    failed = False
    for name in asked.sets or SETS:
        row = tried(name, asked.wheels.resolve())
        failed |= row["result"] == "FAILED"
        record[name] = row
        print(json.dumps(row), flush=True)
        if asked.write:
            RECORD.write_text(json.dumps(record, indent=1) + "\n")
            PAGE.write_text(page(record))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
