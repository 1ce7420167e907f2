"""python -m d2kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from d2kernels import backends, diagnostics


def doctor(code="", **env):
    code = f"import sys; {code}\nfrom d2kernels.diagnostics import main; sys.exit(main())"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)


def test_every_op_runs_here(capsys):
    assert diagnostics.main() == 0
    said = capsys.readouterr().out
    assert "FAILED" not in said and all(f"\n  {op:22}cpu   ok" in said for op in backends.OPS)
    assert "torch     2." in said and "cuda" in said


@pytest.mark.parametrize("policy", [None, "passive"])
def test_threads_and_what_to_set_on_a_shared_machine(monkeypatch, policy):
    import torch

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    said = "\n".join(diagnostics._threads(torch))
    assert f"threads   {torch.get_num_threads()} of " in said
    assert ("set OMP_WAIT_POLICY=passive" in said) == (policy is None)
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0))
    monkeypatch.setattr(diagnostics, "_quota", lambda: 0.4)
    said = "\n".join(diagnostics._threads(torch))
    assert "1000.0 processes want" in said
    assert torch.get_num_threads() == 1 or "may use 0.4 cores: set OMP_NUM_THREADS=1" in said


def test_the_command():
    done = subprocess.run([sys.executable, "-m", "d2kernels"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m d2kernels | true"], capture_output=True, text=True)
    assert done.stderr == ""


def test_an_op_that_fails_is_named(monkeypatch, capsys):
    import torch

    from d2kernels.ops.lowest_attention import reference

    monkeypatch.setattr(reference, "lowest_attention_forward", lambda *_: torch.zeros(1)[5])
    assert diagnostics.main() == 1
    said = capsys.readouterr().out
    assert "lowest_attention      cpu   FAILED: IndexError" in said and said.count("FAILED") == 1


def test_a_wrong_result_is_named(monkeypatch, capsys):
    if not backends.can_run("connected_components", "native"):
        pytest.skip("no compiled extension")
    native = backends.module("connected_components", "native")
    right = native.connected_components_forward
    monkeypatch.setattr(native, "connected_components_forward", lambda *a: (right(*a)[0] + 1, right(*a)[1]))
    assert diagnostics.main() == 1
    assert "connected_components  cpu   FAILED: result 1 of 5 is off by inf" in capsys.readouterr().out


def test_without_torch():
    done = doctor("sys.modules['torch'] = None")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch     not installed" in done.stdout and "torch is not installed" in done.stdout
    if backends.can_run("connected_components", "native"):
        for op in ("connected_components", "nms", "localize"):
            assert f"{op:22}cpu   ok, on NumPy arrays" in done.stdout


def test_without_extension():
    done = doctor("sys.modules['d2kernels._C'] = None")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not native on cpu: the compiled extension is not available" in done.stdout
    assert "connected_components  cpu   ok, reference" in done.stdout


def test_a_backend_asked_for_that_cannot_serve_fails():
    done = doctor(D2K_BACKEND="topk_pool=triton")
    assert done.returncode == 1 and "topk_pool             cpu   FAILED: BackendUnavailable" in done.stdout


def test_an_unknown_backend_is_named():
    done = doctor(D2K_BACKEND="fast")
    assert done.returncode == 1 and "unknown backend 'fast'" in done.stdout
