"""python -m d2kernels verify."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from d2kernels.verify import cache, gate, machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the kernels of every GPU and prints how each stands; 1 where one is not usable."""
    parser = argparse.ArgumentParser(
        prog="python -m d2kernels verify",
        description="Checks each GPU kernel against its reference on this machine's GPUs, in a process of its own, and "
        "keeps the results: what passed serves from then on, what failed is replaced by the next backend.",
    )
    parser.add_argument("--again", action="store_true", help="check what has passed before too")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu: the CPU's kernels, by the same cases"
    )
    given = parser.parse_args(arguments)
    try:
        import torch
    except ImportError as error:
        print(f"verify needs torch: {error}")
        return 1

    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU, so there is nothing to verify; --device cpu checks the CPU's kernels")
        return 0
    again = ["unknown", "failed", "unchecked", *(["passed", "vouched"] if given.again else [])]
    seen: set[machine.Machine] = set()
    well = True
    for index in range(torch.cuda.device_count() if given.device == "cuda" else 1):
        here = machine.this(given.device, index)
        if here in seen:
            continue
        seen.add(here)
        states = gate.ensure(given.device, index, again=again)
        print(f"{here.gpu} ({here.arch}), driver {here.driver}, torch {here.torch}, Triton {here.triton}")
        for kernel, state in states.items():
            print(f"  {kernel:28}{state.status:10}{state.says}{'; ' + state.details if state.details else ''}")
            well &= state.usable
    print(f"kept in {cache.folder()}")
    return 0 if well else 1
