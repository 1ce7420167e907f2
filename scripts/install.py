"""Installs both packages, editable, into the environment of the Python that runs this; `make install` calls it.

Requirements that are there are kept, torch above all; missing ones are installed at the versions of constraints.txt.
Where nothing is missing, no network is needed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import tomllib
except ImportError:
    raise SystemExit(f"install: {sys.executable} is older than Python 3.11, which is needed") from None
try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("plot", "video", "test", "bench", "dev", "docs")


def installed(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", *arguments]
    print("+", shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def requirements(tools_of: str | None = None) -> tuple[list[Requirement], list[Requirement]]:
    """What running needs, and what compiling, tests, plots, benchmarks and lint need; or one extra's alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if tools_of:
        return [], [Requirement(r) for r in project["project"]["optional-dependencies"][tools_of]]
    tools = [*project["build-system"]["requires"], *(tool for tool in ("cmake", "ninja") if not shutil.which(tool))]
    needed = [*(tool for tool in tools if tool.startswith("setuptools")), *project["project"]["dependencies"]]
    extra = [r for name in EXTRAS for r in project["project"]["optional-dependencies"][name]]
    return [Requirement(r) for r in needed], [Requirement(r) for r in (*tools, *extra)]


def pins() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line)}


def missing(wanted: list[Requirement], pinned: dict[str, str]) -> list[str]:
    """The requirements that the environment does not satisfy, or satisfies at another version than `pinned`."""
    result = []
    for requirement in wanted:
        version = installed(requirement.name)
        if version is None and requirement.name == "torch" and importlib.util.find_spec("torch"):
            continue  # importable without metadata: kept as it is
        pin = pinned.get(canonicalize_name(requirement.name))
        if (
            version is None
            or not requirement.specifier.contains(version, prereleases=True)
            or (pin is not None and version.split("+")[0] != pin)
        ):
            result.append(str(requirement))
    return result


def install(wanted: list[Requirement], own: bool, torch: str | None) -> None:
    pinned = pins()
    kept = {name: installed(name) for name in pinned}
    if not own:
        pinned = {name: version for name, version in pinned.items() if kept[name] is None}
    if torch or kept.get("torch"):
        pinned.pop("torch", None)
    lacking = missing(wanted, pinned if own else {})
    if not lacking:
        return
    # What is there stays as it is unless a requirement excludes it, so that torch's own dependencies stay whole.
    if kept.get("torch"):
        pinned["torch"] = kept["torch"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        constraints.flush()
        pip("-c", constraints.name, *lacking)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", action="store_true", help="the environment is ours: pins are enforced")
    parser.add_argument("--torch", default="", help="torch requirement, or any arguments of pip install that bring it")
    parser.add_argument("--tools", metavar="EXTRA", help="only what this extra names, and not the packages themselves")
    arguments = parser.parse_args()
    if arguments.torch and not arguments.tools:
        pip(*shlex.split(arguments.torch))
    needed, extra = requirements(arguments.tools)
    try:
        install(needed, arguments.own, arguments.torch)
    except subprocess.CalledProcessError:
        raise SystemExit("install: pip could not install what is needed to run; its message is above") from None
    try:
        install(extra, arguments.own, arguments.torch)
    except subprocess.CalledProcessError:
        if arguments.own:
            raise SystemExit("install: pip could not install the tools to build and test; see above") from None
        print("install: going on without some tools to compile, test, plot, benchmark or lint", file=sys.stderr)
    if arguments.tools:
        return
    pip("--no-deps", "--no-build-isolation", "--quiet", "-e", str(ROOT))


if __name__ == "__main__":
    main()
