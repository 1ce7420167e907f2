"""gpu_check and its records, as far as they go without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import gpu_check  # noqa: E402
import rows  # noqa: E402
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


def started(tmp_path, seconds=60):
    run = gpu_check.Run(tmp_path / "out", seconds)
    run.tree |= {"kernels": {}}
    return run


def says(*code):
    return lambda run, step, limit: gpu_check.command(run.log, sys.executable, "-uc", *code, limit=limit)


def test_every_step_is_kept_whatever_the_next_does(tmp_path):
    run = started(tmp_path)

    def breaks(*_):
        raise RuntimeError("no context")

    assert run.step("one", says("print(7)"), 30)
    assert not run.step("two", breaks, 30)
    sleeper = "import subprocess, time; print('begun'); subprocess.run(['sleep', '60'])"
    assert not run.step("three", lambda *a: says(sleeper)(*a[:2], 3), 30)
    assert not run.step("four", says("import os; os.kill(os.getpid(), 11)"), 30)
    assert not run.step("five", lambda run, *_: gpu_check.command(run.log, "/nowhere/nvcc", limit=5), 30)
    run.seconds = 0
    assert not run.step("six", breaks, 30)
    steps = json.loads((run.out / "gpu_check.json").read_text())["steps"]
    wanted = ["passed", "failed", "timed out", "failed", "failed", "not run"]
    assert [s["status"] for s in steps.values()] == wanted
    assert steps["one"]["tail"] == "7\n" and steps["two"]["why"] == "RuntimeError: no context"
    assert steps["three"]["tail"] == "begun\n" and steps["three"]["wall_s"] < 20 and steps["four"]["exit"] == -11
    assert "begun" in run.log.read_text() and len(list(run.out.iterdir())) <= 8  # as many as come back


SUITE = """
import os, time, pytest

@pytest.mark.parametrize("op", ["nms", "svd"])
def test_op(op):
    pass

def test_crash():
    os.kill(os.getpid(), 11)

def test_fails():
    assert 1 == 2

def test_hang():
    time.sleep(600)

@pytest.fixture
def broken():
    yield
    raise OSError("teardown")

def test_teardown(broken):
    pass

def test_lost(monkeypatch):
    import sys
    from types import SimpleNamespace
    def synchronize():
        raise RuntimeError("an illegal memory access was encountered")
    cuda = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, synchronize=synchronize)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)
    assert False

def test_skipped():
    pytest.skip("not enough memory")

def test_last():
    pass
