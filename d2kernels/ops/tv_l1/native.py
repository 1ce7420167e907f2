"""tv_l1 through csrc."""

from __future__ import annotations

import torch
from torch import Tensor

from d2kernels import _native

WORKSPACE = 2**30  # bytes on a GPU, unless one pair needs more


def why_not(device: str, dtype: object) -> str | None:
    return None if dtype in (None, torch.float32) else f"native kernels take torch.float32, not {dtype}"


def tv_l1_forward(previous: Tensor, next: Tensor, *rules: float) -> Tensor:
    previous, next = previous.contiguous(), next.contiguous()
    n, height, width = previous.shape
    flow = torch.empty((n, 2, height, width), dtype=torch.float32, device=previous.device)

    def problem(first: int, count: int) -> tuple[float, ...]:
        at = [x.data_ptr() + first * x[:1].numel() * x.element_size() for x in (previous, next, flow)]
        return (*at[:2], count, height, width, *rules, at[2])

    if n == 0:
        return flow
    module = _native.module()
    if flow.device.type == "cpu":
        module.tv_l1_cpu(problem(0, n), torch.get_num_threads())
        return flow
    where = _native.device_and_stream(flow.device)
    each = module.tv_l1_workspace_cuda(problem(0, 1))
    together = min(n, max(1, WORKSPACE // each))
    workspace = torch.empty(together * each, dtype=torch.uint8, device=flow.device)
    for first in range(0, n, together):
        module.tv_l1_cuda(problem(first, min(together, n - first)), workspace.data_ptr(), *where)
    return flow
