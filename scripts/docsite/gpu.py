"""The page of what has run on a GPU, from the committed results and the kernels' hashes."""

from __future__ import annotations

import sys
from typing import Any

from docsite.markup import table
from docsite.nav import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

HEAD = """# GPU status

Made from `benchmarks/results/`, which holds the runs of `scripts/gpu_check.sh` on machines with a GPU, and from hashes
of everything that each kernel is compiled from: a run counts for a kernel only as long as these are as they were in it.
"""
NOTHING = """
**Nothing has run on a GPU: `benchmarks/results/` holds no run.** No time, no speed-up and no result on a GPU is claimed
anywhere in this documentation. What has been done instead is in the table below, and in [How it works](internals.md).
"""
HOW = """
## What the words mean

- **run on a GPU**: a committed run has passed the GPU tests with the kernel as it is now.
- **emulated**: the machine code's PTX was executed thread by thread on a CPU, which finds wrong results, wild accesses
  and races, for the architectures named. `make emulate` does it, and the table holds what was emulated where this page
  was built.
- **run by the CPU's teams only**: the same source serves the CPU, and is tested there, also as a block of host threads
  with real barriers; the CUDA launch around it has not run.
- **interpreted only**: Triton's interpreter has run the kernel's source, block by block; its machine code has not run.

Before a kernel serves a GPU that no committed run covers, it is compared with its reference there, once, in a process
of its own: `python -m d2kernels verify` does so ahead, and `D2K_VERIFY=off` goes without. A kernel that fails is
replaced by the next backend, with a warning that says why.

## Training steps as CUDA graphs

`train.graph` replays a step as one graph for each number of rows and kind of iteration. Until a committed run above
holds `tests/gpu/test_step_graph.py`, which compares replays with steps as they come bit for bit, no graph has been
captured on a GPU. What is tested without one: a replay of operations on the CPU through the same code, in the same
bits; that two iterations of a kind hand over the same operations, numbers and shapes; and that no tensor of a step is
made on the host or read back. In a training, the first replay of each kind is compared with the step as it comes, bit
for bit; where they differ, or nothing can be captured, it warns and goes on without graphs, as if there had been none.

## Running it

`scripts/gpu_check.sh OUT` on a machine with nvcc, torch, Triton and a GPU, in parts of under nine minutes (`--part 1`
to `5`). Its JSON belongs under `benchmarks/results/`; this page, the report and the doctor follow from it.
"""


def standings() -> dict[str, Any]:
    """Every GPU kernel to what has run it as it is now."""
    import verified

    return verified.standings()


def gpu() -> str:
    """The page: the committed runs, then every kernel's standing."""
    import report
    import verified

    found = standings()
    ran = sorted(verified.RESULTS.glob("*.json"))
    text = HEAD
    if not ran:
        text += NOTHING
    else:
        good = sum(bool(s.gpus) for s in found.values())
        text += f"\n{good} of {len(found)} kernels have run on a GPU as they are now.\n"
    rows = [[f"`{name}`", standing.says(name)] for name, standing in found.items()]
    text += "\n## Every kernel\n\n" + table(["kernel", "what has run it"], rows) + HOW
    if ran:
        text += "\n## Committed runs\n\n" + "\n".join(report.gpu_section())
    return text
