"""NumPy arrays on the reference backend: what an installation without compiled parts does with them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import d2kernels as d2k

native_only = pytest.mark.skipif(
    not d2k.backends.can_run("nms", "native"), reason="no compiled extension to compare with"
)
RNG = np.random.default_rng(0)
SCORES = RNG.random((60, 3)).round(1)
OFFSETS = [0, 25, 25, 60]
SPANS = np.sort(RNG.integers(0, 40, (50, 2)), axis=1)
BEST, GROUPS = RNG.random(50), RNG.integers(0, 3, 50)
RULES = {"thresholds": [0.3, 0.6], "iou_threshold": 0.5, "offsets": OFFSETS}
CALLS = {
    "connected_components": lambda: d2k.connected_components(SCORES[:, ::-1], [0.2, 0.5], offsets=OFFSETS),
    "localize": lambda: d2k.localize(SCORES, class_mask=np.ones((3, 3), bool), **RULES),
    "localize, soft": lambda: d2k.localize(SCORES.astype(np.float32), sigma=0.5, upsample=2, **RULES),
    "nms": lambda: [d2k.nms(SPANS, BEST, 0.4, GROUPS)],
    "soft_nms": lambda: d2k.soft_nms(SPANS.astype(float), BEST, 0.3, GROUPS, score_threshold=0.01),
}


@native_only
@pytest.mark.parametrize("name", list(CALLS))
def test_the_reference_gives_the_arrays_that_the_kernels_give(name):
    with d2k.backends.use("native"):
        want = CALLS[name]()
    with d2k.backends.use("reference"):
        got = CALLS[name]()
    assert len(want[0]) > 5
    for a, b in zip(got, want, strict=True):
        assert type(a) is np.ndarray and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6 if a.dtype.kind == "f" else 0, atol=0)


def test_arrays_that_must_not_be_written():
    spans = SPANS.copy()
    spans.flags.writeable = False
    with d2k.backends.use("reference"):
        assert np.array_equal(d2k.nms(spans, BEST, 0.4), d2k.nms(SPANS, BEST, 0.4))


def nms_without(*modules):
    code = f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\nimport numpy as np, d2kernels as d2k\n"
    code += "print(d2k.nms(np.array([[0.0, 2.0], [0.0, 1.9]]), np.array([0.5, 0.9]), 0.5))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_without_compiled_parts_torch_serves_arrays():
    assert nms_without("d2kernels._C").stdout.strip() == "[1]"


def test_without_compiled_parts_and_torch_the_error_says_so():
    done = nms_without("d2kernels._C", "torch")
    assert "nms: there are no compiled parts, and the reference backend needs torch" in done.stderr
