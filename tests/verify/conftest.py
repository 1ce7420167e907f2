"""A GPU that is none: its kernels are the CPU's, checked on the CPU in a process of their own; the gate believes it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from d2kernels import _kernels, backends
from d2kernels.verify import gate, machine, process

OPS = ("topk_pool", "nms", "lowest_attention")
ROOT = Path(__file__).parents[2]


def pretend(patch, folder) -> None:
    """Applies with a MonkeyPatch, in this process or in one that a test starts."""
    patch.setattr(machine, "kernels", lambda kind: {f"{op}/native": f"hash of {op}" for op in OPS})
    patch.setattr(machine, "vouched", frozenset)
    here = machine.Machine("Pretended GPU", "sm_90", "1", "2", "3", "4")
    patch.setattr(machine, "this", lambda kind, index: here)
    patch.setattr(gate, "_device", lambda index: 0)
    patch.setattr(gate, "_mine", {})
    patch.setattr(gate, "_unchecked", {})
    patch.setattr(gate, "_said", set())
    patch.setattr(process, "COMMAND", (sys.executable, str(Path(__file__).with_name("faulty_child.py"))))
    check = process.check
    patch.setattr(process, "check", lambda device, kernels: check("cpu", kernels))
    patch.setattr("torch.cuda.is_current_stream_capturing", lambda: False)
    why_not = _kernels.why_not
    patch.setattr(
        _kernels,
        "why_not",
        lambda op, backend, device, dtype=None: why_not(op, backend, "cpu" if op in OPS else device, dtype),
    )
    patch.setenv("XDG_CACHE_HOME", str(folder))
    patch.delenv("D2K_VERIFY", raising=False)
    patch.delenv("D2K_BACKEND", raising=False)
    patch.delenv("TRITON_INTERPRET", raising=False)
    backends._choose.cache_clear()


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The pretended GPU; returns a function that lists the starts of the checking process."""
    if not backends.can_run("topk_pool", "native"):
        pytest.skip("no compiled extension")
    pretend(monkeypatch, tmp_path / "cache")
    count = tmp_path / "starts"
    monkeypatch.setenv("COUNT", str(count))
    yield lambda: count.read_text().splitlines() if count.exists() else []
    backends._choose.cache_clear()
