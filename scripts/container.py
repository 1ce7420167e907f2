"""Runs the Containerfile's commands in a fresh Debian of its own, where no image can be pulled. As root, on Debian.

python scripts/container.py [FOLDER] [--arg TORCH_INDEX=] [-- what d2net is run with, default: --help]

debootstrap makes each stage's system in FOLDER from Debian's packages, chroot runs what the file says in it. The host's
certificates, resolver, pip settings and folders of wheels are lent; nothing else of the host is seen. Images other than
Debian's cannot be had this way, so that the stages with CUDA are not tried.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from fresh import ROOT, files

LENT = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf", "/etc/xdg/pip")
SETTINGS = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, what follows) in order; comments gone, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def filled(text: str, values: dict[str, str]) -> str:
    """Text with ${NAME} and $NAME replaced by what is known of them."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values.get(m[1] or m[2], m[0]), text)


class Stage:
    """One FROM and what follows: a system in a folder, variables, the folder to work in."""

    def __init__(self, image: str, folder: Path) -> None:
        found = re.fullmatch(r"(?:docker\.io/library/)?debian:(\w+)-slim", image)
        if found is None:
            raise SystemExit(f"container: {image} is not to be made with debootstrap; only debian:SUITE-slim is")
        self.folder, self.env, self.args = folder, {}, {}
        self.where, self.entry = "/", []
        base = folder.parent / f"base-{found[1]}"
        if not (base / "etc/debian_version").exists():
            command = ["debootstrap", "--variant=minbase", found[1], str(base), "http://deb.debian.org/debian"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(folder)], check=True)
        self.lend(*os.environ.get("PIP_FIND_LINKS", "").split())

    def lend(self, *names: str) -> None:
        """The host's files under their own names, links followed."""
        for path in map(Path, names):
            target = self.path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            elif path.exists():
                shutil.copyfile(path, target)

    def path(self, inside: str | Path) -> Path:
        return self.folder / str(inside).lstrip("/")

    def run(self, command: list[str], out: int | None = None) -> None:
        """Runs a command in the system; an error ends everything."""
        self.lend(*LENT)  # each time: installing ca-certificates writes a bundle without the host's own
        settings = {k: v for k, v in os.environ.items() if k.startswith(SETTINGS)}
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **settings}
        env |= {"DEBIAN_FRONTEND": "noninteractive", **self.args, **self.env}
        inside = ["sh", "-c", f'cd {shlex.quote(self.where)} && exec "$@"', "sh", *command]
        proc = self.path("/proc")
        subprocess.run(["mount", "-t", "proc", "proc", str(proc)], check=True)
        try:
            done = subprocess.run(["chroot", str(self.folder), *inside], env=env, stdout=out)
        finally:
            subprocess.run(["umount", "-l", str(proc)], check=True)
        if done.returncode:
            raise SystemExit(f"container: {' '.join(command)[:200]}: exit status {done.returncode}")

    def copy(self, source: Path | None, what: str, target: str) -> None:
        """COPY, from another stage's system or, with None, from the project's files."""
        to = self.path(target)
        if source is not None:
            shutil.copytree(source / what.lstrip("/"), to, dirs_exist_ok=True)
        elif what != ".":
            shutil.copy2(ROOT / what, to)
        for name in files() if source is None and what == "." else ():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def built(file: Path, folder: Path, given: dict[str, str]) -> Stage:
    """The last stage, after every instruction of the file; arguments as `--build-arg` would give them."""
    stages: dict[str, Stage] = {}
    outside: dict[str, str] = {}
    stage: Stage | None = None
    for word, rest in instructions(file.read_text()):
        print(f"== {word} {rest[:150]}", flush=True)
        if word == "ARG":
            name, _, default = rest.partition("=")
            (outside if stage is None else stage.args)[name] = given.get(name, default)
            continue
        if word == "FROM":
            image, _, name = filled(rest, outside).partition(" AS ")
            stage = stages[name or "last"] = Stage(image, folder / (name or "last"))
            continue
        if stage is None:
            raise SystemExit(f"container: {word} before any FROM")
        if word == "RUN":
            stage.run(["sh", "-e", "-c", rest])
        elif word == "COPY":
            *options, what, target = shlex.split(rest)
            source = next((o.removeprefix("--from=") for o in options if o.startswith("--from=")), None)
            stage.copy(stages[source].folder if source else None, what, target)
        elif word == "ENV":
            name, _, value = rest.partition("=")
            stage.env[name] = filled(value, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        elif word == "WORKDIR":
            stage.where = rest
            stage.path(rest).mkdir(parents=True, exist_ok=True)
        elif word == "ENTRYPOINT":
            stage.entry = json.loads(rest)
        else:
            raise SystemExit(f"container: what {word} means is not written here")
    assert stage is not None
    return stage


def _parted(words: list[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before and after the first `--`; argparse mixes them up where both hold options."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], at < len(words), words[at + 1 :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build/container")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="as --build-arg")
    own, separated, command = _parted(sys.argv[1:])
    asked = parser.parse_args(own)
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemExit("container: needs root and debootstrap; with podman or docker, build the Containerfile itself")
    asked.folder.mkdir(parents=True, exist_ok=True)
    given = dict(item.split("=", 1) for item in asked.arg)
    stage = built(ROOT / "Containerfile", asked.folder.resolve(), given)
    if shutil.which("g++", path=str(stage.path("/usr/bin"))):
        raise SystemExit("container: the last stage has a compiler")
    stage.run([*stage.entry, *(command if separated else ["--help"])])
    return 0


if __name__ == "__main__":
    sys.exit(main())
