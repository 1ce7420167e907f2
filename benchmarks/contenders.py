"""Our backends as contestants: the one that an op chooses by itself, and the others beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Side

from d2kernels import backends


def of(
    op: str,
    device: torch.device,
    run: Callable[[], Any],
    result: Callable[[Any], Any] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Side, list[Side]]:
    """`run` under the op's own choice, and under each other backend that can serve it."""
    chosen = backends.select(op, device.type, dtype).__name__.rpartition(".")[2]

    def under(backend: str) -> Callable[[], Any]:
        def wrapped() -> Any:
            with backends.use(backend, op):
                return run()

        return wrapped

    others = [b for b in backends.BACKENDS if b != chosen and backends.can_run(op, b, device.type, dtype)]
    return Side(chosen, run, result), [Side(f"d2kernels {b}", under(b), result) for b in others]


def reference(op: str | None, run: Callable[[], Any]) -> Callable[[], Any]:
    """`run` under the reference backend, of one op or of all."""

    def wrapped() -> Any:
        with backends.use("reference", op):
            return run()

    return wrapped
