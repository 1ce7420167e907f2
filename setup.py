"""Packages, and the compiled module through CMake; metadata is in pyproject.toml."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_plan  # noqa: E402

PLAN = build_plan.plan()
INFO = Path("d2kernels", "_build_info.json")
COMPILED = "_compiled.json"  # beside the extension


def module(path: str) -> Any:
    """A module of the package that needs nothing but the standard library, without importing the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def compiled(seconds: float, interface: str) -> dict[str, Any]:
    """What the GPU kernels of this build are compiled from and by, and which of them a committed GPU record covers.

    And the CPU seconds that compiling took: less than all of it where an earlier build, or ccache, had parts.
    """
    facts = {"cxx": PLAN.versions["cxx"], "cpu_seconds": round(seconds, 1), "interface": interface}
    if "cuda" not in PLAN.parts:
        return facts
    return {
        **facts,
        "nvcc": PLAN.versions["nvcc"],
        "cuda": module("d2kernels/verify/hashes.py").cuda_files(ROOT),
        "records": module("d2kernels/verify/records.py").committed(ROOT / "benchmarks/results"),
    }


class EggInfo(egg_info):
    """Wheels of one version that differ in what they hold: D2K_LOCAL_VERSION=cu13 makes X.Y.Z+cu13."""

    def finalize_options(self) -> None:
        if local := os.environ.get("D2K_LOCAL_VERSION"):
            if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", local):
                raise SystemExit(f"d2kernels: D2K_LOCAL_VERSION={local} must be letters and digits, as in cu13")
            self.tag_build = f"+{local}"  # an sdist's setup.cfg has set it to nothing
        super().finalize_options()


class BuildPy(build_py):
    """Writes down what is built and why not more; the doctor reads it."""

    def run(self) -> None:
        super().run()
        path = (ROOT if self.editable_mode else Path(self.build_lib)) / INFO
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(PLAN.facts(), indent=1) + "\n")
        if self.editable_mode and not PLAN.parts:
            for stale in (ROOT / "d2kernels").glob("_C.*.so"):
                stale.unlink()


class BuildExt(build_ext):
    """Configures and builds with CMake, in a folder of its own for each set of tools so that rebuilding is quick.

    The checkout's place is one of them, since CMake's cache names it: a moved or copied one starts afresh.
    """

    def build_extension(self, extension: Extension) -> None:
        import pybind11

        tools = PLAN.tools
        generator, program = build_plan.builder(dict(os.environ)) or ("Unix Makefiles", "make")
        flags = [os.environ.get(name) for name in ("CXXFLAGS", "CUDAFLAGS", "LDFLAGS")]
        compilers = {name: path for name, path in tools.items() if name != "cmake"}  # pip's own moves as well
        key = json.dumps([str(ROOT), generator, compilers, PLAN.versions, PLAN.cuda_archs, sys.executable, flags])
        folder = ROOT / "build" / f"cmake-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        options = {
            "CMAKE_MAKE_PROGRAM": program,  # pip's own ninja has another place each time
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": folder / "out",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "D2K_CUDA": "ON" if "cuda" in PLAN.parts else "OFF",
        }
        if not os.environ.get("CXX"):
            options["CMAKE_CXX_COMPILER"] = tools["cxx"]
        if "cuda" in PLAN.parts:
            options["CMAKE_CUDA_COMPILER"] = tools["nvcc"]
            options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(PLAN.cuda_archs)
        defines = [f"-D{name}={value}" for name, value in options.items()]
        interface = module("d2kernels/_interface.py").interface(ROOT)  # as it is before anything is compiled from it
        before = os.times()
        jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        try:
            subprocess.run([tools["cmake"], "-S", ROOT, "-B", folder, "-G", generator, *defines], check=True)
            subprocess.run([tools["cmake"], "--build", folder, "--parallel", str(jobs)], check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"d2kernels: compiling failed ({' '.join(map(str, error.cmd[:4]))} ...: exit {error.returncode}); "
                "the compiler's message is above. D2K_BUILD=cpu leaves out CUDA, D2K_BUILD=none compiles nothing"
            ) from None
        target.parent.mkdir(parents=True, exist_ok=True)
        (built,) = (folder / "out").glob(f"_C*{target.suffix}")
        target.unlink(missing_ok=True)  # what has it mapped keeps the old one; writing into that would end it
        shutil.copy2(built, target)
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        (target.parent / COMPILED).write_text(json.dumps(compiled(spent, interface), indent=1) + "\n")

    def copy_extensions_to_source(self) -> None:
        for old in (ROOT / "d2kernels").glob("_C.*.so"):
            old.unlink()
        super().copy_extensions_to_source()
        for extension in self.extensions:
            built = Path(self.build_lib, *self.get_ext_fullname(extension.name).split(".")[:-1], COMPILED)
            shutil.copy2(built, ROOT / "d2kernels" / COMPILED)


setup(
    license="MIT",  # here, since setuptools before 77 refuses an SPDX expression in pyproject.toml
    packages=[*find_packages(".", include=["d2kernels", "d2kernels.*"]), *find_packages("python")],
    package_dir={"d2kernels": "d2kernels", "d2net": "python/d2net"},
    package_data={"d2kernels": ["py.typed", "*.pyi"], "d2net": ["py.typed", "report/*.html"]},
    ext_modules=[Extension("d2kernels._C", sources=[])] if PLAN.parts else [],
    cmdclass={"egg_info": EggInfo, "build_py": BuildPy, "build_ext": BuildExt},
)
