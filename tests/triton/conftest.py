"""What the tests of Triton kernels share: interpreted where there is no GPU, on it where there is one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import d2kernels as d2k

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(items):
    why = None
    try:
        d2k.backends.can_run("temporal_conv", "triton", DEVICE, raise_error=True)
    except d2k.backends.BackendUnavailable as reason:
        why = str(reason)
    for item in items:
        if "triton" in item.path.parts:
            for warning in ("Conversion of an array:DeprecationWarning", "(overflow|invalid value) enc:RuntimeWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))  # of the interpreter's NumPy
            if why and "aot" not in item.name:
                item.add_marker(pytest.mark.skip(reason=why))
