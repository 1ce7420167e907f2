"""What is built where compilers are missing, failing or not wanted, and what is remembered of it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("setuptools", "pybind11")
needs_tools = pytest.mark.skipif(
    any(importlib.util.find_spec(tool) is None for tool in TOOLS), reason=f"building needs {' and '.join(TOOLS)}"
)
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("cmake") is None, reason="no C++ compiler or no cmake on PATH"
)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


build_plan = load("build_plan")


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path):
    """A folder of stand-in tools, to be the whole PATH."""
    script(tmp_path, "c++", "echo 'c++ 12'")
    script(tmp_path, "cmake", "echo 'cmake 3.30'")
    script(tmp_path, "make", "")
    return tmp_path


def nvcc(folder, release="13.0", codes="sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120"):
    answer = f'case $1 in --version) echo "release {release}, V1";; *) echo {codes};; esac'
    return script(folder, "nvcc", answer)


def plan(folder, **env):
    return build_plan.plan({"PATH": str(folder), **env})


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(build_plan, "_visible_archs", lambda: [])


def test_unknown_choice_is_named():
    with pytest.raises(SystemExit, match="D2K_BUILD=gpu is unknown; use one of auto, cpu, cuda, none"):
        plan("", D2K_BUILD="gpu")


def test_none_builds_nothing(tools):
    facts = plan(tools, D2K_BUILD="none").facts()
    assert facts["built"] == [] and facts["left_out"] == {"cpu": "D2K_BUILD=none", "cuda": "D2K_BUILD=none"}


@needs_tools
def test_missing_tools_are_recorded(tmp_path, tools):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no C++ compiler on PATH" in plan(empty).reasons["cpu"]
    assert "CXX=nowhere was not found" in plan(tools, CXX="nowhere").reasons["cpu"]
    without_nvcc = plan(tools)
    assert without_nvcc.parts == ["cpu"] and "nvcc is not on PATH" in without_nvcc.reasons["cuda"]
    assert "CUDA_HOME=/nowhere has no nvcc" in plan(tools, CUDA_HOME="/nowhere").reasons["cuda"]
    (tools / "make").unlink()
    assert "neither ninja nor make is on PATH" in plan(tools).reasons["cpu"]
    script(tools, "ninja", "")
    assert plan(tools).parts == ["cpu"]
    (tools / "cmake").unlink()
    assert plan(tools).reasons["cpu"] == "cmake is not on PATH"


@needs_tools
def test_what_is_asked_for_by_name_is_built_or_an_error(tools):
    with pytest.raises(SystemExit, match="D2K_BUILD=cuda cannot be built: nvcc is not on PATH"):
        plan(tools, D2K_BUILD="cuda")
    nvcc(tools)
    assert plan(tools, D2K_BUILD="cuda").parts == ["cpu", "cuda"]
    assert plan(tools, D2K_BUILD="cpu").reasons["cuda"] == "D2K_BUILD=cpu"
    (tools / "c++").unlink()
    with pytest.raises(SystemExit, match=r"D2K_BUILD=cpu cannot be built: no C\+\+ compiler"):
        plan(tools, D2K_BUILD="cpu")


@needs_tools
def test_architectures(tools, monkeypatch):
    nvcc(tools)
    every = [f"{a}-real" for a in (80, 90, 100, 120)]
    assert plan(tools).cuda_archs == [*every, "80-virtual"]
    assert plan(tools, D2K_CUDA_ARCHS="80, 90").cuda_archs == ["80-real", "90-real", "80-virtual"]
    with pytest.raises(SystemExit, match=r"D2K_CUDA_ARCHS=80;35 names 35, but .*nvcc compiles for 75;80"):
        plan(tools, D2K_CUDA_ARCHS="80;35")
    nvcc(tools, "12.4", "sm_80 sm_86 sm_89 sm_90")
    older = plan(tools)
    assert older.cuda_archs == ["80-real", "90-real", "80-virtual"] and "does not know sm_100, sm_120" in older.notes[0]
    nvcc(tools, "11.8")
    assert "older than CUDA 12.0" in plan(tools).reasons["cuda"]
    nvcc(tools)
    monkeypatch.setattr(build_plan, "_visible_archs", lambda: [90])
    visible = plan(tools)
    assert visible.cuda_archs == ["90-real", "90-virtual"] and "GPU seen at build time" in visible.notes[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what a wheel is built from, so that no build touches this tree."""
    copy = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json", "_compiled.json")
    for name in ("csrc", "scripts", "d2kernels", "python"):
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "CMakeLists.txt", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def build(source, out, **env):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), "."]
    return subprocess.run(command, cwd=source, env={**os.environ, **env}, capture_output=True, text=True)


