"""Compiles every Triton kernel ahead of time, with no GPU; exit 1 on a spill, a limit passed or a form a batch size.

python scripts/aot.py [--arch 80 90 100 120] [--op temporal_conv] [--form bf16] [--count] [--sass FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB that one block may use
SIZE = 17  # of what varies between batches: Triton compiles 1 and multiples of 16 anew where it is not told not to
LABEL = re.compile(r"^(\.L\w+):")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(.*;)")
JUMP = re.compile(r"\bBRA\S* .*`\((\.L\w+)\)")
PRODUCT = re.compile(r"\b(HGMMA|HMMA|UTCHMMA)\b")
# What ptxas makes of each of Triton's products: one instruction, so that PTX says which without a disassembly.
PTX_OF = {"HMMA": "mma.sync", "HGMMA": "wgmma.mma_async", "UTCHMMA": "tcgen05.mma"}
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Built(NamedTuple):
    name: str
    arch: int
    registers: int
    shared: int  # bytes a block
    spilled: int  # bytes a thread, on the stack
    wrong: str  # what is not as it must be, or ""
    instructions: int = 0  # this and the next only where it was disassembled
    loop: int = 0  # instructions of the innermost loop that multiplies matrices, 0 where none does
    form: Any = None


def counted(code: str) -> tuple[int, int]:
    """Instructions of a disassembly, and those of a turn of its shortest loop that holds a product of matrices.

    What a forward jump of that loop passes over, and holds no product, is left out: in a flattened loop, a tile's end.
    """
    at, labels, jumps, products = 0, {}, [], []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = at
        elif found := INSTRUCTION.match(line):
            if jump := JUMP.search(found[1]):
                jumps.append((at, jump[1]))
            if PRODUCT.search(found[1]):
                products.append(at)
            at += 1
    to = [(start, labels.get(name, start + 1)) for start, name in jumps]
    loops = [(end, start) for start, end in to if end <= start and any(end <= p <= start for p in products)]
    if not loops:
        return at, 0
    first, last = min(loops, key=lambda span: span[1] - span[0])
    passed: set[int] = set()
    for start, end in to:
        if first <= start < end <= last + 1 and not any(start < p < end for p in products):
            passed.update(range(start + 1, end))
    return at, last - first + 1 - len(passed)


def ops() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "d2kernels/ops").glob("*/triton.py"))


def signature(form: Any, size: int) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Types, constants and attributes that Triton compiles for, where what varies between batches is `size`."""
    types: dict[str, str] = {}
    constants, attributes = dict(form.constants), {}
    for place, parameter in enumerate(form.kernel.params):
        name = parameter.name
        types[name] = "constexpr" if name in constants else form.types[name]
        if types[name].startswith("*"):
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif types[name][0] in "iu" and not parameter.do_not_specialize:
            value = form.values.get(name, size)
            if value == 1:
                types[name], constants[name] = "constexpr", 1
            elif value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def build(op: str, arch: int, sass: Path | None, form_of: str = "", count: bool = True) -> Iterator[Built]:
    """Every specialization of one op in whose name the pattern `form_of` is, compiled for one architecture.

    Disassembled for `sass`, a folder, or to count instructions: as long as everything else on average.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    module = importlib.import_module(f"d2kernels.ops.{op}.triton")
    for form in module.specializations(arch):
        if not re.search(form_of, form.name):
            continue
        wrong: list[str] = []

        def compiled(size: int, form: Any = form, wrong: list[str] = wrong) -> Any:
            source = ASTSource(form.kernel, *signature(form, size))
            try:
                return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(form.options))
            except Exception as error:  # whatever the compiler's passes raise
                wrong.append(f"does not compile for sizes of {size}: {str(error).strip().splitlines()[-1]}")
                return None

        for size in (1, 16):
            if signature(form, size) != signature(form, SIZE):
                wrong.append(f"compiled anew for sizes of {size}")
                compiled(size)
        done = compiled(SIZE)
        if done is None:
            yield Built(f"{op} {form.name}", arch, 0, 0, 0, ", ".join(wrong))
            continue
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / "kernel.cubin"
            cubin.write_bytes(done.asm["cubin"])
            report = subprocess.run([tools / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True)
            registers, stack, static, local = map(int, USAGE.findall(report.stdout)[-1])
            code = ""
            if sass or count:
                disassemble = [tools / "nvdisasm", "-ndf", cubin]
                code = subprocess.run(disassemble, capture_output=True, text=True, check=True).stdout
        if sass:
            sass.mkdir(parents=True, exist_ok=True)
            (sass / f"{op}-{form.name.replace(' ', '-')}-sm_{arch}.sass").write_text(code)
        shared, spilled = max(static, done.metadata.shared), stack + local
        if shared > SHARED[arch] * 1024:
            wrong.append(f"shared memory past {SHARED[arch]} KiB")
        if spilled:
            wrong.append("spills")
        if (wanted := form.instructions.get(arch)) and PTX_OF[wanted] not in done.asm["ptx"]:
            wrong.append(f"no {PTX_OF[wanted]}, which becomes {wanted}")
        name = f"{op} {form.name}"
        yield Built(name, arch, registers, shared, spilled, ", ".join(wrong), *counted(code), form)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100, 120], choices=sorted(SHARED))
    parser.add_argument("--op", nargs="+", default=ops(), choices=ops())
    parser.add_argument("--form", default="", help="only forms in whose name this pattern is")
    parser.add_argument("--sass", type=Path, help="folder for each kernel's disassembly; counts instructions")
    parser.add_argument("--count", action="store_true", help="instructions, and those of the loop of products")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: interpreted kernels are not compiled; unset it")
    sys.path.insert(0, str(ROOT))
    count = options.count or options.sass is not None
    print(f"registers  shared  spilled{'  instructions  loop' if count else ''}  arch  kernel")
    wrong = 0
    for op in options.op:
        for arch in options.arch:
            for one in build(op, arch, options.sass, options.form, count):
                line = f"{one.registers:9} {one.shared:7} {one.spilled:8}"
                line += f"  {one.instructions:12}  {one.loop:4}" if count else ""
                line += f"  {one.arch:4}  {one.name}"
                print(line + (f"  WRONG: {one.wrong}" if one.wrong else ""), flush=True)
                wrong += bool(one.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
