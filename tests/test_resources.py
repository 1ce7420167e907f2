"""The readers of ptxas's report and of machine code."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import build_plan
import kernel_table
import latency
import resources
import sass

REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4fineif' for 'sm_90'
ptxas info    : Function properties for _Z4fineif
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1088 bytes smem
ptxas info    : Compiling entry function '_Z4poord' for 'sm_90'
ptxas info    : Function properties for _Z4poord
    16 bytes stack frame, {} bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_reads_every_kernel():
    fine, poor = resources.kernels(REPORT.format(12).splitlines())
    assert fine == ("_Z4fineif", "sm_90", 40, 1088, 0, 0)
    assert poor == ("_Z4poord", "sm_90", 255, 0, 16, 16)


FINE = REPORT.partition("_Z4poord")[0]
STACK = REPORT.format(0).replace("4 bytes spill loads", "0 bytes spill loads")


@pytest.mark.parametrize(("text", "code"), [(REPORT.format(12), 1), (STACK, 1), (FINE, 0), ("", 1)])
def test_a_spill_a_stack_frame_or_no_report_fails(text, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    monkeypatch.setattr(sys, "argv", ["resources.py"])
    assert resources.main() == code


def test_compiles_for_every_architecture_that_wheels_hold_and_the_compiler_knows():
    every = [f"sm_{arch}" for arch in build_plan.DEFAULT_ARCHS]
    assert resources.gencode("\n".join(["sm_75", *every])) == f"-gencode=arch=compute_80,code=[{','.join(every)}]"
    assert resources.gencode("sm_80\nsm_90\n") == "-gencode=arch=compute_80,code=[sm_80,sm_90]"


CODE = """
\t\tFunction : _Z4fineif
\t.headerflags\t@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                     /* 0x00000a0000017a02 */
        /*0010*/                   IMAD.MOV.U32 R0, RZ, RZ, RZ ;              /* 0x000000ffff007224 */
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;           /* 0x0000000402047981 */
        /*0030*/                   FADD R0, R0, R4 ;                          /* 0x0000000400007221 */
        /*0040*/              @!P1 BRA 0x30 ;                                 /* 0xfffffffffff09947 */
        /*0050*/                   ATOMS.POPC.INC.32 RZ, [R8+URZ] ;           /* 0x00000000080075b3 */
        /*0060*/               @P0 BRA 0x20 ;                                 /* 0xfffffffffff00947 */
        /*0070*/                   EXIT ;                                     /* 0x000000000000794d */
        /*0080*/                   BRA 0x80;                                  /* 0xfffffffc00fc7947 */
        /*0090*/                   NOP;                                       /* 0x0000000000007918 */
"""


def test_finds_loops_in_machine_code_and_what_they_are_made_of():
    (code,) = sass.functions(CODE.splitlines()).values()
    outer, inner = sass.loops(code)[:2]
    assert (len(code), outer.depth, inner.depth) == (9, 1, 2)
    assert [one.opcode for one in outer.body] == ["LDG.E.128", "ATOMS.POPC.INC.32", "BRA"]
    assert [one.opcode for one in inner.body] == ["FADD", "BRA"]
    assert sass.mix(outer.body) == {"global": 1, "shared": 1, "integer": 1}
    kernel = kernel_table.Kernel(resources.Kernel("_Z4fineif", "sm_90", 40, 0, 0, 0), "fine", code)
    assert kernel.loops("LDG", "ATOMS", lacks=("FADD",)) == [outer]
    assert kernel_table.by_element(outer, "LDG.E.128", 4) == 3 / 4
    with pytest.raises(SystemExit, match="fine has no loop of SHFL"):
        kernel.loops("SHFL")


WAITS = """
\t\tFunction : _Z4waitv
        /*0000*/                   LDS.64 R2, [R0] ;
        /*0010*/                   DADD R4, R2, R4 ;
        /*0020*/              @!P0 BRA 0x40 ;
        /*0030*/                   CALL.REL.NOINC 0x100 ;
        /*0040*/                   STS.64 [R0], R4 ;
        /*0050*/               @P1 BRA 0x0 ;
"""


def test_a_pass_waits_for_what_each_instruction_reads():
    (code,) = sass.functions(WAITS.splitlines()).values()
    assert [one.predicate for one in code if one.opcode == "BRA"] == ["!P0", "P1"]
    run = latency.path(code)
    assert [one.opcode for one in run] == ["LDS.64", "DADD", "BRA", "STS.64", "BRA"]  # past the slow path
    load, jump = latency.LATENCY["LDS"], latency.LATENCY["BRA"]
    assert latency.cycles(run) == load + latency.DOUBLES + jump + 1 + jump


def test_says_what_a_loop_takes(monkeypatch, capsys):
    monkeypatch.setattr(latency, "readable", lambda names: ["wait" for _ in names])
    for opcodes, code in ((["LDS", "DADD"], 0), (["MUFU"], 1)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(WAITS))
        monkeypatch.setattr(sys, "argv", ["latency.py", "wait", *opcodes])
        assert latency.main() == code
    said = capsys.readouterr()
    assert said.out == "wait: 5 instructions, 52 cycles a pass\n" and "no loop of wait has MUFU" in said.err
