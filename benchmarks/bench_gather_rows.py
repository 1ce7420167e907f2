"""A batch's rows out of resident features, cropped, cast and laid out with gaps, against torch's ways to make it."""

from __future__ import annotations

import pytest
import torch
import workloads as shapes
from contenders import of
from harness import Side, steps

from d2kernels.ops.gather_rows import gather_rows

OP = "gather_rows"
VIDEOS = 40  # resident, of each of the batch's lengths' size on average


@pytest.mark.parametrize("stored", [torch.float16, torch.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("work", [shapes.THUMOS, shapes.HAPT], ids=lambda w: w.name)
def test_gather_rows(contest, device, work, stored):
    n, gap = len(work.lengths), 1
    lengths = torch.tensor(work.lengths, device=device)
    offsets = torch.cat([lengths.new_zeros(1), (lengths + gap).cumsum(0)]) + gap
    source = shapes.normal(VIDEOS * work.total // n, work.width, seed=0, dtype=stored, device=device)
    random = torch.Generator().manual_seed(1)
    first = (torch.rand(n, generator=random) * (len(source) - max(work.lengths))).long().to(device)
    total = int(offsets[-1])
    out = torch.empty(total, work.width, device=device)
    zeros = source.new_zeros(gap, work.width)
    spans = list(zip(first.tolist(), work.lengths, offsets.tolist(), strict=False))
    # Row 0 stands for a gap row, which is cleared behind.
    index = torch.zeros(total, dtype=torch.int64)
    real = torch.zeros(total, 1, dtype=torch.bool)
    for start, size, at in spans:
        index[at : at + size] = torch.arange(start, start + size)
        real[at : at + size] = True
    index, gaps = index.to(device), ~real.to(device)

    def by_cat(source):
        parts = [zeros]
        for start, size, _ in spans:
            parts += [source[start : start + size], zeros]
        return torch.cat(parts).float()

    def by_index(source):
        return source.index_select(0, index).float().masked_fill_(gaps, 0)

    def into_zeros(source):
        made = torch.zeros(total, work.width, device=device)
        for start, size, at in spans:
            made[at : at + size] = source[start : start + size]
        return made

    run = steps(lambda source: gather_rows(source, first, offsets, lengths, out), (source,))
    chosen, others = of(OP, device, run, dtype=stored)
    peers = {"torch.cat, cast": by_cat, "index_select, cast, masked_fill": by_index, "zeros, slices": into_zeros}
    contest(
        op=OP,
        work=f"{work.name}, {str(stored).removeprefix('torch.')} stored",
        ours=chosen,
        peers=[*(Side(name, steps(call, (source,))) for name, call in peers.items()), *others],
        oracle=steps(by_cat, (source,)),
        cost=(work.total * work.width * (stored.itemsize + 4.0), 0.0),
    )
