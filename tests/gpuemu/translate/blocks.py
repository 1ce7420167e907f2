"""A kernel's basic blocks and the loops that they are in, for traces of which blocks its warps execute."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gpuemu.translate.text import split

_JUMP = re.compile(r"(@!?[\w%$]+\s+)?(bra|brx|ret|exit)\b\S*\s*(.*)$", re.S)


class Blocks(NamedTuple):
    starts: dict[int, int]  # place in the code to the block that begins there
    loop: list[int]  # by block: the innermost loop that it is in, or -1
    parent: list[int]  # by loop, the outer ones first: the loop around it, or -1
    header: list[int]  # by loop: its first block


def blocks(code: Sequence[tuple[str, str, str]]) -> Blocks:
    """Of a kernel's code as parse.py has it: kind, text and line."""
    starts: dict[int, int] = {}
    label_of: dict[str, int] = {}
    targets: dict[str, list[str]] = {}
    jumps: list[list[str]] = []  # by block: labels that it may go to
    falls: list[bool] = []  # by block: whether it may go on into the next one
    fresh, last = True, ""
    for i, (kind, text, _) in enumerate(code):
        if kind == "label":
            fresh, last = True, text
            label_of[text] = len(jumps)
        elif text.startswith(".branchtargets"):
            targets[last] = split(text.removeprefix(".branchtargets"))
        elif kind == "statement" and not text.startswith("."):
            if fresh:
                starts[i] = len(jumps)
                jumps.append([])
                falls.append(True)
                fresh = False
            if found := _JUMP.match(text):
                guard, name, rest = found.groups()
                operands = split(rest)
                jumps[-1] = targets[operands[1]] if name == "brx" else operands if name == "bra" else []
                falls[-1] = guard is not None
                fresh = True
    count = len(jumps)
    after = [[label_of[label] for label in jumps[b]] + ([b + 1] if falls[b] else []) for b in range(count)]
    after = [[to for to in found if to < count] for found in after]
    return Blocks(starts, *_loops(after))


def _loops(after: list[list[int]]) -> tuple[list[int], list[int], list[int]]:
    """The natural loops of a graph that begins at 0; those with one header are one."""
    before: list[list[int]] = [[] for _ in after]
    for b, found in enumerate(after):
        for to in found:
            before[to].append(b)
    dominators = _dominators(after, before)
    bodies: dict[int, set[int]] = {}
    for b, found in enumerate(after):
        for header in found:
            if header in dominators[b]:
                body, waiting = bodies.setdefault(header, {header}), [b]
                while waiting:
                    if (one := waiting.pop()) not in body:
                        body.add(one)
                        waiting += before[one]
    ordered = sorted(bodies, key=lambda header: -len(bodies[header]))
    loop, parent = [-1] * len(after), []
    for number, header in enumerate(ordered):
        parent.append(loop[header])
        for b in bodies[header]:
            loop[b] = number
    return loop, parent, ordered


def _dominators(after: list[list[int]], before: list[list[int]]) -> list[set[int]]:
    """By block, those that every way to it goes through; of a block without a way to it, itself."""
    reached, waiting = {0}, [0]
    while waiting:
        for to in after[waiting.pop()]:
            if to not in reached:
                reached.add(to)
                waiting.append(to)
    found = [set(reached) if b in reached else {b} for b in range(len(after))]
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for b in sorted(reached - {0}):
            new = set.intersection(*(found[x] for x in before[b] if x in reached)) | {b}
            changed |= new != found[b]
            found[b] = new
    return found
