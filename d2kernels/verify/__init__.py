"""GPU kernels are verified or checked: trusted where a committed GPU record covers them, else checked once here.

A kernel's check compares its results and gradients with the reference's, in a process of its own, and is kept by
kernel hash, GPU, driver, torch and Triton version in the user's cache folder. D2K_VERIFY=off trusts every kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def ready(device: torch.device) -> None:
    """Checks the GPU's kernels now, where no call has yet, so that no later call waits for it; nothing on a CPU."""
    if device.type != "cuda":
        return
    import torch

    from d2kernels.verify import gate

    gate.ensure("cuda", torch.cuda.current_device() if device.index is None else device.index)
