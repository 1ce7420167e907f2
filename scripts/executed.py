"""Machine instructions that the warps of a launch execute, and how long they wait for one another; no GPU.

tests/gpuemu runs the kernel's PTX and records which basic blocks each warp executes (runtime/trace.cpp). A block of
machine code runs as often as the PTX that its lines are from: what reads memory or synchronises, and doubles, are the
same instructions in both. Code for a warp that has come apart before a shuffle lies behind all else, and is left out.
Cycles are those of latency.py; a load by a generic address waits for shared memory, or for the L2 where it went to
global memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import latency
import numpy as np
import sass

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from gpuemu.translate.blocks import blocks
from gpuemu.translate.parse import parse

FAR, L2 = 0xFFFF, 237  # a load by a generic address that finds global memory waits for so many cycles more
STEP = np.dtype([("epoch", "u4"), ("block", "u2"), ("warp", "u2")])
# What is the same in both: PTX's name to the machine's.
SAME = {
    "ld.global": "LDG", "ld.shared": "LDS", "ld": "LD", "st.global": "STG", "st.shared": "STS", "st": "ST",
    "shfl": "SHFL", "bar": "BAR", "add.f64": "DADD", "setp.f64": "DSETP", "vote": "VOTE",
}  # fmt: skip
PLACE = re.compile(r'//## File "([^"]+)", line (\d+)')
Chain = tuple[str, ...]  # "file:line", and what it is inlined at


class Line(NamedTuple):
    one: sass.Instruction
    chain: Chain


class Executed(NamedTuple):
    instructions: float  # of warps
    cycles: float  # that a warp needs for one of them
    turns: np.ndarray  # of the outermost loop: cycles of the slowest warp between barriers, summed


def machine_code(cubin: Path, nvdisasm: str) -> dict[str, list[list[Line]]]:
    """By kernel, the basic blocks of its code."""
    command = [nvdisasm, "-gi", "-c", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[list[Line]]] = {}
    labels: dict[str, tuple[list[list[Line]], int]] = {}
    apart: list[str] = []
    chain: list[str] = []
    fresh = False
    for raw in text.splitlines():
        if match := re.match(r"\s*\.section\s+\.text\.(\w+)", raw):
            here = found.setdefault(match[1], [[]])
        elif raw.startswith("$__internal"):  # the slow paths of divisions and roots
            here = [[]]
        elif not found:
            continue
        elif match := re.match(r"(\.L_x_\d+):", raw):
            if here[-1]:
                here.append([])
            labels[match[1]] = here, len(here) - 1
        elif match := PLACE.search(raw):
            chain = [] if fresh else chain
            fresh = False
            chain.append(f"{Path(match[1]).name}:{match[2]}")
        elif (match := sass.LINE.match(raw)) and match[3] != "NOP":
            fresh = True
            here[-1].append(
                Line(sass.Instruction(int(match[1], 16), match[3], match[4].strip(), match[2] or ""), tuple(chain))
            )
            if match[3] == "BRA.DIV":
                apart += re.findall(r"\.L_x_\d+", match[4])
            if match[3].startswith(("BRA", "BRX", "EXIT", "RET", "CALL")):
                here.append([])
    for label in apart:
        code, first = labels[label]
        del code[first:]
    return found


def kind_of(text: str) -> str | None:
    parts = re.sub(r"^@!?[\w%$]+\s+", "", text).split()[0].split(".")
    if parts[0] in ("ld", "st"):
        return SAME.get(".".join([parts[0], *(p for p in parts if p in ("global", "shared", "param", "const"))]))
    name = "add" if parts[0] == "sub" else parts[0]
    return SAME.get(f"{name}.{parts[-1]}", SAME.get(name))


def frequency(block: list[Line], ran: dict[tuple[Chain, str | None], list[float]]) -> float:
    """How often a block runs: the median of its instructions that are in PTX too, else of the lines that it is from."""
    for same in (True, False):
        found = []
        for one, chain in block:
            kind = one.opcode.split(".")[0] if same else None
            if same and (one.predicate or kind not in SAME.values()):
                continue
            # The whole chain, or its innermost two.
            counts = ran.get((chain, kind)) or ran.get((chain[:2], kind))
            if counts:
                found.append(float(np.mean(counts) if same else np.median(counts)))
        if found:
            return float(np.median(found))
    return 0.0


def executed(ptx: str, code: list[list[Line]], name: str, trace: Path) -> Executed:
    kernel = next(k for k in parse(ptx, "", chains=True).kernels if k.name == name)
    flow = blocks(kernel.code)
    steps = np.fromfile(trace, STEP)
    far, steps = steps[steps["block"] == FAR], steps[steps["block"] != FAR]
    count = np.bincount(steps["block"], minlength=len(flow.loop)).astype(float)
    length = np.zeros(len(count))
    ran: dict[tuple[Chain, str | None], list[float]] = defaultdict(list)
    b = -1
    for place, (kind, text, line) in enumerate(kernel.code):
        b = flow.starts.get(place, b)
        if kind == "statement" and not text.startswith("."):
            length[b] += 1
            chain = tuple(line.split(" < "))
            for key in {chain, chain[:2]}:
                ran[key, None].append(count[b])
                if same := kind_of(text):
                    ran[key, same].append(count[b])
    instructions = cycles = 0.0
    for block in filter(None, code):
        often = frequency(block, ran)
        instructions += often * len(block)
        cycles += often * latency.cycles([line.one for line in block])
    # Between two barriers the slowest warp counts.
    places = (int(steps["epoch"].max()) + 1) * 32
    waits = [of["epoch"].astype(np.int64) * 32 + of["warp"] for of in (steps, far)]
    parts = np.bincount(waits[0], length[steps["block"]], places) * cycles / (count @ length)
    parts = (parts + np.bincount(waits[1], minlength=places) * L2).reshape(-1, 32).max(1)
    begins = (
        np.unique(steps["epoch"][(steps["block"] == flow.header[0]) & (steps["warp"] == 0)]) if flow.header else [0]
    )
    return Executed(instructions, cycles / instructions, np.add.reduceat(parts, np.minimum(begins, len(parts) - 1)))
