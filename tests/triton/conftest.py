"""What the tests of Triton kernels share: interpreted where there is no GPU, on it where there is one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import d2kernels as d2k

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(items):
    ready = d2k.backends.can_run("temporal_conv", "triton", DEVICE)
    for item in items:
        if "triton" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"))
            if not ready and "aot" not in item.name:
                item.add_marker(pytest.mark.skip(reason="no GPU, and Triton is not interpreted"))