"""


def test_a_step_goes_on_after_the_test_that_lost_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "QUIET", 8.0)
    run = started(tmp_path, 200)
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    found = gpu_check.pytest(run, "ops", 150, f"--rootdir={tmp_path}", "-c", "/dev/null", suite)
    outcomes = {test.partition("::")[2]: outcome for test, outcome in found["tests"].items()}
    assert outcomes == {
        **{"test_op[nms]": "passed", "test_op[svd]": "passed", "test_last": "passed", "test_skipped": "skipped"},
        **dict.fromkeys(["test_crash", "test_fails", "test_hang", "test_teardown", "test_lost"], "failed"),
    }
    why = {test.partition("::")[2]: text for test, text in found["why_not"].items()}
    assert found["status"] == "failed" and why["test_crash"] == "exit -11"
    assert "1 == 2" in why["test_fails"] and "OSError: teardown" in why["test_teardown"]
    assert why["test_hang"] == "no test ended in 8 s" and "not enough memory" in why["test_skipped"]


def test_a_sanitizer_runs_check_by_check(tmp_path, monkeypatch):
    def script(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    listing = script("checks", "printf 'nms\\nsvd\\npdmi\\n'")
    tool = script("compute-sanitizer", 'case $4 in svd) echo "SUMMARY: 1 error"; exit 9;; pdmi) sleep 60;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu_check, "CHECKS", listing)
    found = gpu_check.sanitizer("memcheck")(started(tmp_path), "memcheck", 6)
    assert {name: one["status"] for name, one in found["checks"].items()} == {
        "nms": "passed",
        "svd": "failed",
        "pdmi": "timed out",
    }
    assert found["status"] == "failed" and found["why"].startswith("svd, pdmi: exit 9")
    tool.write_text("#!/bin/sh\necho 'Device not supported'; exit 1\n")
    refused = gpu_check.sanitizer("memcheck")(started(tmp_path), "memcheck", 6)
    assert (refused["status"], refused["why"]) == ("unavailable", "Device not supported")
    monkeypatch.setattr(gpu_check, "CHECKS", tmp_path / "none")
    assert "there is no check binary" in gpu_check.sanitizer("memcheck")(started(tmp_path), "memcheck", 6)["why"]


def test_what_a_time_out_leaves_is_no_pass(tmp_path):
    run = started(tmp_path)
    suite = tmp_path / "test_suite.py"
    names = ("[a-nms-native]", "[b-nms-native]", "[svd-native]")
    body = "import pytest, time\n@pytest.mark.parametrize('x', ['svd-native', 'a-nms-native', 'b-nms-native'])\n"
    suite.write_text(body + "def test(x):\n    time.sleep(60 if x == 'b-nms-native' else 0)\n")
    run.tree["kernels"] = {"nms/native": {}, "svd/native": {}, "pdmi/native": {}}
    run.step("ops", lambda *a: gpu_check.pytest(*a, f"--rootdir={tmp_path}", "-c", "/dev/null", suite), 15)
    tree = json.loads((run.out / "gpu_check.json").read_text())
    assert tree["steps"]["ops"]["status"] == "timed out"
    outcomes = {test.partition("::test")[2]: outcome for test, outcome in tree["steps"]["ops"]["tests"].items()}
    assert outcomes == dict(zip(names, ("passed", "failed", "passed"), strict=True))
    assert {k: v["passed"] for k, v in tree["kernels"].items()} == {
        "nms/native": False,
        "svd/native": True,
        "pdmi/native": False,
    }


def part(folder, name, device, tests, sha="a", machine=None):
    kernels = {"nms/native": {"sha256": sha, "passed": False}}
    tree = {"date": "2026-01-02", "device": device, "arch": "sm_90", "kernels": kernels, "machine": machine}
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(tree | {"steps": {name: {"status": "passed", "tests": tests}}}))
    return path


def test_parts_are_joined_each_gpu_apart(tmp_path):
    folder, into = tmp_path / "parts", tmp_path / "results"
    folder.mkdir()
    good, bad = {"t::a[nms-native]": "passed"}, {"t::b[nms-native]": "failed"}
    files = [
        part(folder, "ops", "NVIDIA H100 80GB HBM3", good),
        part(folder, "bench nms", "NVIDIA H100 80GB HBM3", {}, machine={"d2k": {"device": "it"}}),
        part(folder, "ops", "NVIDIA H200", good),
        part(folder, "gpu nms", "NVIDIA H200", bad),
        part(folder, "ops", "NVIDIA H200", good, sha="b"),
    ]
    names = ["nvidia-h100-80gb-hbm3-2026-01-02", "nvidia-h200-2026-01-02", "nvidia-h200-2026-01-02-2"]
    assert [p.stem for p in gpu_check.join(files, into)] == names
    trees = [json.loads((into / f"{name}.json").read_text()) for name in names]
    assert [tree["kernels"]["nms/native"]["passed"] for tree in trees] == [True, False, True]
    assert trees[0]["machine"]["d2k"]["device"] == "it" and list(trees[0]["steps"]) == ["ops", "bench nms"]
    assert rows.read(into / f"{names[0]}.json")[0] == {"device": "it"}
    with pytest.raises(SystemExit, match="names no GPU"):
        gpu_check.join([part(folder, "ops", None, good)], into)


def test_parts_fit_their_time_and_hold_every_gpu_test_and_benchmark_once():
    every = gpu_check.parts()
    assert list(every[0]) == ["build", "context", "ops", "step", "temporal_conv"] and gpu_check.SECONDS < 9 * 60
    names = [name for part in every for name in part if name != "build"]
    assert len(names) == len(set(names))
    benches = {path.stem[6:] for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert benches - {"step"} == {name[6:] for name in names if name.startswith("bench ")}
    tests = {path.stem[5:] for path in (ROOT / "tests/gpu").glob("test_*.py")}
    assert tests - {"context", "ops", "temporal_conv_gpu"} == {name[4:] for name in names if name.startswith("gpu ")}


def test_references_that_may_not_be_timed_without_waiting_are_those_that_wait():
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    spec = importlib.util.spec_from_file_location("gpu_test_ops", ROOT / "tests/gpu/test_ops.py")
    ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ops)

    class Waits(TorchDispatchMode):
        """Notes operations that a CUDA device cannot run without telling the host something."""

        names = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "linalg", "repeat_interleave", "item")

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out, name = function(*args, **(kwargs or {})), str(function)
            if "lift_fresh" in name:  # made from a number on the host, so read there too
                host.add(out.data_ptr())
            elif any(n in name for n in self.names) and "norm" not in name and args[0].data_ptr() not in host:
                found.setdefault(op, set()).add(name)
            return out

    class Watched:
        """A backend's module, what its functions do noted."""

        def __init__(self, module):
            self.module = module

        def __getattr__(self, name):
            def run(*arguments):
                with Waits():
                    return getattr(self.module, name)(*arguments)

            return run

    found, host = {}, set()
    select = ops.d2k.backends.select
    offsets = torch.tensor([0, *ops.LENGTHS]).cumsum(0)
    ragged = lambda values: ops.d2k.Ragged(values, offsets, max_length=max(ops.LENGTHS))  # noqa: E731
    for op, (inputs, call) in ops.DIFFERENTIABLE.items():
        leaves = [t.detach().float().requires_grad_() for t in inputs]
        with ops.d2k.backends.use("reference", op), pytest.MonkeyPatch.context() as patch:
            patch.setattr("d2kernels.backends.select", lambda *a: Watched(select(*a)))
            patch.setattr("d2kernels.ragged._values_can_be_checked", lambda *_: False)  # on a device they are not
            out = call(ragged, *leaves)
            torch.autograd.grad(out.sum(), leaves)
    assert found.keys() == {op for op, _ in ops.WAITING}, found


