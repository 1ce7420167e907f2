"""The CUDA kernels' registers, shared memory and instructions, and the time that they predict, as tables in Markdown.

python scripts/kernel_table.py [OP ...]     needs nvcc, and cuobjdump as Triton carries it; no GPU

A prediction is the larger of two: bytes at the H200's copy rate, and instructions of the loops that do the work, as
often as they run, at the rate that its schedulers keep up. It knows nothing of latency: small work takes longer.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import resources
import sass

ROOT = Path(__file__).resolve().parents[1]
COPY = 4.3e12  # bytes/s of an H200, read and written
ISSUE = 132 * 4 * 32 * 1.755e9  # instructions/s of threads: multiprocessors, schedulers, lanes, clock
KEPT_UP = 0.65  # the share of it that kernels with a full load of warps reach


class Kernel(NamedTuple):
    used: resources.Kernel
    name: str
    code: list[sass.Instruction]

    def loops(self, *has: str, lacks: tuple[str, ...] = ()) -> list[sass.Loop]:
        """The loops that have these opcodes and none of those, the smallest first."""
        found = [
            loop
            for loop in sass.loops(self.code)
            if sass.holds(loop, *has) and not any(sass.holds(loop, opcode) for opcode in lacks)
        ]
        if not found:
            raise SystemExit(f"kernel_table: {self.name} has no loop of {', '.join(has)}: say what it is made of now")
        return sorted(found, key=lambda loop: len(loop.body))


def by_element(loop: sass.Loop, opcode: str, elements: int = 1) -> float:
    """Instructions an element, of which each such opcode handles so many."""
    return len(loop.body) / (elements * sum(one.opcode.startswith(opcode) for one in loop.body))


class Row(NamedTuple):
    """A target: elements of work, bytes moved, and instructions for each element by kernel."""

    op: str
    what: str
    elements: float
    moved: float
    instructions: Callable[[dict[str, Kernel]], float]


def _topk(kernels: dict[str, Kernel]) -> float:
    """Of uniform scores, k = ⌈s/8⌉: a quarter are in the first bracket, 54 % of the rounds by the fullest lane."""
    kernel = kernels["forward_kernel<float>"]
    load = by_element(kernel.loops("LDG.E.128", "ATOMS")[0], "LDG.E.128", 4)
    narrow = kernel.loops("LDS.128", "STS", "FADD", lacks=("ATOMS", "LDG"))
    first, later = (by_element(loop, "LDS.128", 4) for loop in (narrow[0], narrow[-1]))
    return load + first + 0.54 * (later + by_element(kernel.loops("LDS.128", "ATOMS", lacks=("LDG",))[0], "LDS.128", 4))


def _components(kernels: dict[str, Kernel]) -> float:
    """Counting and filling, where a run ends in every 32 rows: the most that there can be."""
    total = 0.0
    for name in ("count_kernel<float>", "fill_kernel<float>"):
        total += by_element(kernels[name].loops("LDG", "STS")[0], "STS")
        total += len(max(kernels[name].loops("VOTE", "LDS"), key=lambda loop: loop.depth).body)
    return total


KEYS, ROWS = 256 * 6000 * 100, 10**7
ROWS_OF = [
    Row("topk_pool", "forward, 256 × 6000 × 100, float32", KEYS, 4 * KEYS, _topk),
    Row("topk_pool", "backward of it", KEYS, 8 * KEYS, lambda _: 0.0),
    Row("connected_components", "10⁷ rows, one class, one threshold", ROWS, 8 * ROWS, _components),
    Row("connected_components", "10⁷ rows, 20 classes, one threshold", 20 * ROWS, 160 * ROWS, _components),
]


def compiled(op: str, folder: Path, arch: str) -> Iterator[Kernel]:
    """Every kernel of csrc/cuda/OP.cu."""
    cubin = folder / f"{op}.cubin"
    flags = ["-O2", "-std=c++17", f"-arch={arch}", "-DD2K_CUDA", "-Xptxas=-v", f"-I{ROOT / 'csrc/include'}"]
    command = ["nvcc", *flags, "-cubin", str(ROOT / f"csrc/cuda/{op}.cu"), "-o", str(cubin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    used = {kernel.name: kernel for kernel in resources.kernels((said.stdout + said.stderr).splitlines())}
    text = subprocess.run([cuobjdump(), "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    code = sass.functions(text.splitlines())
    for kernel, name in zip(used.values(), resources.readable(list(used)), strict=True):
        yield Kernel(kernel, name, code[kernel.name])


def cuobjdump() -> str:
    if found := shutil.which("cuobjdump"):
        return found
    import triton

    return str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(file.stem for file in (ROOT / "csrc/cuda").glob("*.cu") if file.stem != "device")
    arguments.add_argument("ops", nargs="*", metavar="OP", help=", ".join(known))
    arguments.add_argument("--arch", default="sm_90")
    asked = arguments.parse_args()
    if unknown := set(asked.ops) - set(known):
        arguments.error(f"no such op: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not shutil.which("nvcc"):
        print("kernel_table: no nvcc on PATH", file=sys.stderr)
        return 77
    ops = asked.ops or known
    with tempfile.TemporaryDirectory() as folder:
        kernels = {op: {kernel.name: kernel for kernel in compiled(op, Path(folder), asked.arch)} for op in ops}

    kinds = ["global", "shared", "float", "double", "special", "warp", "barrier", "integer"]
    print(f"| {asked.arch}: op | kernel | registers | static shared, bytes | instructions | {' | '.join(kinds)} |")
    print("| --- " * (5 + len(kinds)) + "|")
    for op, found in kernels.items():
        for name, kernel in found.items():
            mix = sass.mix(kernel.code)
            cells = [op, f"`{name}`", kernel.used.registers, kernel.used.shared, len(kernel.code)]
            cells += [f"{100 * mix[kind] / len(kernel.code):.0f} %" for kind in kinds]
            print(f"| {' | '.join(map(str, cells))} |")
    print("\n| op | target | instructions an element | bytes, µs | instructions, µs | predicted, µs | measured |")
    print("| --- " * 7 + "|")
    for row in ROWS_OF:
        if row.op not in kernels:
            continue
        each = row.instructions(kernels[row.op])
        moved, issued = row.moved / COPY * 1e6, each * row.elements / (ISSUE * KEPT_UP) * 1e6
        cells = [row.op, row.what, f"{each:.1f}" if each else "", f"{moved:.0f}", f"{issued:.0f}" if each else ""]
        print(f"| {' | '.join(cells)} | {max(moved, issued):.0f} | |")
    wrong = [k.name for found in kernels.values() for k in found.values() if k.used.spilled or k.used.stack]
    for name in wrong:
        print(f"kernel_table: {name} uses local memory", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
