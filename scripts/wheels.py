"""Builds the sdist and wheels from it, and tries each wheel in a fresh environment without a compiler: `make wheel`.

python scripts/wheels.py [any] [cpu] [cuda] [--python 3.12 ...] [--out dist] [--quick | --no-test]
python scripts/wheels.py --try WHEEL ...      only try these, beside which their sdist lies

any   py3-none-any: nothing compiled; the reference backend, and Triton where it is
cpu   manylinux, the CPU's kernels; one for each Python, since pybind11 has no stable ABI
cuda  manylinux, the CPU's and CUDA's kernels, as version X.Y.Z+cuN after the compiler's; where nvcc is
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from build_plan import DEFAULT_ARCHS
from fresh import ROOT, Environment, Failed, files, interpreter, release, run, unpacked

WORK = ROOT / "build/wheel"
Made = tuple[Path, str, str]  # a wheel, what it holds, and the Python that it is for
ARCHS = ";".join(map(str, DEFAULT_ARCHS))  # whatever GPU is seen here
# What a test environment has beside the ops' own requirements: none of it is the trainer's.
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis")
TRAINERS = ("pydantic", "typer", "yaml", "h5py", "matplotlib", "safetensors")
TESTS = ("tests/ops", "tests/test_ragged.py", "tests/test_nn.py", "tests/test_dlpack.py")
QUICK = ("tests/ops/test_topk_pool.py", "tests/ops/test_connected_components.py", "tests/ops/test_nms.py")
NUMPY_ALONE = """
import importlib.util, sys
import numpy as np, d2kernels as d2k
assert importlib.util.find_spec("torch") is None and d2k.__file__.startswith(sys.prefix), d2k.__file__
segments, scores = np.array([[0.0, 2.0], [0.5, 2.0], [4.0, 5.0]]), np.array([0.5, 0.9, 0.1])
assert d2k.nms(segments, scores, 0.5).tolist() == [1, 2]
assert d2k.connected_components(np.ones(3), [0.5], offsets=[0, 3]).end.tolist() == [3]
assert "torch" not in sys.modules
"""
FACTS = """
import importlib.util, json, sys
import d2kernels
from d2kernels import diagnostics, _native
from d2kernels.verify import machine
assert d2kernels.__file__.startswith(sys.prefix), d2kernels.__file__
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
assert not found, f"the ops' environment has {found}"
module, why = _native.extension()
print(json.dumps({"built": diagnostics.build_facts()["built"], "cuda": bool(module and module.has_cuda),
                  "seconds": machine.build().get("cpu_seconds", 0) if module else 0}))
"""


def say(text: str) -> None:
    print(text, flush=True)


def sdist(out: Path, builder: Environment) -> Path:
    """The sdist, from a copy of the project's files alone; its path in `out`."""
    clean = WORK / "clean"
    shutil.rmtree(clean, ignore_errors=True)
    for name in files():
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clean / name)
    command = [str(builder.python), "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(clean)]
    run(command, env={**os.environ, "D2K_BUILD": "none"})
    return max(out.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)


def build(choice: str, source: Path, builder: Environment, local: str) -> Path:
    """The wheel as setuptools makes it. `builder` holds what [build-system] requires; compilers are those of PATH."""
    raw = WORK / "raw" / choice
    shutil.rmtree(raw, ignore_errors=True)
    for stale in source.glob("build/lib*"):
        shutil.rmtree(stale)  # setuptools would pack what an earlier build left there
    env = {**os.environ, "D2K_BUILD": "none" if choice == "any" else choice, "D2K_CUDA_ARCHS": ARCHS}
    env |= {"D2K_LOCAL_VERSION": local, "PATH": f"{builder.bin}{os.pathsep}{os.environ['PATH']}"}
    run([str(builder.python), "-m", "build", "--wheel", "--no-isolation", "--outdir", str(raw), str(source)], env=env)
    return next(raw.glob("*.whl"))


def repaired(wheel: Path, out: Path) -> Path:
    """The wheel under the oldest manylinux tag that it satisfies; an error where a library would be packed into it.

    It needs glibc and libstdc++ alone: OpenMP is whatever torch has loaded, CUDA's runtime is inside the extension, and
    the driver is opened where it is.
    """
    place = WORK / "repaired"
    shutil.rmtree(place, ignore_errors=True)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run([sys.executable, "-m", "auditwheel", "repair", "--strip", "-w", str(place), str(wheel)], env=env)
    made = next(place.glob("*.whl"))
    if packed := [name for name in zipfile.ZipFile(made).namelist() if ".libs/" in name]:
        names = ", ".join(packed)
        raise SystemExit(f"{made.name} would bring libraries along: {names}; link none but glibc's and gcc's")
    return Path(shutil.move(made, out / made.name))


def pins() -> Path:
    """constraints.txt without Triton's, which torch's wheels for CUDA pin themselves."""
    path = WORK / "pins.txt"
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("triton==")))
    return path


def expected(choice: str) -> list[str]:
    return {"any": [], "cpu": ["cpu"], "cuda": ["cpu", "cuda"]}[choice]