def test_without_a_gpu_it_says_what_failed_and_exits_1(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu_check.main([str(tmp_path / "out"), "--part", "1", "--steps", "context"]) == 1
    tree = json.loads((tmp_path / "out/gpu_check.json").read_text())
    context = tree["steps"]["context"]
    assert (context["status"], context["why"]) == ("failed", "no test ran")
    assert set(context["tests"].values()) == {"skipped"}
    assert tree["kernels"].keys() == verified.kernels().keys()
    assert "connected_components/native: not verified" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no step contex; there are build, context"):
        gpu_check.main([str(tmp_path / "out"), "--part", "1", "--steps", "contex"])


def test_benchmark_rows_are_kept(tmp_path):
    run = started(tmp_path, 400)
    (cheap,) = (f for f in gpu_check.bench_files() if f.name == "bench_lowest_attention.py")
    step = gpu_check.bench(cheap, "cpu")
    found = step(run, "bench lowest_attention", 380)
    assert found["status"] == "passed", found
    assert {one["row"]["op"] for one in found["rows"]} == {"lowest_attention"}
    assert run.tree["machine"]["d2k"]["kind"] == "cpu" and not (run.out / "benchmark.json").exists()


ON_A_CPU = (
    ('"cuda', '"cpu'),
    (".cuda()", ""),
    ("pytestmark = pytest.mark.gpu\n", ""),
    ("torch.cuda.is_available()", "True"),
    ("torch.cuda.synchronize()", "pass"),
    ("torch.cuda.set_sync_debug_mode", "str"),
    ('SIZES = ("small", "odd", "target")', 'SIZES = ("small",)'),
)


@pytest.mark.parametrize("name", ["test_ops", "test_values"])
def test_gpu_tests_are_right_where_the_gpu_is_a_cpu(tmp_path, name):
    """Their bodies run, so that no slip in one waits for a GPU to be found."""
    text = (ROOT / f"tests/gpu/{name}.py").read_text()
    for gpu, cpu in ON_A_CPU:
        text = text.replace(gpu, cpu)
    assert "torch.cuda" not in text
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    ours = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}", str(path)]
    env = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *ours], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.slow
def test_every_step_starts_where_only_the_gpu_machines_packages_are(tmp_path):
    paths = [ROOT / "tests/gpu_machine", *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    hidden = [sys.executable, "-c", "import torch, triton, pytest, hypothesis; import pydantic"]
    assert "No module named 'pydantic'" in subprocess.run(hidden, env=env, capture_output=True, text=True).stderr
    done = subprocess.run(
        ["bash", ROOT / "scripts/gpu_check.sh", tmp_path / "out", "--dry-run"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    steps = json.loads((tmp_path / "out/gpu_check.json").read_text())["steps"]
    assert steps.keys() == {name for part in gpu_check.parts() for name in part}
    missing = {name for name, step in steps.items() if step["status"] == "unavailable"} - {"checks", *gpu_check.TOOLS}
    assert {"step", "bench evaluate"} <= missing and "bench topk_pool" not in missing
    assert all("d2net needs pydantic" in steps[name]["why"] for name in missing)
