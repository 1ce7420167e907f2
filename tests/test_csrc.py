"""team.h and what is written against it, on host threads: under ThreadSanitizer, and with planted faults."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
THREAD = ("-fsanitize=thread",)
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PRODUCTS = ("cpu/products_avx2.cpp", "cpu/products_avx512.cpp")
BESIDE = ("cpu/parallel.cpp", "cpu/dropout.cpp", "cpu/temporal_conv_weight.cpp", "cpu/winograd.cpp")
SOURCES = {"products": PRODUCTS, "convolution": (*PRODUCTS, *BESIDE)}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """program(name, flags): csrc/tests/<name>.cpp compiled with them, once."""
    made: dict[tuple, Path] = {}

    def compiled(name: str, flags: tuple[str, ...]) -> Path:
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            pytest.skip("no C++ compiler")
        if (name, flags) not in made:
            path = tmp_path_factory.mktemp("csrc") / name
            includes = (f"-I{CSRC / 'include'}", f"-I{CSRC / 'tests'}", f"-I{CSRC}")
            sources = (CSRC / "tests" / f"{name}.cpp", *(CSRC / s for s in SOURCES.get(name, ())))
            plain = ("-std=c++17", "-g", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi", "-pthread")
            command = [compiler, *plain, *flags, *includes]
            done = subprocess.run([*command, *sources, "-o", path], capture_output=True, text=True)
            if "cannot find" in done.stderr and "san" in done.stderr:
                pytest.skip(f"the compiler lacks {flags[0]}")
            assert done.returncode == 0, done.stderr
            assert "warning" not in done.stderr, done.stderr
            made[name, flags] = path
        return made[name, flags]

    return compiled


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=300)
    # ThreadSanitizer cannot place its shadow under some kernels' address randomisation.
    if "unexpected memory mapping" in done.stderr:
        if shutil.which("setarch") is None:
            pytest.skip("ThreadSanitizer: unexpected memory mapping, and no setarch")
        done = subprocess.run(["setarch", "-R", path, *arguments], capture_output=True, text=True, timeout=300)
    return done


@pytest.mark.parametrize("name", ["team", "kernels", "matrices"])
@pytest.mark.parametrize("flags", [THREAD, ADDRESS], ids=["thread", "address"])
def test_on_one_thread_and_on_many(program, name, flags):
    done = run(program(name, flags))
    assert done.returncode == 0 and done.stdout == f"{name}: ok\n", done.stderr[-2000:]


def test_every_instruction_set_gives_the_same_bits(program):
    done = run(program("products", ADDRESS))
    assert done.returncode == 0 and done.stdout == "products: ok\n", done.stderr[-2000:]


def test_a_convolution_has_the_same_bits_whatever_the_instructions_and_threads(program):
    path = program("convolution", ADDRESS)
    made = {}
    for level, lanes in (("v3", 8), ("v4", 16)):
        done = run(path, level)
        if done.returncode == -signal.SIGILL:
            pytest.skip(f"this machine lacks x86-64-{level}")
        assert done.returncode == 0, done.stderr[-2000:]
        first, *bits = done.stdout.splitlines()
        assert first == f"{lanes} lanes" and bits[: len(bits) // 2] == bits[len(bits) // 2 :]
        made[level] = bits
    assert made["v3"] == made["v4"]


SORT_BARRIERS = 11


@pytest.mark.parametrize("skipped", range(SORT_BARRIERS))
def test_each_missing_barrier_is_found(program, skipped):
    done = run(program("team", THREAD), "race", str(skipped))
    assert done.returncode != 0 and "data race" in done.stderr


def test_the_same_sort_with_every_barrier_is_clean(program):
    done = run(program("team", THREAD), "race", str(SORT_BARRIERS))
    assert done.returncode == 0, done.stderr[-2000:]


def test_threads_in_different_collectives_are_told(program):
    done = run(program("team", THREAD), "divergent")
    assert done.returncode != 0
    assert "divergent collective: thread 0 in barrier" in done.stderr
    assert "thread 1 in " in done.stderr and "T = int; Op = d2k::Sum" in done.stderr


def test_functions_that_are_asked_for_memory_read_no_elements():
    files = (CSRC / "bindings").glob("*.cpp")
    bound = [name for file in files for name in re.findall(r'm\.(\w+)\("\w+_workspace_', file.read_text())]
    assert bound and set(bound) == {"def_size"}
