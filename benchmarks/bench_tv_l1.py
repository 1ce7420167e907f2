"""tv_l1 of a few neighbouring frames against OpenCV's DualTVL1OpticalFlow, both on torch's number of threads."""

from __future__ import annotations

import itertools

import minimal
import numpy as np
import pytest
import torch
import workloads as shapes
from contenders import of, reference
from harness import Side, Skipped

import d2kernels as d2k

OP = "tv_l1"
PAIRS = 4
# A fixed number of iterations, so that results can be compared: an error that ends them hangs on the order of its sum.
RULES = {"nscales": 3, "warps": 2, "inner_iterations": 10, "outer_iterations": 2, "epsilon": 0.0}


def video(height: int, width: int, device: torch.device) -> torch.Tensor:
    """(PAIRS + 1, height, width) uint8: smooth noise under a moving window."""
    edge = 2 * PAIRS
    noise = shapes.random(1, 1, height // 6 + 4, width // 6 + 4, seed=0, dtype=torch.float32, device=device)
    wide = torch.nn.functional.interpolate(noise, (height + edge, width + edge), mode="bicubic")[0, 0].clamp(0, 1)
    return torch.stack([(wide[i : i + height, 2 * i : 2 * i + width] * 255).byte() for i in range(PAIRS + 1)])


@pytest.mark.parametrize(("height", "width"), [(120, 160), (256, 340)])
def test_tv_l1(contest, device, full, height, width):
    if height > 200 and not full and device.type == "cpu":
        pytest.skip("OpenCV and the reference take seconds a pair; --full runs it")
    frames = video(height, width, device)

    def ours() -> torch.Tensor:
        return d2k.tv_l1(frames[:-1], frames[1:], **RULES)

    def exact() -> torch.Tensor:
        wide = frames.double() / 255
        with d2k.backends.use("reference", OP):
            return d2k.tv_l1(wide[:-1], wide[1:], **RULES)

    chosen, others = of(OP, device, ours, dtype=torch.float32)
    contest(
        op=OP,
        work=f"{PAIRS} of {height}×{width}",
        dtype="float32",
        ours=chosen,
        peers=[*others, opencv(frames.cpu().numpy())],
        oracle=exact,
        reference=reference(OP, ours),
        cost=minimal.elements(frames.numel() + 2 * PAIRS * height * width, 4),
    )


def opencv(frames: np.ndarray) -> Side | Skipped:
    name = "OpenCV DualTVL1"
    try:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        solver = cv2.optflow.DualTVL1OpticalFlow_create(nscales=3, warps=2, epsilon=0.0)
        solver.setInnerIterations(10)
        solver.setOuterIterations(2)
    except (ImportError, AttributeError) as error:
        return Skipped(name, f"opencv-contrib-python-headless is missing ({error})")
    pairs = list(itertools.pairwise(frames))
    return Side(name, lambda: np.stack([solver.calc(a, b, None).transpose(2, 0, 1) for a, b in pairs]))
