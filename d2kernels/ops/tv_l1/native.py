"""tv_l1 through csrc."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2kernels import _native

WORKSPACE = 2**30  # bytes on a GPU, unless one pair needs more


def why_not(device: str, dtype: object) -> str | None:
    return None if dtype in (None, torch.float32) else f"native kernels take torch.float32, not {dtype}"


def tv_l1_forward(previous: Tensor, next: Tensor, *rules: float) -> Tensor:
    n, height, width = previous.shape
    flow = previous.new_empty(n, 2, height, width)
    module, size = _native.module(), (height, width, *rules)
    if n == 0:
        return flow
    if previous.is_cpu:
        module.tv_l1_cpu((previous, next, n, *size, flow), torch.get_num_threads())
        return flow

    def problem(first: int, count: int) -> tuple[Any, ...]:
        one, other, to = (x[first : first + count] for x in (previous, next, flow))
        return one, other, count, *size, to

    previous, next = previous.contiguous(), next.contiguous()
    where = _native.device_and_stream(flow.device)
    each = module.tv_l1_workspace_cuda(problem(0, 1))
    together = min(n, max(1, WORKSPACE // each))
    workspace = torch.empty(together * each, dtype=torch.uint8, device=flow.device)
    for first in range(0, n, together):
        module.tv_l1_cuda(problem(first, min(together, n - first)), workspace.data_ptr(), *where)
    return flow