def unpacked(source, out, **env):
    done = build(source, out, **env)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return wheel, out / "site", json.loads((out / "site/d2kernels/_build_info.json").read_text())


def python(site, code):
    # An editable installation of this tree would lend its compiled module.
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n" + code
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-c", code], cwd=site, env=env, capture_output=True, text=True)


@needs_tools
def test_wheel_without_compiled_code(source, tmp_path):
    wheel, site, facts = unpacked(source, tmp_path, D2K_BUILD="none")
    assert wheel.name.endswith("-py3-none-any.whl") and facts["left_out"]["cpu"] == "D2K_BUILD=none"
    assert not list(site.rglob("*.so")) and (site / "d2net/py.typed").exists() and (site / "d2kernels/_C.pyi").exists()
    code = "import d2kernels as d2k; print(d2k.__file__, d2k.backends.can_run('connected_components', 'native'))"
    done = python(site, code)
    assert done.stdout.split() == [str(site / "d2kernels/__init__.py"), "False"], done.stderr


@needs_tools
def test_a_local_version_tells_wheels_apart(source, tmp_path):
    wheel, site, _ = unpacked(source, tmp_path, D2K_BUILD="none", D2K_LOCAL_VERSION="cu13")
    assert wheel.name.split("-")[1].endswith("+cu13") and list(site.glob("d2kernels-*+cu13.dist-info"))
    refused = build(source, tmp_path / "no", D2K_BUILD="none", D2K_LOCAL_VERSION="cu-13")
    assert refused.returncode and "D2K_LOCAL_VERSION=cu-13 must be letters and digits, as in cu13" in refused.stderr


@needs_tools
@needs_compiler
def test_wheel_for_the_cpu(source, tmp_path):
    _, site, facts = unpacked(source, tmp_path, D2K_BUILD="cpu")
    assert facts["built"] == ["cpu"] and facts["left_out"] == {"cuda": "D2K_BUILD=cpu"}
    assert "cxx" in facts["compilers"]
    code = (
        "import numpy as np, d2kernels as d2k; from d2kernels import _C; assert not _C.has_cuda, 'built with CUDA';"
        "from d2kernels.verify import machine; assert machine.build()['cxx'] and 'cuda' not in machine.build();"
        # At most 90 with the machine to itself; more processes than cores make it more.
        "assert 0 < machine.build()['cpu_seconds'] < 250, machine.build()['cpu_seconds'];"
        "print(_C.__file__, d2k.connected_components(np.ones(3), [0.5], offsets=[0, 3]).end)"
    )
    done = python(site, code)
    assert done.returncode == 0 and done.stdout.startswith(str(site)) and done.stdout.endswith("[3]\n"), done.stderr


@pytest.fixture
def quick(source, tmp_path):
    """A copy of it whose CMake project has nothing to compile: what is tested is the way there."""
    copy = tmp_path / "quick"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build"))
    text = "cmake_minimum_required(VERSION 3.20)\nproject(quick LANGUAGES CXX)\n"
    text += 'file(WRITE ${CMAKE_BINARY_DIR}/a.cpp "int a;")\nadd_library(_C MODULE ${CMAKE_BINARY_DIR}/a.cpp)\n'
    text += 'set_target_properties(_C PROPERTIES PREFIX "" SUFFIX ${D2K_SUFFIX})\n'
    (copy / "CMakeLists.txt").write_text(text.replace("${D2K_SUFFIX}", sysconfig.get_config_var("EXT_SUFFIX")))
    return copy


@needs_tools
@needs_compiler
def test_a_moved_and_a_copied_checkout_build(quick, tmp_path):
    assert build(quick, tmp_path / "first", D2K_BUILD="cpu").returncode == 0
    copied, moved = tmp_path / "copied", tmp_path / "moved"
    shutil.copytree(quick, copied)
    quick.rename(moved)
    for place in (copied, moved):
        done = build(place, tmp_path / f"{place.name}-wheel", D2K_BUILD="cpu")
        assert done.returncode == 0, done.stdout + done.stderr