def tried(wheel: Path, choice: str, python: str, source: Path, tests: tuple[str, ...], most: float | None) -> str:
    """Installs the wheel in a fresh environment, in three steps; what was found there in a line.

    NumPy alone: the array functions. Then torch: the ops' tests, from the sdist, with nothing of the trainer's there.
    Then the wheel's own requirements: train, localize and evaluate by the command line.
    """
    env = Environment(WORK / "try" / f"{choice}-{release(python)}", python)
    env.install("--no-deps", str(wheel))
    env.install("numpy", pins=pins())
    env.run("-c", "import d2kernels")
    if choice != "any":  # without compiled parts they go by torch
        env.run("-c", NUMPY_ALONE)
        env.run("-m", "d2kernels")
    env.install("torch", *TEST_TOOLS, pins=pins())
    facts = json.loads(env.run("-c", FACTS, *TRAINERS).splitlines()[-1])
    if facts["built"] != expected(choice) or facts["cuda"] != (choice == "cuda"):
        raise Failed(f"{wheel.name} should hold {expected(choice)}, and says {facts}")
    if most is not None and facts["seconds"] > most:
        raise Failed(f"building took {facts['seconds']} CPU seconds; python scripts/build_time.py says what does")
    place = env.folder / "sdist"  # tests alone: what they import is what is installed
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("build", "d2kernels", "python", "csrc", "*.egg-info"))
    run_tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "sanitize"]
    run_tests += ["-n", str(min(4, os.cpu_count() or 1)), "--dist=loadfile"]
    # torch's compiler wants a C++ compiler; what it makes of the ops is tested in the checkout.
    said = env.run(*run_tests, *tests, where=place).splitlines()
    summary = next(line for line in reversed(said) if re.search(r"\d+ passed", line)).strip("= ")
    env.install(str(wheel), pins=pins())
    env.run("-m", "d2net", "demo", "--iterations", "200", "--out", str(env.folder / "demo"))
    has = env.versions("numpy", "torch", "triton")
    return f"{summary}; with {', '.join(f'{name} {version}' for name, version in has.items())}"


def described(wheel: Path, python: str) -> Made:
    """A wheel, what it holds, and a Python to try it with: its own, or `python` where any will do."""
    if wheel.name.endswith("-none-any.whl"):
        return wheel, "any", python
    major, minor = re.findall(r"-cp(\d)(\d+)-", wheel.name)[0]
    return wheel, "cuda" if "+cu" in wheel.name else "cpu", interpreter(f"{major}.{minor}")


def built(kinds: list[str], pythons: list[str], out: Path, cuda: str | None) -> tuple[list[Made], Path]:
    """The wheels in `out`, each with what it holds and the Python that it is for; and the sdist's folder."""
    out.mkdir(parents=True, exist_ok=True)
    made: list[Made] = []
    source = None
    for python in pythons:
        builder = Environment(WORK / "tools" / release(python), python, keep=True)
        builder.install("setuptools", "wheel", "pybind11", "build", "cmake", "ninja")
        if source is None:
            source = unpacked(sdist(out, builder), WORK, kept=("build",))
        for kind in kinds:
            if kind == "any" and python != pythons[0]:
                continue
            start = time.monotonic()
            wheel = build(kind, source, builder, f"cu{cuda}" if kind == "cuda" else "")
            wheel = Path(shutil.copy(wheel, out)) if kind == "any" else repaired(wheel, out)
            say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, built in {time.monotonic() - start:.0f} s")
            made.append((wheel, kind, python))
    assert source is not None
    return made, source


def nvcc_release() -> str | None:
    """The major version of the CUDA compiler on PATH, or None."""
    if not shutil.which("nvcc"):
        return None
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)\.", said)
    return found[1] if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="any, cpu, cuda; default: all that can be built here")
    parser.add_argument("--python", action="append", help="for which Pythons; default: the one that runs this")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--quick", action="store_true", help="a few of the ops' tests, not all")
    parser.add_argument("--no-test", action="store_true", help="build alone")
    parser.add_argument("--try", dest="tried", nargs="+", type=Path, metavar="WHEEL", help="try these, build nothing")
    parser.add_argument("--most", type=float, metavar="SECONDS", help="fail where compiling took more CPU seconds")
    asked = parser.parse_args()
    cuda = nvcc_release()
    kinds = asked.kinds or ["any", "cpu", *(["cuda"] if cuda else [])]
    if wrong := set(kinds) - {"any", "cpu", "cuda"}:
        parser.error(f"{', '.join(sorted(wrong))}: choose from any, cpu, cuda")
    if "cuda" in kinds and cuda is None:
        parser.error("cuda: nvcc is not on PATH")
    pythons = [interpreter(name) for name in asked.python or [sys.executable]]
    if asked.tried:
        made = [described(wheel.resolve(), pythons[0]) for wheel in asked.tried]
        source = unpacked(max(made[0][0].parent.glob("*.tar.gz")), WORK / "try")
    else:
        made, source = built(kinds, pythons, asked.out, cuda)
    failed = 0
    for wheel, kind, python in [] if asked.no_test else made:
        start = time.monotonic()
        try:
            said = tried(wheel, kind, python, source, QUICK if asked.quick else TESTS, asked.most)
        except Failed as error:
            failed, said = failed + 1, f"FAILED\n{error}"
        say(f"{wheel.name}: {said}; {time.monotonic() - start:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
