"""Ahead-of-time compilation: a GPU's code without one, and what the report says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

AOT = Path(__file__).parents[2] / "scripts/aot.py"

FAKE = """
import sys
sys.path.insert(0, {scripts!r})
import aot, triton, triton.language as tl
from types import SimpleNamespace
from d2kernels.ops._triton import Specialization

@triton.jit(do_not_specialize=["n"])
def double(x, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)

@triton.jit
def anew(x, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + i, i + (n - 1).to(tl.float32), mask=i < n)

@triton.jit(do_not_specialize=["n"])
def outer(x, n, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.load(x + i[:, None] + i[None, :]), tl.load(x + i[:, None] * i[None, :])
    tl.store(x + i[:, None] * B + i[None, :], tl.dot(a, b))

def forms(arch):
    types = {{"x": "*fp32", "n": "i32"}}
    return [
        Specialization("fine", double, types, {{"B": 128}}, options={{"num_warps": 4}}),
        Specialization("lacks", double, types, {{"B": 128}}, instructions={{arch: "HGMMA"}}),
        Specialization("spills", outer, types, {{"B": 256}}, options={{"num_warps": 2, "maxnreg": 64}}),
        Specialization("anew", anew, types, {{"B": 128}}),
        Specialization("layer's", double, types, {{"B": 128}}, values={{"n": 1}}),
    ]

aot.importlib = SimpleNamespace(import_module=lambda name: SimpleNamespace(specializations=forms))
aot.ops = lambda: ["fake"]
sys.exit(aot.main(["--arch", "90"]))
"""


def python(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_what_is_wrong_with_a_form_is_found(tmp_path):
    file = tmp_path / "fake.py"  # the compiler reads a kernel's source from its file
    file.write_text(FAKE.format(scripts=str(AOT.parent)))
    done = python(file)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and len(lines) == 6, done.stderr
    assert re.search(r"fake fine$", lines[1]), done.stdout
    assert lines[2].endswith("fake lacks  WRONG: no wgmma.mma_async, which becomes HGMMA")
    assert "spills" in lines[3].partition("WRONG: ")[2]
    wrong = lines[4].partition("WRONG: ")[2]
    assert "anew for sizes of 1, does not compile for sizes of 1: " in wrong and "anew for sizes of 16" in wrong
    assert lines[5].endswith("fake layer's")


def test_interpreted_kernels_are_refused():
    done = subprocess.run(
        [sys.executable, AOT], capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 2 and "unset it" in done.stderr


def test_temporal_conv_compiles_for_hopper(tmp_path):
    form = "^(plain )?(forward|wgrad) conv bf16"
    done = python(AOT, "--op", "temporal_conv", "--arch", "90", "--form", form, "--sass", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = list(tmp_path.glob("*.sass"))
    assert len(found) == 4 and all("HGMMA" in file.read_text() for file in found)
    assert all(int(line.split()[4]) > 0 for line in done.stdout.splitlines()[1:]), done.stdout
    assert done.stdout.count("  temporal_conv ") == 4


def test_pooling_compiles_once_for_any_batch():
    done = python(AOT, "--op", "attention_pool", "foreground_score", "lowest_attention", "--arch=80", "--form=bfloat16")
    assert done.returncode == 0 and done.stdout.count(" bfloat16\n") == 13, done.stdout
