"""gpu_check and its records, as far as they go without a GPU."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import gpu_check  # noqa: E402
import verified  # noqa: E402


@pytest.fixture
def sources(tmp_path):
    root = tmp_path / "source"
    for name in ("csrc", "d2kernels/ops"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return root


def result(folder, kernels, device="NVIDIA H100 80GB HBM3"):
    folder.mkdir(exist_ok=True)
    tree = {"device": device, "arch": "sm_90", "kernels": kernels}
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(tree))


def test_a_kernel_is_verified_until_a_source_of_it_changes(sources, tmp_path):
    results = tmp_path / "results"
    name = "connected_components/native"
    digest = verified.kernels(sources)[name]
    assert verified.unverified(sources, results) == {n: "never run on a GPU" for n in verified.kernels(sources)}
    result(results, {name: {"sha256": digest, "passed": False}})
    assert verified.unverified(sources, results)[name] == "never run on a GPU"
    result(results, {name: {"sha256": digest, "passed": True}})
    assert name not in verified.unverified(sources, results)
    headers = ("csrc/include/d2kernels/team.h", "csrc/cuda/launch.h")
    for changed in (*headers, "d2kernels/ops/connected_components/native.py"):
        before = (sources / changed).read_text()
        (sources / changed).write_text(before + "\n")
        assert verified.unverified(sources, results)[name] == "changed since its last GPU run"
        (sources / changed).write_text(before)
    (sources / "csrc/cpu/parallel.cpp").write_text("")
    assert name not in verified.unverified(sources, results)


def test_what_has_run_a_kernel_is_told_apart(sources, tmp_path):
    results, record = tmp_path / "results", tmp_path / "record.json"
    triton, native = "attention_pool/triton", "nms/native"
    hashes = verified.kernels(sources)

    def says():
        found = verified.standings(sources, results, record)
        return {name: found[name].says(name) for name in (triton, native)}

    assert says() == {triton: "interpreted only", native: "run by the CPU's teams only"}
    entries = {
        triton: {"hash": hashes[triton], "arch": [80, 90], "passed": True},
        native: {"hash": hashes[native], "arch": [90], "passed": False},
    }
    record.write_text(json.dumps(entries))
    assert says() == {triton: "emulated (sm_80, sm_90)", native: "FAILED in the emulator (sm_90)"}
    result(results, {native: {"sha256": hashes[native], "passed": True}}, "NVIDIA H200")
    result(results, {native: {"sha256": hashes[native], "passed": True}}, "NVIDIA H100 80GB HBM3")
    assert says()[native].startswith("run on a GPU (NVIDIA H100 80GB HBM3, NVIDIA H200)")
    source = sources / "csrc/cuda/nms.cu"
    source.write_text(source.read_text() + "\n")
    assert says()[native] == "run by the CPU's teams only; changed since its last GPU run"
    for broken in ("", "{", "[1]", '{"nms/native": 3}'):
        record.write_text(broken)
        assert says()[triton] == "interpreted only"


def test_a_result_that_is_no_json_is_named(tmp_path, sources):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is no GPU check's JSON"):
        verified.standings(sources, tmp_path)


def test_a_kernel_passes_by_tests_that_name_it():
    kernels = {"nms/native": {}, "nms/triton": {}, "svd/native": {}}
    tests = {"a::t[nms-native]": "passed", "a::u[3-nms-native]": "passed", "a::t[nms-triton]": "failed"}
    gpu_check.judge(kernels, tests)
    assert {name: entry["passed"] for name, entry in kernels.items()} == {
        "nms/native": True,
        "nms/triton": False,
        "svd/native": False,
    }


def test_every_step_is_kept_whatever_the_next_does(tmp_path):
    record = gpu_check.Record(tmp_path / "out.json", 60)

    def breaks(limit):
        raise RuntimeError("no context")

    assert record.step("one", lambda limit: gpu_check.command(sys.executable, "-c", "print(7)", limit=limit), 30)
    assert not record.step("two", breaks, 30)
    slow = (sys.executable, "-uc", "import time; print('begun'); time.sleep(60)")
    assert not record.step("three", lambda limit: gpu_check.command(*slow, limit=1), 30)
    record.seconds = 0
    assert not record.step("four", breaks, 30)
    steps = json.loads((tmp_path / "out.json").read_text())["steps"]
    assert [s["status"] for s in steps.values()] == ["passed", "failed", "timed out", "not run"]
    assert steps["one"]["tail"] == "7\n" and steps["two"]["why"] == "RuntimeError: no context"
    assert steps["three"]["tail"] == "begun\n"


def test_outcomes_of_a_junit_file(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(
        "<testsuites><testsuite><testcase classname='t' name='a'/>"
        "<testcase classname='t' name='b'><failure/></testcase>"
        "<testcase classname='t' name='c'><skipped/></testcase><testcase classname='t' name='d'><error/></testcase>"
        "</testsuite></testsuites>"
    )
    assert gpu_check.outcomes(path) == {"t::a": "passed", "t::b": "failed", "t::c": "skipped", "t::d": "failed"}
    assert gpu_check.outcomes(tmp_path / "none.xml") == {}


def test_without_a_gpu_it_says_what_failed_and_exits_1(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu_check.main([str(tmp_path / "out"), "--steps", "context"]) == 1
    tree = json.loads((tmp_path / "out/gpu_check.json").read_text())
    assert tree["steps"]["context"] | {"wall_s": 0, "tail": ""} == {
        "status": "failed",
        "why": "no test ran",
        "tests": tree["steps"]["context"]["tests"],
        "wall_s": 0,
        "tail": "",
    }
    assert set(tree["steps"]["context"]["tests"].values()) == {"skipped"}
    assert tree["kernels"].keys() == verified.kernels().keys()
    assert "connected_components/native: not verified" in capsys.readouterr().out


def test_benchmark_rows_are_kept(tmp_path):
    files = gpu_check.bench_files()
    assert files[0].name == "bench_step.py" and len(files) == len(set(files)) and all(f.is_file() for f in files)
    (cheap,) = (f for f in files if f.name == "bench_lowest_attention.py")
    found = gpu_check.benchmarks(60, tmp_path, [cheap], "cpu")
    assert found["status"] == "passed", found
    assert {one["row"]["op"] for one in found["rows"]} == {"lowest_attention"}
    assert found["machine"]["d2k"]["kind"] == "cpu"
