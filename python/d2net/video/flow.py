"""Optical flow between neighbouring frames, by OpenCV or d2kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from d2net.video import needed

METHODS = ("dis", "tv-l1", "tv_l1")
BOUND = 20.0  # pixels a frame that TV-L1 flow is clipped to, as the features in use were made


class Flow:
    """Dense flow of one method; call it with two frames (h, w, 3) uint8 for (2, h, w) float32 pixels, x before y.

    Args:
        method: `dis`, dense inverse search, fast; `tv-l1`, OpenCV's DualTVL1 with its defaults, clipped to ±20; or
            `tv_l1`, the same by d2kernels, several times faster.
    """

    def __init__(self, method: str):
        if method not in METHODS:
            raise ValueError(f"flow must be one of {', '.join(METHODS)}, got {method!r}")
        self.method = method
        self._cv = needed("cv2", "opencv-contrib-python-headless")
        if method == "tv-l1" and not hasattr(self._cv, "optflow"):
            raise ImportError("flow: TV-L1 needs opencv-contrib-python-headless; pip install 'd2kernels[video]'")
        self._own = threading.local()  # OpenCV's objects keep state

    def _solver(self) -> Any:
        if not hasattr(self._own, "solver"):
            cv = self._cv
            self._own.solver = (
                cv.DISOpticalFlow_create(cv.DISOPTICAL_FLOW_PRESET_FAST)
                if self.method == "dis"
                else cv.optflow.DualTVL1OpticalFlow_create()
            )
        return self._own.solver

    def __call__(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        height, width = before.shape[:2]
        if before is after or min(height, width) < 16:  # a held frame; or too small for a pyramid
            return np.zeros((2, height, width), np.float32)
        grey = [self._cv.cvtColor(x, self._cv.COLOR_RGB2GRAY) for x in (before, after)]
        if self.method == "tv_l1":
            found = _by_d2kernels(*grey)
        else:
            found = np.ascontiguousarray(self._solver().calc(*grey, None).transpose(2, 0, 1))
        return found if self.method == "dis" else np.clip(found, -BOUND, BOUND)


def _by_d2kernels(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    import torch

    import d2kernels as d2k

    return d2k.tv_l1(*(torch.from_numpy(x)[None] for x in (before, after)))[0].numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread within the block: what DIS finds depends on how its threads divide a picture."""
    cv = needed("cv2", "opencv-contrib-python-headless")
    before = cv.getNumThreads()
    cv.setNumThreads(1)
    try:
        yield
    finally:
        cv.setNumThreads(before)
