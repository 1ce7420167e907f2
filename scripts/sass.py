"""Machine code of CUDA kernels as cuobjdump prints it: instructions, loops and what they are made of.

cuobjdump -sass FILE | python scripts/sass.py [NAME]     the loops of each kernel whose name holds NAME
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from resources import readable

FUNCTION = re.compile(r"\s*Function : (\w+)")
LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
TARGET = re.compile(r"0x([0-9a-f]+)\s*$")

# By the unit that executes it; what is in no list is integer and control work.
KINDS = {
    "global": ("LDG", "STG", "ATOMG", "RED", "ATOM", "LDGSTS"),
    "shared": ("LDS", "STS", "ATOMS"),
    "local": ("LDL", "STL"),
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL", "HADD2", "HMUL2", "HFMA2"),
    "double": ("DADD", "DMUL", "DFMA", "DSETP"),
    "special": ("MUFU", "F2F", "F2I", "I2F", "POPC", "FLO"),
    "warp": ("SHFL", "VOTE", "VOTEU", "REDUX", "MATCH"),
    "barrier": ("BAR", "WARPSYNC", "BSYNC", "BSSY", "DEPBAR"),
}
KIND = {name: kind for kind, names in KINDS.items() for name in names}


class Instruction(NamedTuple):
    address: int
    opcode: str  # with its modifiers
    operands: str
    predicate: str = ""  # that it runs under

    @property
    def kind(self) -> str:
        return KIND.get(self.opcode.split(".")[0], "integer")


class Loop(NamedTuple):
    first: int  # indices of its instructions, from the branch's target to the branch
    last: int
    depth: int
    body: tuple[Instruction, ...]  # without those of loops inside it


def functions(lines: Iterable[str]) -> dict[str, list[Instruction]]:
    """Instructions by the mangled name of their kernel; NOPs are left out."""
    found: dict[str, list[Instruction]] = {}
    here: list[Instruction] = []
    for line in lines:
        if match := FUNCTION.match(line):
            here = found.setdefault(match[1], [])
        elif (match := LINE.match(line)) and match[3] != "NOP":
            here.append(Instruction(int(match[1], 16), match[3], match[4].strip(), match[2] or ""))
    return found


def loops(code: list[Instruction]) -> list[Loop]:
    """By their backward branches; a body is what no inner loop holds."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    spans: dict[int, int] = {}
    for i, instruction in enumerate(code):
        target = TARGET.search(instruction.operands)
        if instruction.opcode.startswith("BRA") and target and int(target[1], 16) < instruction.address:
            spans[at[int(target[1], 16)]] = max(i, spans.get(at[int(target[1], 16)], 0))
    found = []
    for first, last in sorted(spans.items()):
        inner = [(a, b) for a, b in spans.items() if first <= a and b <= last and (a, b) != (first, last)]
        body = (i for i in range(first, last + 1) if not any(a <= i <= b for a, b in inner))
        depth = sum(a <= first and last <= b for a, b in spans.items())
        found.append(Loop(first, last, depth, tuple(code[i] for i in body)))
    return found


def holds(loop: Loop, *opcodes: str) -> bool:
    """Whether the loop's own body has each of these, by the beginning of their names."""
    return all(any(instruction.opcode.startswith(opcode) for instruction in loop.body) for opcode in opcodes)


def mix(code: Iterable[Instruction]) -> Counter[str]:
    return Counter(instruction.kind for instruction in code)


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    found = {name: code for name, code in functions(sys.stdin).items() if code}
    if not found:
        print("sass: no kernel; pipe the output of cuobjdump -sass in", file=sys.stderr)
        return 1
    for (_, code), name in zip(found.items(), readable(list(found)), strict=True):
        if wanted not in name:
            continue
        print(f"{name[:100]}: {len(code)} instructions: {dict(mix(code).most_common())}")
        for loop in loops(code):
            size = f"{len(loop.body)} of {loop.last - loop.first + 1}"
            place = f"{code[loop.first].address:#x}-{code[loop.last].address:#x}"
            print(f"  {'  ' * (loop.depth - 1)}{place} {size}: {dict(mix(loop.body).most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
