"""Which backend serves an op: asking by name, the environment, the messages, and what importing costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

import d2kernels as d2k
from d2kernels import _kernels, _native, backends
from d2kernels.backends import BackendUnavailable, can_run, explain, select, use

SCORES, OFFSETS = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([0, 3])


@pytest.fixture(autouse=True)
def automatic(monkeypatch):
    """Nothing asked for, by the environment or by a test before; the same afterwards."""
    monkeypatch.delenv("D2K_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    before = backends._asked.get()
    backends._asked.set({})
    backends._choose.cache_clear()
    yield
    backends._asked.set(before)
    backends._choose.cache_clear()


@pytest.fixture
def kernels(monkeypatch):
    """topk_pool and nms as if they had kernels; the dict: why each backend cannot run, None where it can."""
    why = {"native": None, "triton": None}
    modules = {
        (op, backend): SimpleNamespace(
            __name__=f"d2kernels.ops.{op}.{backend}",
            why_not=lambda device, dtype, backend=backend: why.get(backend),
            topk_pool_forward=lambda scores, offsets, lengths, *_, backend=backend: (
                torch.full((len(lengths), scores.shape[1]), float(len(backend))),
                *[torch.zeros(len(lengths), scores.shape[1])] * 3,
            ),
        )
        for op in ("topk_pool", "nms")
        for backend in backends.BACKENDS
    }
    monkeypatch.setattr(_kernels, "_has", lambda op, backend: (op, backend) in modules)
    monkeypatch.setattr(_kernels, "module", lambda op, backend: modules[op, backend])
    monkeypatch.setattr(_native, "why_not", lambda device: None)
    monkeypatch.setattr(_kernels.importlib.util, "find_spec", lambda name: object())
    return why


def name(op="topk_pool", device="cpu", dtype=None):
    return select(op, device, dtype).__name__.rpartition(".")[2]


def test_the_fastest_that_can_run_is_used(kernels):
    assert name() == "native" and name(device="cuda") == "triton" and name(device="xpu") == "reference"
    backends._choose.cache_clear()
    kernels["native"] = kernels["triton"] = "it rains"
    assert name() == name(device="cuda") == "reference"


def test_the_choice_reaches_the_op(kernels):
    assert d2k.topk_pool(SCORES, offsets=OFFSETS).item() == len("native")
    with use("reference"):
        assert d2k.topk_pool(SCORES, offsets=OFFSETS).item() == len("reference")
    assert d2k.topk_pool(SCORES, offsets=OFFSETS).item() == len("native")


def test_the_reference_can_always_be_asked_for():
    with use("reference"):
        assert name() == "reference"
        assert d2k.topk_pool(SCORES, k=1, offsets=OFFSETS).item() == 3


def test_use_as_a_function_lasts(kernels):
    use("reference")
    assert name() == name("nms") == "reference"
    use("native", op="nms")
    assert name() == "reference" and name("nms") == "native"
    use(None, op="nms")
    assert name("nms") == "reference"
    use(None)
    assert name() == "native"


def test_use_as_a_context_manager_ends(kernels):
    with use("reference"):
        assert name() == "reference"
        with use("native", "nms"):
            assert name() == "reference" and name("nms") == "native"
        assert name("nms") == "reference"
    assert name() == "native"
    with pytest.raises(KeyError), use("reference"):
        raise KeyError
    assert name() == "native"


def in_turns(*jobs):
    """Runs generators on threads of their own, a step of each in turn."""
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in jobs]
        running = dict(zip(pools, jobs, strict=True))
        while running:
            for pool, job in list(running.items()):
                if pool.submit(next, job, "end").result() == "end":
                    del running[pool]


def test_threads_do_not_share_what_is_asked_for(kernels):
    def asks(backend):
        yield
        with use(backend):
            yield
            assert name() == backend
            yield
            with use(None):
                yield
                assert name() == "native"
            yield
            assert name() == backend
        yield
        assert name() == "native"

    in_turns(asks("reference"), asks("native"), asks("reference"))
    assert name() == "native"


def test_tasks_do_not_share_what_is_asked_for(kernels):
    async def asks(backend):
        with use(backend):
            for _ in range(3):
                await asyncio.sleep(0)
                assert name() == backend
        await asyncio.sleep(0)
        return name()

    async def together():
        return await asyncio.gather(asks("reference"), asks("native"), asks("reference"))

    assert asyncio.run(together()) == ["native"] * 3 and name() == "native"


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_backward_runs_where_its_forward_ran_on_any_thread(create_graph, monkeypatch):
    """Autograd has threads of its own for devices; another thread here stands for one."""
    from d2kernels.ops.topk_pool import reference

    calls, plainly = [], reference.topk_pool_backward
    monkeypatch.setattr(reference, "topk_pool_backward", lambda *a: (calls.append("reference"), plainly(*a))[1])
    scores = SCORES.clone().requires_grad_()
    with use("reference"):
        pooled = d2k.topk_pool(scores, k=1, offsets=OFFSETS).sum()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: torch.autograd.grad(pooled, scores, retain_graph=True, create_graph=create_graph)).result()
    assert calls == ["reference"]
    if can_run("topk_pool", "native"):
        with use("native"):  # asked for by name, where it runs
            torch.autograd.grad(pooled, scores, create_graph=create_graph)
        assert calls == ["reference"]


def test_a_function_call_survives_a_context_manager_around_it(kernels):
    use("reference", "nms")
    with use("native"):
        assert name("nms") == "reference" and name() == "native"
    assert name("nms") == "reference"


@pytest.mark.parametrize(
    ("text", "topk", "nms"),
    [
        ("", "native", "native"),
        ("reference", "reference", "reference"),
        ("nms=reference", "native", "reference"),
        ("reference, topk_pool=native", "native", "reference"),
        (" topk_pool=reference ,, ", "reference", "native"),
    ],
)
def test_environment(kernels, monkeypatch, text, topk, nms):
    monkeypatch.setenv("D2K_BACKEND", text)
    assert (name("topk_pool"), name("nms")) == (topk, nms)


def test_environment_is_read_at_every_call_and_yields_to_use(kernels, monkeypatch):
    monkeypatch.setenv("D2K_BACKEND", "reference")
    assert name() == "reference"
    with use("native"):
        assert name() == "native"
    monkeypatch.setenv("D2K_BACKEND", "native")
    assert name() == "native"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast", "unknown backend 'fast'; the backends are reference, native, triton"),
        ("nms=", "unknown backend ''"),
        ("topk=reference", "unknown op 'topk'; the ops are temporal_conv, topk_pool"),
    ],
)
def test_a_wrong_environment_is_an_error_at_the_call(monkeypatch, text, says):
    monkeypatch.setenv("D2K_BACKEND", text)
    with pytest.raises(ValueError, match=says):
        d2k.topk_pool(SCORES, offsets=OFFSETS)


def test_unknown_names_are_refused_at_once():
    with pytest.raises(
        ValueError, match="unknown backend 'cuda'; the backends are reference, native, triton"
    ):
        use("cuda")
    with pytest.raises(ValueError, match="unknown op 'topk'; the ops are temporal_conv, topk_pool"):
        use("native", op="topk")
    with pytest.raises(ValueError, match="unknown op 'topk'"):
        explain("topk")
    with pytest.raises(ValueError, match="unknown op 'topk'"):
        can_run("topk", "native")


def test_asked_for_by_name_and_unavailable_is_an_error(kernels):
    kernels["native"] = "it rains"
    use("native")
    says = "topk_pool: the native backend cannot run on cpu: it rains"
    with pytest.raises(BackendUnavailable, match=says):
        d2k.topk_pool(SCORES, offsets=OFFSETS)
    with pytest.raises(BackendUnavailable, match=says):
        can_run("topk_pool", "native", raise_error=True)
    assert not can_run("topk_pool", "native") and can_run("topk_pool", "reference")


def test_an_op_without_the_kernel_says_so(monkeypatch):
    monkeypatch.setattr(_kernels, "_has", lambda op, backend: backend == "reference")
    with (
        use("triton"),
        pytest.raises(BackendUnavailable, match="cannot run on cpu: topk_pool has no triton kernel"),
    ):
        d2k.topk_pool(SCORES, offsets=OFFSETS)


def test_triton_needs_a_gpu_or_its_interpreter(kernels, monkeypatch):
    assert explain("topk_pool")["triton"] == "Triton kernels need a GPU, this is cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert can_run("topk_pool", "triton")
    monkeypatch.setattr(_kernels.importlib.util, "find_spec", lambda name: None)
    assert explain("topk_pool")["triton"] == "the package triton is not installed"


def test_an_interpreter_that_numpy_breaks_says_so(kernels, monkeypatch):
    pytest.importorskip("triton")
    import numpy
    import triton

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for versions, fault in ((("3.6.0", "2.4.0"), True), (("3.7.1", "2.5.0"), False), (("3.6.0", "2.3.5"), False)):
        monkeypatch.setattr(triton, "__version__", versions[0])
        monkeypatch.setattr(numpy, "__version__", versions[1])
        _kernels._interpreter_fault.cache_clear()
        assert can_run("topk_pool", "triton") is not fault
        if fault:
            assert "the interpreter of Triton 3.6.0 needs numpy<2.4, this is 2.4.0" in explain("topk_pool")["triton"]
        assert can_run("topk_pool", "triton", "cuda")
    _kernels._interpreter_fault.cache_clear()


def test_explain_gives_used_available_or_the_reason(kernels):
    assert explain("topk_pool") == {
        "reference": "available",
        "native": "used",
        "triton": "Triton kernels need a GPU, this is cpu",
    }
    assert explain("topk_pool", "cuda")["triton"] == "used"
    kernels["native"] = "it rains"
    with use("native"):
        assert explain("topk_pool") | {"triton": ""} == {
            "reference": "available",
            "native": "it rains",
            "triton": "",
        }


@pytest.mark.parametrize("op", backends.OPS)
def test_every_op_has_a_reference_that_can_run(op):
    assert can_run(op, "reference")
    assert explain(op)["reference"] in ("used", "available")


def test_a_missing_extension_says_what_to_do(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'd2kernels._C'")

    monkeypatch.setattr(_native.importlib, "import_module", missing)
    _native.extension.cache_clear()
    try:
        assert "compiled extension is not available" in _native.why_not("cpu")
        assert "D2K_BUILD=auto" in _native.why_not("cpu")
    finally:
        _native.extension.cache_clear()


@pytest.mark.parametrize(("device", "says"), [("cpu", None), ("cuda", "without CUDA"), ("xpu", "not on xpu")])
def test_an_extension_without_cuda_says_so(monkeypatch, device, says):
    monkeypatch.setattr(_native, "extension", lambda: (SimpleNamespace(has_cuda=False), None))
    reason = _native.why_not(device)
    assert reason is None if says is None else says in reason


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_importing_does_not_import_torch():
    code = (
        "import sys, d2kernels, d2kernels.backends as b;"
        "assert 'topk_pool' in dir(d2kernels) and d2kernels.__version__;"
        "assert b.asked_for('nms') == 'reference';"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules;"
        "d2kernels.Ragged; assert 'torch' in sys.modules"
    )
    run = python(code, D2K_BACKEND="nms=reference")
    assert run.returncode == 0, run.stderr


def test_public_names_exist_and_others_do_not():
    for public in d2k.__all__:
        assert getattr(d2k, public) is not None
    with pytest.raises(AttributeError, match="module 'd2kernels' has no attribute 'topk'"):
        _ = d2k.topk
