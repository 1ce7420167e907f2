"""What one warp alone needs for loops whose instructions wait for one another, by their machine code; no GPU.

cuobjdump -sass FILE | python scripts/latency.py KERNEL [OPCODE ...]

Takes the smallest loop of the kernel whose span, inner loops included, has all of the opcodes, or every loop where none
is given, and prints the cycles of one pass: instructions issue in order, each when its operands are there. Inner loops
run once; no branch is taken but past the slow path of a division or a root. The latencies are those published for
earlier architectures; nothing else of the machine is known here, so that a time is an estimate and no measurement.
"""

from __future__ import annotations

import re
import sys

import sass
from resources import readable

# Cycles until a result can be used, by the beginning of an opcode; and cycles before the next instruction issues.
LATENCY = {"LDG": 300, "LDS": 29, "LDC": 8, "LD.": 33, "SHFL": 24, "MUFU": 24, "F2F": 16, "I2F": 16, "F2I": 16, "D": 8,
           "VOTE": 12, "REDUX": 30, "S2R": 20, "BRA": 10, "WARPSYNC": 10, "BAR": 30, "BSYNC": 8}  # fmt: skip
OTHERS = 5
DOUBLES = 2  # a warp's doubles issue in two cycles
REGISTER = re.compile(r"\b(UR|R|UP|P)(\d+)\b(\.64)?")


def latency(opcode: str) -> int:
    if opcode.startswith("DEPBAR"):
        return OTHERS
    return next((cycles for name, cycles in LATENCY.items() if opcode.startswith(name)), OTHERS)


def registers(text: str, wide: bool) -> list[str]:
    """Those that an operand names; of a pair both."""
    found = []
    for kind, number, pair in REGISTER.findall(text):
        found.append(kind + number)
        if (wide or pair) and kind in ("R", "UR"):
            found.append(f"{kind}{int(number) + 1}")
    return found


def path(code: list[sass.Instruction]) -> list[sass.Instruction]:
    """What runs of it: branches over a call are taken, and those that depend on nothing; no other is."""
    kept, until = [], -1
    for i, one in enumerate(code):
        if one.address < until:
            continue
        kept.append(one)
        target = sass.TARGET.search(one.operands)
        if one.opcode.startswith("BRA") and target and (to := int(target[1], 16)) > one.address:
            over = [x for x in code[i + 1 :] if x.address < to]
            if (not one.predicate and "P" not in one.operands) or any(x.opcode.startswith("CALL") for x in over):
                until = to
    return kept


def cycles(code: list[sass.Instruction], passes: int = 3) -> float:
    """Of one pass, once the loop has begun."""
    ready: dict[str, int] = {}
    now, ends = 0, []
    for _ in range(passes):
        for one in code:
            first, _, rest = one.operands.partition(",")
            if one.opcode.startswith("SHFL"):
                first, _, rest = rest.partition(",")
            double = one.opcode.startswith(("DADD", "DMUL", "DFMA", "DSETP"))
            wide = double or ".64" in one.opcode or "WIDE" in one.opcode
            stores = one.opcode.startswith(("ST", "BRA", "BAR", "WARPSYNC", "BSSY", "BSYNC", "CALL"))
            read = registers(one.operands if stores else rest, double)
            now = max([now, *(ready.get(name, 0) for name in read)])
            if not stores:
                done = now + latency(one.opcode)
                for name in registers(first, wide):
                    ready[name] = done
                # A comparison's first two operands are predicates that it writes.
                if "SETP" in one.opcode:
                    for name in registers(rest.partition(",")[0], False):
                        ready[name] = done
            now += DOUBLES if double else latency(one.opcode) if stores and not one.opcode.startswith("ST") else 1
        ends.append(now)
    return ends[-1] - ends[-2]


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    kernel, *opcodes = sys.argv[1:]
    found = {name: code for name, code in sass.functions(sys.stdin).items() if code}
    for code, name in zip(found.values(), readable(list(found)), strict=True):
        if name != kernel:
            continue
        loops = sass.loops(code)
        spans = [code[loop.first : loop.last + 1] for loop in loops]
        if spans and not opcodes:
            for loop, whole in zip(loops, spans, strict=True):
                span = path(whole)
                place = f"{whole[0].address:#x}-{whole[-1].address:#x}"
                print(f"{'  ' * (loop.depth - 1)}{place}: {len(span)} instructions, {cycles(span):.0f} cycles a pass")
            return 0
        fit = [span for span in spans if all(any(i.opcode.startswith(o) for i in span) for o in opcodes)]
        if fit:
            span = path(min(fit, key=len))
            print(f"{kernel}: {len(span)} instructions, {cycles(span):.0f} cycles a pass")
            return 0
    print(f"latency: no loop of {kernel} has {', '.join(opcodes) or 'instructions'}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
