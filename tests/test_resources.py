"""The reader of ptxas's report."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import resources

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


@pytest.mark.parametrize(("text", "code"), [(REPORT.format(12), 1), (REPORT.partition("_Z4poord")[0], 0), ("", 1)])
def test_a_spill_or_no_report_fails(text, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert resources.main() == code
