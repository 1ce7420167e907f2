"""Environments of their own for what is built or tried: made by uv, no compiler and nothing of this checkout in sight.

Where pip is told of a folder of wheels (PIP_FIND_LINKS), uv looks there too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints.txt"
# What would lend another installation's packages, or compile with what an installed package does not bring.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH")
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "nvcc", "cmake")


class Failed(Exception):
    """A command that did not succeed; its text is what it printed."""


def uv() -> str:
    """The program uv, of the running Python's environment or of PATH."""
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        raise SystemExit("uv is not there: pip install -c constraints.txt '.[release]'")
    return found


def interpreter(name: str) -> str:
    """The path of a Python given as a path, as "3.12" or as a program on PATH; uv's and pyenv's are found as well."""
    command = [uv(), "python", "find", "--no-project", "--no-config", name]
    env = {**os.environ, "PYENV_VERSION": name}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"no Python {name} here: {done.stderr.strip()}")
    return done.stdout.strip()


def release(python: str) -> str:
    """The version of a Python in two numbers, as in 3.12."""
    return run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()


class Environment:
    """A virtual environment in `folder`, made anew with the Python at `python` unless it is kept."""

    def __init__(self, folder: Path, python: str, keep: bool = False) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        if not (keep and self.python.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            run([uv(), "venv", "--quiet", "--no-project", "--no-config", "--python", python, str(folder)])

    def install(self, *what: str, pins: Path | None = PINS) -> None:
        """Installs requirements, wheels or any arguments of `uv pip install`, at the versions that `pins` has."""
        env = dict(os.environ)
        env.setdefault("UV_FIND_LINKS", ",".join(env.get("PIP_FIND_LINKS", "").split()))
        env.setdefault("UV_HTTP_TIMEOUT", "600")
        held = ["--constraint", str(pins)] if pins else []
        run([uv(), "pip", "install", "--quiet", "--no-config", "--python", str(self.python), *held, *what], env=env)

    def versions(self, *names: str) -> dict[str, str]:
        """Version by distribution, "-" where it is not installed."""
        code = "import importlib.metadata as m, sys\nhas = {d.name.lower(): d.version for d in m.distributions()}\n"
        code += "print(*[has.get(n.lower(), '-') for n in sys.argv[1:]])"
        return dict(zip(names, self.run("-c", code, *names).split(), strict=True))

    def run(self, *command: str, where: Path | None = None, **env: str) -> str:
        """What its Python prints, with PATH its own programs alone; raises Failed where it does not succeed."""
        if seen := [name for name in COMPILERS if (self.bin / name).exists()]:
            raise SystemExit(f"{self.bin} holds {', '.join(seen)}, and what is tried here must do without")
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return run([str(self.python), *command], where or self.folder, {**clean, "PATH": str(self.bin), **env})


def run(command: list[str], where: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command prints on both its outputs; raises Failed with it where the command does not succeed."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=where, env=env, text=True, **streams)
    if done.returncode:
        raise Failed(f"{' '.join(command)[:300]}\n{done.stdout[-6000:]}exit status {done.returncode}")
    return done.stdout


def unpacked(archive: Path, folder: Path, kept: tuple[str, ...] = ()) -> Path:
    """An sdist's files in `folder`, what was there gone but for `kept`; the folder that it makes."""
    place = folder / archive.name.removesuffix(".tar.gz")
    for old in place.iterdir() if place.exists() else ():
        if old.name not in kept:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.unpack_archive(archive, folder, filter="data")
    return place


def files() -> list[Path]:
    """The project's files as git knows them, those not yet committed too, relative to its folder."""
    listed = run(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
    return [Path(name) for name in listed if (ROOT / name).is_file()]
