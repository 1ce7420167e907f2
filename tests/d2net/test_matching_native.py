"""Matching and average precision in csrc against NumPy, to the bit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import d2kernels as d2k
from d2kernels import _average_precision as native
from d2kernels import _native
from d2net.evaluation import PROTOCOLS, Spans, score

native_only = pytest.mark.skipif(_native.extension()[0] is None, reason="no compiled extension")
IOU = [0.1, 0.3, 0.5, 0.7]


def spans(rng, n, classes, videos, whole, scored):
    start, length = rng.random(n) * 30, rng.random(n) * 9 - 0.3
    if whole:
        start, length = np.round(start), np.round(length)
    scores = np.round(rng.random(n) * 6) / 6 if whole else rng.random(n)
    label = rng.integers(-1 if scored else 0, classes + scored, n)
    return Spans(label, rng.integers(0, videos, n), start, start + length, scores if scored else None)


protocols = st.builds(
    lambda protocol, **changes: replace(protocol, **changes),
    st.sampled_from(list(PROTOCOLS.values())),
    strict=st.booleans(),
    prefer=st.sampled_from(["best", "first"]),
    union=st.sampled_from(["sum", "hull"]),
    ties=st.sampled_from(["input", "video"]),
    interpolate=st.booleans(),
)


@native_only
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 120), st.integers(1, 5), st.booleans(), protocols)
def test_native_equals_numpy(seed, n, m, videos, whole, protocol):
    rng = np.random.default_rng(seed)
    found, truth = spans(rng, n, 3, videos, whole, True), spans(rng, m, 3, videos, whole, False)
    ignore = None if seed % 2 else rng.random(n) < 0.3
    iou = IOU[: seed % 5]

    def run():
        return score(found, truth, classes=3, iou=iou, protocol=protocol, ignore=ignore)

    with d2k.backends.use("reference"):
        want = run()
    with d2k.backends.use("native"):
        got = run()
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@native_only
def test_views_are_read_as_they_are():
    rng = np.random.default_rng(0)
    found, truth = spans(rng, 400, 3, 2, False, True), spans(rng, 80, 3, 2, False, False)
    every = found[::2]
    copied = Spans(*(np.ascontiguousarray(getattr(every, k)) for k in ("label", "video", "start", "end", "score")))
    a, b = (score(s, truth, classes=3, iou=IOU, protocol=PROTOCOLS["thumos"]) for s in (every, copied))
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True)) and a.tp[0]


def test_the_backend_that_is_asked_for(monkeypatch):
    with d2k.backends.use("reference"):
        assert not native.use_native()
    with d2k.backends.use("triton"), pytest.raises(d2k.backends.BackendUnavailable, match="no triton kernel"):
        native.use_native()
    monkeypatch.setattr(_native, "why_not", lambda device: "it rains")
    assert not native.use_native()
    with d2k.backends.use("native"), pytest.raises(d2k.backends.BackendUnavailable, match="it rains"):
        native.use_native()


def test_labels_of_the_truth_must_be_classes():
    rng = np.random.default_rng(0)
    found, truth = spans(rng, 5, 3, 2, False, True), spans(rng, 50, 3, 2, False, False)
    for backend in ("reference", None):
        with d2k.backends.use(backend), pytest.raises(ValueError, match=r"labels of truth must lie in 0 \.\. 1, got 2"):
            score(found, truth, classes=2, iou=IOU, protocol=PROTOCOLS["thumos"])


ALONE = """
import sys
import numpy as np
from d2net.evaluation import PROTOCOLS, Spans, score
found = Spans([0, 0], [0, 0], [0, 4], [3, 9], [0.5, 0.75])
result = score(found, Spans([0], [0], [0], [3]), classes=1, iou=[0.5], protocol=PROTOCOLS["activitynet"])
assert result.ap.tolist() == [[0.5]] and result.partner.tolist() == [[0, -1]]
assert "torch" not in sys.modules
"""


def test_evaluation_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