@needs_tools
@needs_compiler
def test_a_second_build_with_another_build_program(quick, tmp_path):
    real = shutil.which("ninja") or pytest.skip("no ninja on PATH")
    wanted = ("c++", "cmake", "ar", "ranlib", "ld", "as", "nm", "objcopy", "objdump", "strip", "readelf", "sh")
    for place in ("one", "two"):
        tools = tmp_path / place
        tools.mkdir()
        for name in wanted:
            if path := shutil.which(name):
                (tools / name).symlink_to(path)
        (tools / "ninja").symlink_to(real)
        env = {"PATH": str(tools), "CXX": shutil.which("c++"), "CMAKE_CXX_COMPILER_LAUNCHER": ""}
        done = build(quick, tmp_path / f"{place}-wheel", D2K_BUILD="cpu", **env)
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.rmtree(tools)
    assert len(list((quick / "build").glob("cmake-*"))) == 1


@needs_tools
@needs_compiler
def test_a_rebuild_leaves_the_file_that_processes_have_mapped_as_it_was(quick):
    def built():
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(build, cwd=quick, env={**os.environ, "D2K_BUILD": "cpu"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (found,) = (quick / "d2kernels").glob("_C.*.so")
        return found

    with built().open("rb") as mapped:
        contents, project = mapped.read(), quick / "CMakeLists.txt"
        project.write_text(project.read_text().replace('"int a;"', '"int a, b;"'))
        assert built().read_bytes() != contents
        mapped.seek(0)
        assert mapped.read() == contents


@needs_tools
@needs_compiler
def test_what_building_takes_is_measured(quick):
    command = [sys.executable, quick / "scripts" / "build_time.py", "cpu"]
    done = subprocess.run([*command, "--most", "1000"], capture_output=True, text=True)
    assert done.returncode == 0 and "/a.cpp\n" in done.stdout, done.stdout + done.stderr
    assert "CPU seconds in all with D2K_BUILD=cpu" in done.stdout and not (quick / "build").exists()
    assert subprocess.run([*command, "--most", "0.01"], capture_output=True).returncode == 1


@needs_tools
def test_what_building_needs_is_asked_for_before_it_is_missed(source, tmp_path):
    compiler = script(tmp_path, "c++", "echo 'c++ 12'")
    code = "import build_backend as b; print(b.get_requires_for_build_wheel(), b.get_requires_for_build_editable())"
    env = {**os.environ, "PATH": str(compiler.parent), "D2K_BUILD": "cpu", "PYTHONPATH": str(source / "scripts")}
    done = subprocess.run([sys.executable, "-c", code], cwd=source, env=env, capture_output=True, text=True)
    assert done.stdout.split("] [")[0] == "['cmake>=3.20', 'ninja'", done.stderr


@needs_tools
@needs_compiler
def test_failing_compiler_is_an_error(source, tmp_path):
    script(tmp_path, "c++", 'case $1 in --version) echo "c++ 12";; *) exit 1;; esac')
    done = build(source, tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}", D2K_BUILD="cpu")
    assert done.returncode != 0 and "compiling failed" in done.stdout + done.stderr


@needs_tools
def test_unknown_choice_stops_pip(source, tmp_path):
    done = build(source, tmp_path, D2K_BUILD="gpu")
    assert done.returncode != 0 and "D2K_BUILD=gpu is unknown" in done.stdout + done.stderr


def test_this_installation_remembers_its_build():
    path = ROOT / "d2kernels/_build_info.json"
    if not path.exists():
        pytest.skip("d2kernels was not installed from this tree")
    facts = json.loads(path.read_text())
    assert set(facts["built"]) | set(facts["left_out"]) == {"cpu", "cuda"}


def test_what_was_compiled_here_loads():
    """Tests of native kernels skip where there is no extension; one that was built and is broken must not pass so."""
    from d2kernels import _native, diagnostics

    if not diagnostics.build_facts().get("built"):
        pytest.skip("nothing was compiled")
    module, reason = _native.extension()
    assert module is not None, reason
