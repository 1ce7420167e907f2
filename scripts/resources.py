"""What ptxas says of each kernel: registers, shared memory, spills. Reads nvcc's output on stdin.

nvcc -Xptxas=-v ... 2>&1 | python scripts/resources.py
nvcc -Xptxas=-v $(python scripts/resources.py --gencode) ...      for the architectures that wheels hold

Exit status 1 where a kernel spills or has other local memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

from build_plan import DEFAULT_ARCHS

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


class Kernel(NamedTuple):
    name: str
    arch: str
    registers: int
    shared: int  # bytes, static
    stack: int  # bytes a thread
    spilled: int  # bytes stored and loaded


def kernels(lines: Iterable[str]) -> list[Kernel]:
    """Every entry function, in the order in which ptxas compiled them."""
    found: list[Kernel] = []
    entry: tuple[str, str] | None = None
    frame = (0, 0)
    for line in lines:
        if match := ENTRY.search(line):
            entry, frame = (match[1], match[2]), (0, 0)
        elif entry and (match := FRAME.search(line)):
            frame = (int(match[1]), int(match[2]) + int(match[3]))
        elif entry and (match := USED.search(line)):
            shared = SHARED.search(line)
            found.append(Kernel(*entry, int(match[1]), int(shared[1]) if shared else 0, *frame))
            entry = None
    return found


def readable(names: list[str]) -> list[str]:
    """Without namespaces and arguments, where c++filt is there."""
    if not names or not shutil.which("c++filt"):
        return names
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = (re.sub(r"\(anonymous namespace\)::|d2k::cuda::|d2k::", "", line) for line in plain.splitlines())
    return [re.sub(r"^void ", "", line.partition("(")[0]) for line in short]


def gencode(listed: str) -> str:
    """nvcc's option, as in CMakeLists.txt, for what wheels hold of the architectures that --list-gpu-code lists."""
    known = [arch for arch in DEFAULT_ARCHS if f"sm_{arch}" in listed.split()]
    return f"-gencode=arch=compute_{known[0]},code=[{','.join(f'sm_{arch}' for arch in known)}]"


def main() -> int:
    if sys.argv[1:] == ["--gencode"]:
        print(gencode(subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout))
        return 0
    found = kernels(sys.stdin)
    if not found:
        print("resources: ptxas named no kernel; compile with -Xptxas=-v", file=sys.stderr)
        return 1
    print("registers  shared  stack  spilled  kernel")
    for kernel, name in zip(found, readable([k.name for k in found]), strict=True):
        sizes = f"{kernel.registers:9} {kernel.shared:7} {kernel.stack:6} {kernel.spilled:8}"
        print(f"{sizes}  {kernel.arch} {name[:80]}")
    wrong = [kernel for kernel in found if kernel.spilled or kernel.stack]
    print(f"{len(found)} kernels, {len(wrong)} with spills or other local memory")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
