"""What to build: which compilers there are, which architectures, and why something is left out."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

CHOICES = ("auto", "cpu", "cuda", "none")
DEFAULT_ARCHS = (80, 90, 100, 120)  # machine code of 80 serves 86 and 89
OLDEST_NVCC = (12, 0)


@dataclass
class Plan:
    """One build: its parts ("cpu", "cuda"), the tools, and for each part left out the reason."""

    asked: str
    parts: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cuda_archs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, object]:
        """What the installed package remembers of its build."""
        return {
            "D2K_BUILD": self.asked,
            "built": self.parts,
            "left_out": self.reasons,
            "compilers": {name: f"{path} ({self.versions[name]})" for name, path in self.tools.items()},
            "cuda_archs": self.cuda_archs,
            "notes": self.notes,
        }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _cxx(env: dict[str, str]) -> tuple[str | None, str]:
    if env.get("CXX"):
        names = [shlex.split(env["CXX"])[0]]
        missing = f"the compiler named by CXX={env['CXX']} was not found"
    else:
        names = ["c++", "g++", "clang++"]
        missing = "no C++ compiler on PATH (looked for c++, g++, clang++)"
    path = next(filter(None, (shutil.which(name, path=env.get("PATH")) for name in names)), None)
    if path is None:
        return None, missing
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return None, f"no Python.h in {sysconfig.get_path('include')}; install Python's development files"
    return path, ""


def builder(env: dict[str, str]) -> tuple[str, str] | None:
    """CMake's generator and the program that it drives, or None."""
    for generator, program in (("Ninja", "ninja"), ("Unix Makefiles", "make")):
        if path := shutil.which(program, path=env.get("PATH")):
            return generator, path
    return None


def has_cxx() -> bool:
    """Whether there is anything to compile with."""
    return _cxx(dict(os.environ))[0] is not None


def _nvcc(env: dict[str, str]) -> tuple[str | None, str]:
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        value = env.get(variable)
        if value:
            path = shutil.which(value if variable == "CUDACXX" else f"{value}/bin/nvcc", path=env.get("PATH"))
            return path, f"{variable}={value} has no nvcc"
    path = shutil.which("nvcc", path=env.get("PATH"))
    unseen = " (there is one in /usr/local/cuda/bin)" if Path("/usr/local/cuda/bin/nvcc").exists() else ""
    return path, f"nvcc is not on PATH{unseen}, and neither CUDACXX nor CUDA_HOME is set"


def _visible_archs() -> list[int]:
    listed = _output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    return sorted({int(c.replace(".", "")) for c in listed if re.fullmatch(r"\d+\.\d", c)})


def _archs(plan: Plan, env: dict[str, str], nvcc: str) -> list[str]:
    """CMake's architectures: machine code for each, and PTX of the oldest, for GPUs between them and to come."""
    known = {int(n) for n in re.findall(r"sm_(\d+)", _output(nvcc, "--list-gpu-code"))}
    asked = [a for a in re.split(r"[;,\s]+", env.get("D2K_CUDA_ARCHS", "")) if a]
    if bad := [a for a in asked if not re.fullmatch(r"\d+[af]?", a) or int(a.rstrip("af")) not in known]:
        raise SystemExit(
            f"d2kernels: D2K_CUDA_ARCHS={env['D2K_CUDA_ARCHS']} names {', '.join(bad)}, "
            f"but {nvcc} compiles for {';'.join(map(str, sorted(known)))}"
        )
    if not asked:
        visible = _visible_archs()
        wanted = visible or list(DEFAULT_ARCHS)
        if dropped := [a for a in wanted if a not in known]:
            plan.notes.append(
                f"{nvcc} does not know sm_{', sm_'.join(map(str, dropped))}; PTX of an older architecture serves there"
            )
        asked = [str(a) for a in wanted if a in known] or [str(max(known & set(DEFAULT_ARCHS)))]
        if visible:
            plan.notes.append("compiled for the GPU seen at build time; set D2K_CUDA_ARCHS for others")
    oldest = min(int(a.rstrip("af")) for a in asked)
    return [f"{a}-real" for a in asked] + [f"{oldest}-virtual"]


def plan(env: dict[str, str] | None = None) -> Plan:
    """Reads D2K_BUILD, D2K_CUDA_ARCHS and the machine. Leaves out what has no compiler; refuses it where asked for.

    Raises:
        SystemExit: an unknown D2K_BUILD or D2K_CUDA_ARCHS, or a part asked for by name that cannot be built.
    """
    env = dict(os.environ) if env is None else env
    result = Plan(env.get("D2K_BUILD") or "auto")
    if result.asked not in CHOICES:
        raise SystemExit(f"d2kernels: D2K_BUILD={result.asked} is unknown; use one of {', '.join(CHOICES)}")
    if result.asked == "none":
        result.reasons = dict.fromkeys(("cpu", "cuda"), "D2K_BUILD=none")
        return result

    cxx, why = _cxx(env)
    tools = {"cxx": cxx, "cmake": shutil.which("cmake", path=env.get("PATH"))}
    if not why and tools["cmake"] is None:
        why = "cmake is not on PATH"
    if not why and builder(env) is None:
        why = "neither ninja nor make is on PATH (pip installs ninja unless --no-build-isolation)"
    if not why and importlib.util.find_spec("pybind11") is None:
        why = "pybind11 is not installed (pip installs it unless --no-build-isolation)"
    if why:
        result.reasons = {"cpu": why, "cuda": why}
    else:
        result.parts.append("cpu")
        result.tools = {name: path for name, path in tools.items() if path}
        nvcc, why = _nvcc(env)
        if result.asked == "cpu":
            result.reasons["cuda"] = "D2K_BUILD=cpu"
        elif nvcc is None:
            result.reasons["cuda"] = why
        else:
            found = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
            version = tuple(map(int, found.groups())) if found else (0, 0)
            if version < OLDEST_NVCC:
                result.reasons["cuda"] = f"{nvcc} is older than CUDA {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]}"
            else:
                result.parts.append("cuda")
                result.tools["nvcc"] = nvcc
                result.versions["nvcc"] = f"{version[0]}.{version[1]}"
                result.cuda_archs = _archs(result, env, nvcc)
        for name in ("cxx", "cmake"):
            result.versions[name] = (_output(result.tools[name], "--version").splitlines() or ["unknown"])[0]
    if result.asked in ("cpu", "cuda") and result.asked not in result.parts:
        raise SystemExit(f"d2kernels: D2K_BUILD={result.asked} cannot be built: {result.reasons[result.asked]}")
    return result
