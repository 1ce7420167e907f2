"""gather_rows in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows_forward(source: Tensor, first: Tensor, offsets: Tensor, lengths: Tensor, out: Tensor) -> None:
    if not len(lengths) or not len(source):
        out.zero_()
        return
    row = torch.arange(out.shape[0], device=out.device)
    sequence = torch.searchsorted(offsets[:-1].contiguous(), row, right=True) - 1
    of = sequence.clamp(min=0)
    within = row - offsets[of]
    inside = (sequence >= 0) & (within < lengths[of])
    # Rows that the source does not have are 0; compared before they are added, as sums from anywhere wrap.
    inside &= (first[of] >= 0) & (first[of] < len(source) - within)
    taken = source.index_select(0, torch.where(inside, first[of] + within, 0))
    out.copy_(torch.where(inside[:, None], taken, 0))
