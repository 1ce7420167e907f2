"""The emulated GPU of tests/gpuemu: it reports planted defects, and its record says no more than what ran."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tests/gpuemu"
sys.path.append(str(ROOT / "tests"))

from gpuemu import build, csrc, emulate, planted, selection  # noqa: E402
from gpuemu.translate.blocks import blocks  # noqa: E402


@pytest.mark.slow
def test_planted_defects_are_reported():
    for variable, tool in (("NVCC", "nvcc"), ("CXX", "g++")):
        if not shutil.which(os.environ.get(variable, tool)):
            pytest.skip(f"no {tool} on PATH; set {variable}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, TOOL / "selftest/run.py", "--cache", ROOT / "build/gpuemu"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "41 cases, 0 wrong" in done.stdout and "2 xfailed" in done.stdout, done.stdout


def test_the_loops_of_a_kernel_are_found():
    code = """
    mov.u32 %r1, 0;
$outer:
    mov.u32 %r2, 0;
$inner:
    add.u32 %r2, %r2, 1;
    @%p1 bra $inner;
    @%p2 bra $skipped;
    add.u32 %r3, %r3, 1;
$skipped:
    @%p3 bra $outer;
    ret;"""
    found = [
        ("label", line[:-1], "") if line.endswith(":") else ("statement", line.strip(" ;"), "")
        for line in code.split("\n")[1:]
    ]
    flow = blocks(found)
    assert sorted(flow.starts.values()) == list(range(7))
    assert flow.loop == [-1, 0, 1, 0, 0, 0, -1] and flow.parent == [-1, 0] and flow.header == [1, 2]


@pytest.fixture
def ran(tmp_path):
    """record() of parts given as name, results or None, whether the part passed."""

    def make(*parts):
        hashes = {"nms/native": "a", "svd/native": "b", "pdmi/triton": "c", "topk_pool/native": "edited"}
        found = []
        for number, (name, results, fine) in enumerate(parts):
            file = tmp_path / str(number)
            if results is not None:
                file.write_text(json.dumps(results))
            found.append((emulate.Part(name, [], file), fine))
        return emulate.record(found, hashes | {"topk_pool/native": "meanwhile"}, hashes)

    return make


def test_the_record_names_what_ran_and_whether_all_of_it_passed(ran):
    module = "d2kernels.ops.pdmi.triton_kernels"
    checks = ("csrc/checks", {"nms": True, "svd": False, "topk_pool": True}, False)
    made = ran(checks, ("kernels, sm_80", {module: True}, True), ("launches, sm_80", None, False))
    assert made == {
        "nms/native": {"hash": "a", "arch": [80, 90], "passed": True},
        "svd/native": {"hash": "b", "arch": [80, 90], "passed": False},
        "pdmi/triton": {"hash": "c", "arch": [80, 90], "passed": True},
    }
    # A part that failed for no kernel that it names, as by a crash, vouches for none.
    made = ran(("kernels, sm_80", {module: True}, True), ("kernels, sm_90", None, False))
    assert made == {"pdmi/triton": {"hash": "c", "arch": [80, 90], "passed": False}}
    assert ran(("kernels, sm_80", {module: True}, True), ("tiles, sm_80", {module: False}, False)) == made


def test_every_part_writes_what_the_record_reads(tmp_path):
    for part in emulate.parts(tmp_path, {}, 2, False, 1):
        assert any(str(part.results) in option for option in part.command), part.name


def test_checks_are_laid_at_an_op():
    fine = csrc.Run(True, ["nms: 3 segments: equal", "svd: 2 x 2: equal"], [])
    wrong = csrc.Run(False, fine.equal, ["gpuemu: race at csrc/include/d2kernels/svd.h:3 in svd_kernel: ..."])
    assert csrc.of_op("nms", [fine, fine]) is True and csrc.of_op("pdmi", [fine]) is None
    assert csrc.of_op("nms", [fine, wrong]) is True and csrc.of_op("svd", [fine, wrong]) is False
    assert csrc.of_op("nms", [fine, csrc.Run(False, fine.equal, [])]) is False
    lines = ["0 csrc/cuda/a.cu:3", "1 csrc/cuda/a.cu:3 < b.h:9", "0 csrc/cuda/a.cu:7", "0 cub/c.cuh:1"]
    assert csrc.reached(lines) == ["1 of 2 lines of kernels were reached", "never reached: csrc/cuda/a.cu 7"]
    assert csrc.reached([]) == []
    assert csrc.of_op("pdmi", [csrc.Run(False, [], ["pdmi, 8 cases: WRONG"])]) is False


def test_every_launcher_of_csrc_is_captured_by_the_checks():
    launchers = set()
    for header in (ROOT / "csrc/include/d2kernels").glob("*.h"):
        for device in re.findall(r"namespace cuda \{(.*?)\n\}  // namespace cuda", header.read_text(), re.S):
            found = re.findall(r"\bStatus (\w+)\(([^;]*)\);", device)
            structs = re.findall(r"struct (\w+) \{([^}]*)\}", device)
            streams = {"stream", *(name for name, fields in structs if "stream" in fields)}
            launchers |= {name for name, parameters in found if any(x in parameters for x in streams)}
    checks = "".join(file.read_text() for file in (ROOT / "csrc/checks").glob("*.cu"))
    assert {"tv_l1", "svd"} <= launchers == set(re.findall(r"CAPTURED\(d2k::cuda::(\w+)[(<]", checks))


def test_tools_that_are_missing_are_named(monkeypatch):
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    assert emulate.why_not()["csrc/checks"] == "no no-such-nvcc on PATH; set NVCC"
    monkeypatch.setattr("gpuemu.build.CXX", "no-such-g++")
    assert emulate.why_not() == dict.fromkeys(("csrc/checks", "Triton"), "no no-such-g++ on PATH; set CXX")


@pytest.mark.parametrize("name", planted.PLANTED)
def test_defects_for_the_library_still_have_their_places(name):
    assert planted.planted(planted.PLANTED[name])


def test_the_quick_selection_names_tests_that_there_are():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", "tests/triton"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    if "::" not in listed:
        pytest.skip("nothing is collected: no Triton here")
    lines = [line.split("#")[0].partition(" examples=")[0].strip() for line in selection.QUICK.read_text().splitlines()]
    named = [name for name in lines if (ROOT / "tests/triton" / name.split("::")[0]).is_file()]
    assert named and [name for name in named if name not in listed] == []


def test_a_source_is_built_anew_where_a_header_of_it_changes(tmp_path):
    (tmp_path / "include").mkdir()
    (tmp_path / "a.cu").write_text('#include "b.h"\n#include <vector>\n')
    (tmp_path / "b.h").write_text('#include "c.h"\n')
    for name in ("c", "other"):
        (tmp_path / f"include/{name}.h").write_text("")

    def key():
        return build.included(tmp_path / "a.cu", [tmp_path / "include"])

    before = key()
    (tmp_path / "include/other.h").write_text("int x;")
    assert key() == before
    (tmp_path / "include/c.h").write_text("int x;")
    assert key() != before
