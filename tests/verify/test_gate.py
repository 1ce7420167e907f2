"""The first call checks a GPU kernel in a process of its own; what is bad, in whatever way, does not serve."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from d2kernels import backends, verify
from d2kernels.verify import cache, command, gate, machine, process, records

HERE = Path(__file__).parent


def served(op="topk_pool"):
    return backends.select(op, "cuda", torch.float32, 0).__name__.rpartition(".")[2]


def forget():
    """As a new process begins."""
    gate._mine.clear()
    gate._unchecked.clear()
    gate._said.clear()
    backends._choose.cache_clear()


def test_the_first_call_checks_once_and_says_so_in_a_line(gpu, capsys):
    assert served() == "native"
    (line,) = capsys.readouterr().err.splitlines()
    assert "checking 3 kernels once on this Pretended GPU (sm_90)" in line and "minutes" in line
    assert served("nms") == "native" and len(gpu()) == 1
    forget()
    assert served() == "native" and len(gpu()) == 1 and not capsys.readouterr().err
    assert {s.status for s in gate.states().values()} == {"passed"}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("wrong", "wrong result: result 1 of 2 is off by"),
        ("raises", "RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("crash", "the process died of SIGSEGV"),
        ("exit", "the process ended with exit code 7"),
        ("hang", "no result after 1 s"),
    ],
)
def test_a_bad_kernel_does_not_serve_and_one_warning_says_why(gpu, monkeypatch, fault, says):
    monkeypatch.setenv("FAULT", f"topk_pool={fault}")
    if fault == "hang":
        monkeypatch.setattr(process, "KERNEL_SECONDS", 1.0)
        monkeypatch.setattr(machine, "kernels", lambda kind: {"topk_pool/native": "hash of topk_pool"})
    with pytest.warns(RuntimeWarning, match="topk_pool: the native kernel does not serve, reference does") as caught:
        assert served() == "reference"
    (warning,) = (w for w in caught if "topk_pool" in str(w.message))
    assert re.search(says, str(warning.message))
    details = Path(re.search(r"details: (.*)", str(warning.message)).group(1))
    assert "topk_pool/native" in details.read_text()
    if fault != "hang":
        assert served("nms") == served("lowest_attention") == "native"  # one bad kernel spoils no other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends._choose.cache_clear()
        assert served() == "reference"  # said once
    starts = len(gpu())
    forget()
    with pytest.warns(RuntimeWarning, match="topk_pool"):
        assert served() == "reference" and len(gpu()) == starts  # kept for the next process
    with (
        backends.use("native", "topk_pool"),
        pytest.raises(backends.BackendUnavailable, match=f"topk_pool: the native backend cannot run on cuda: .*{says}"),
    ):
        served()
    assert not backends.can_run("topk_pool", "native", "cuda")
    assert "failed its check" in backends.explain("topk_pool", "cuda")["native"]
    monkeypatch.setenv("D2K_VERIFY", "off")
    assert served() == "native"


def test_real_kernels_in_a_real_process(gpu, monkeypatch):
    monkeypatch.setenv("REAL", "1")
    monkeypatch.setenv("FAULT", "topk_pool=wrong,nms=raises")
    states = gate.ensure()
    assert {kernel: state.status for kernel, state in states.items()} == {
        "topk_pool/native": "failed",
        "nms/native": "failed",
        "lowest_attention/native": "passed",
    }
    assert "wrong result: result 1 of 2 is off by" in states["topk_pool/native"].says
    assert states["nms/native"].says == "RuntimeError: CUDA error: an illegal memory access was encountered"
    log = Path(states["nms/native"].details).read_text()
    assert "Traceback" in log and "lowest_attention/native:" in log
    assert [len(start.split()) for start in gpu()] == [4, 2]  # a fresh process after the one that an exception ended


def test_the_callers_settings_decide_no_check(gpu, monkeypatch):
    for name, value in (("PYTHONWARNINGS", "error"), ("PYTHONINSPECT", "1"), ("D2K_BACKEND", "reference")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    states = gate.ensure()
    assert {s.status for s in states.values()} == {"passed"} and len(gpu()) == 1
    kept = process._environment()
    assert kept["D2K_VERIFY"] == "off" and not {"PYTHONWARNINGS", "D2K_BACKEND", "TRITON_INTERPRET"} & kept.keys()


def test_a_kernel_made_whole_passes_when_checked_again(gpu, monkeypatch, capsys):
    monkeypatch.setenv("FAULT", "topk_pool=wrong")
    gate.ensure()
    monkeypatch.delenv("FAULT")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert command.main([]) == 0
    assert gpu()[1].endswith(" topk_pool/native") and len(gpu()) == 2  # the one that failed, and once for equal GPUs
    assert re.search(r"topk_pool/native +passed +checked on this Pretended GPU", capsys.readouterr().out)
    assert command.main(["--again"]) == 0 and len(gpu()[2].split()) == 4
    monkeypatch.setenv("FAULT", "nms=exit")
    assert command.main(["--again"]) == 1
    assert re.search(r"nms/native +failed +the process ended with exit code 7; .*\.log", capsys.readouterr().out)


def test_nothing_starts_where_it_is_off_or_a_record_covers_the_kernel(gpu, monkeypatch):
    monkeypatch.setenv("D2K_VERIFY", "off")
    assert served() == "native" and not gpu()
    monkeypatch.setenv("D2K_VERIFY", "of")
    with pytest.raises(ValueError, match="D2K_VERIFY=of is unknown; use on or off"):
        served()
    monkeypatch.delenv("D2K_VERIFY")
    covered = records.Vouched("topk_pool/native", "hash of topk_pool", "sm_90", "NVIDIA H100")
    monkeypatch.setattr(machine, "vouched", lambda: frozenset([covered]))
    assert served() == "native" and not gpu()
    assert gate.states()["topk_pool/native"].says == "passed the GPU tests on NVIDIA H100"
    for other in ({"arch": "sm_80"}, {"sha256": "older"}, {"kernel": "nms/native"}):
        monkeypatch.setattr(machine, "vouched", lambda other=other: frozenset([covered._replace(**other)]))
        assert gate.states()["topk_pool/native"].status == "unknown"


@pytest.mark.parametrize(
    ("where", "patch"),
    [
        ("during compilation", ("torch.compiler.is_compiling", lambda: True)),
        ("while a CUDA graph is captured", ("torch.cuda.is_current_stream_capturing", lambda: True)),
        ("in a worker process", ("torch.utils.data.get_worker_info", lambda: object())),
    ],
)
def test_no_check_starts_where_it_cannot(gpu, monkeypatch, where, patch):
    with monkeypatch.context() as during:
        during.setattr(*patch)
        with pytest.warns(RuntimeWarning, match=f"topk_pool: .*a check cannot start {where}; call the op once before"):
            assert served() == "reference"
        with backends.use("native"), pytest.raises(backends.BackendUnavailable, match=where):
            served()
        assert not gpu()
    assert served() == "native" and len(gpu()) == 1  # asked again, not kept


def test_a_daemonic_process_is_a_worker(gpu, monkeypatch):
    assert gate.cannot_start() is None
    monkeypatch.setattr("multiprocessing.process._current_process._config", {"daemon": True})
    assert gate.cannot_start() == "in a worker process"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("device=busy", "a second process cannot use cpu: RuntimeError: CUDA error: all CUDA-capable devices are busy"),
        ("device=exit", "the process ended with exit code 9 before it checked anything"),
        ("device=hang", "the process did not start within 5 s"),
        ("topk_pool=memory,nms=memory,lowest_attention=memory", "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_where_nothing_can_be_checked_the_reference_serves(gpu, monkeypatch, fault, says):
    monkeypatch.setenv("FAULT", fault)
    if fault == "device=hang":
        monkeypatch.setattr(process, "START_SECONDS", 5.0)
    with pytest.warns(RuntimeWarning, match=f"reference does: it could not be checked on this GPU .*{says}"):
        assert served() == "reference"
    assert len(gpu()) == 1
    with pytest.warns(RuntimeWarning, match="nms"):
        assert served("nms") == "reference" and len(gpu()) == 1  # not tried again by this process
    with backends.use("native"), pytest.raises(backends.BackendUnavailable, match="could not be checked"):
        served()
    monkeypatch.delenv("FAULT")
    forget()
    assert served() == "native"  # and not held against the kernel: the next process tries


def test_no_interpreter_to_start(gpu, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", ("/nowhere/python",))
    with pytest.warns(RuntimeWarning, match="no process could be started"):
        assert served() == "reference"
    forget()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.warns(RuntimeWarning, match="there is no Python interpreter to start"):
        assert served() == "reference"


@pytest.mark.parametrize("blocked", ["file", "read only"])
def test_a_cache_that_cannot_be_written_to(gpu, monkeypatch, tmp_path, blocked):
    if blocked == "file":
        (tmp_path / "cache").write_text("")  # stands where the folder should be
    else:
        monkeypatch.setattr(cache.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only")))
    with pytest.warns(RuntimeWarning, match="cannot be kept in .*set XDG_CACHE_HOME"):
        assert served() == "native"
    assert served("nms") == "native" and len(gpu()) == 1  # this process remembers


@pytest.mark.parametrize(
    "contents", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"null", b"[]", b'{"machine": 3}', b'{"results": {}}']
)
def test_a_corrupt_cache_counts_as_none_and_is_replaced(gpu, contents):
    assert served() == "native"
    (path,) = cache.folder().glob("*.json")
    path.write_bytes(contents)
    forget()
    assert served() == "native" and len(gpu()) == 2
    forget()
    assert served() == "native" and len(gpu()) == 2


def test_a_corrupt_entry_is_no_pass(gpu):
    assert served() == "native"
    (path,) = cache.folder().glob("*.json")
    tree = json.loads(path.read_text())
    for bad in ("yes", {"passed": 1}, {"passed": "true"}, {"passed": True, "error": 3}, None):
        tree["results"]["hash of topk_pool"] = bad
        path.write_text(json.dumps(tree))
        forget()
        assert {k: s.status for k, s in gate.states().items()} == {
            "topk_pool/native": "unknown",
            "nms/native": "passed",
            "lowest_attention/native": "passed",
        }


ASK = """
import sys
from pathlib import Path
import pytest
sys.path.insert(0, {here!r})
import conftest
patch = pytest.MonkeyPatch()
conftest.pretend(patch, Path({cache!r}))
from d2kernels.verify import gate
print(sorted(s.status for s in gate.ensure().values()))
"""


def ask(tmp_path):
    code = ASK.format(here=str(HERE), cache=str(tmp_path / "cache"))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_process_checks_for_all_who_ask(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1]), *sys.path]))
    asking = [ask(tmp_path) for _ in range(4)]
    said = [p.communicate(timeout=300) for p in asking]
    assert [out.strip() for out, _ in said] == [str(["passed"] * 3)] * 4, said
    assert len(gpu()) == 1 and sum("checking" in err for _, err in said) == 1


def test_who_dies_while_checking_leaves_the_lock(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1]), *sys.path]))
    monkeypatch.setenv("FAULT", "topk_pool=hang")
    first = ask(tmp_path)
    while not gpu():
        assert first.poll() is None
        threading.Event().wait(0.05)
    first.kill()
    first.communicate()
    monkeypatch.delenv("FAULT")
    assert served() == "native" and len(gpu()) == 2
    pid = int(gpu()[0].split()[0])
    for _ in range(200):  # and the process that it started ends with it
        if not Path(f"/proc/{pid}").exists():
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("the checking process outlives who started it")


def test_a_training_run_asks_before_its_first_step(gpu):
    verify.ready(torch.device("cpu"))
    assert not gpu()
    verify.ready(torch.device("cuda", 0))
    assert len(gpu()) == 1 and served() == "native" and len(gpu()) == 1


def test_threads_of_a_process_ask_once(gpu):
    found = []
    threads = [threading.Thread(target=lambda op=op: found.append(served(op))) for op in ("topk_pool", "nms") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["native"] * 4 and len(gpu()) == 1


def test_the_command_without_a_gpu_or_without_torch(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 0
    assert "torch sees no GPU, so there is nothing to verify" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command.main([]) == 1 and "verify needs torch" in capsys.readouterr().out
