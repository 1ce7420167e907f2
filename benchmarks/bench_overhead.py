"""What one call costs on the host: each op on a few numbers, where every kernel is done at once.

`python benchmarks/bench_overhead.py [OP ...]` prints the CPU time of every op's call beside its goals: 6 µs without
gradients; with them, backward included, 1.5 times a bare autograd.Function. That one takes the same arguments and
returns and saves as many tensors of the same shapes, which torch allocates and nothing computes, and as many gradients.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from harness import Side, steps
from torch import Tensor

import d2kernels as d2k
from d2kernels import backends
from d2kernels.ops.gather_rows import gather_rows
from d2kernels.ops.head import head, reference_score
from d2kernels.ops.losses import Options, losses
from d2kernels.ops.step_record import step_record

CALL, RATIO = 6.0, 1.5  # the goals: µs, and times a bare Function
ROWS, CLASSES, WIDTH = 4, 2, 8  # of one sequence
LOOPS, ROUNDS = 500, 40


class Case(NamedTuple):
    """make(*leaves) gives the call; output: which of the op's results is differentiated, None for an op without.

    eager: the same by eager torch.
    """

    leaves: list[Tensor]
    make: Callable[..., Callable[[], Any]]
    output: int | None = None
    eager: Callable[..., Tensor] | None = None


def cases(device: torch.device | str = "cpu") -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    offsets, lengths = torch.tensor([0, ROWS], device=device), torch.tensor([ROWS], device=device)
    rows, scores, attention = rand(ROWS, WIDTH), rand(ROWS, CLASSES), rand(ROWS)
    weight, start, matrix = rand(WIDTH, WIDTH, 3), rand(WIDTH), rand(1, 2, 2)
    labels, mass = torch.ones((1, CLASSES), dtype=torch.bool, device=device), rand(1, 2)
    levels, segments = torch.tensor([0.25, 0.5], device=device), torch.tensor([[0.0, 2], [1, 3]], device=device)
    numbers, sums, one = rand(5).unbind(), torch.zeros(7, device=device), torch.tensor(1, device=device)
    seed = torch.tensor([1], device=device)

    def r(values: Tensor) -> d2k.Ragged:
        return d2k.Ragged(values, offsets, lengths, max_length=ROWS)

    def conv(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(x.t(), w, padding=1).t()

    known = {"iteration": one, "offsets": offsets, "lengths": lengths}
    return {
        "topk_pool": Case(
            [scores], lambda s: partial(d2k.topk_pool, r(s), k=2), 0, lambda s: s.topk(2, 0).values.mean(0)
        ),
        "topk_pool, k by length": Case([scores], lambda s: partial(d2k.topk_pool, r(s)), 0),
        "attention_pool": Case(
            [rows, attention],
            lambda x, a: partial(d2k.attention_pool, r(x), r(a)),
            0,
            lambda x, a: (torch.where(a > 0.5, a, 0)[:, None] * x).sum(0),
        ),
        "attention_pool, 2 columns": Case([rows, scores], lambda x, a: partial(d2k.attention_pool, r(x), r(a)), 0),
        "foreground_score": Case(
            [rows, start],
            lambda x, s: partial(d2k.foreground_score, r(x), s),
            0,
            lambda x, s: (1 - torch.nn.functional.cosine_similarity(x, s, dim=-1)) / 2,
        ),
        "temporal_conv": Case([rows, weight], lambda x, w: partial(d2k.temporal_conv, r(x), w), 0, conv),
        "temporal_conv, LeakyReLU + x": Case(
            [rows, weight, start],
            lambda x, w, b: partial(d2k.temporal_conv, r(x), w, b, negative_slope=0.2, residual=True),
            0,
        ),
        "temporal_conv, dropout": Case(
            [rows, weight], lambda x, w: partial(d2k.temporal_conv, r(x), w, dropout=0.5, seed=seed), 0
        ),
        "temporal_conv, dense": Case(
            [rows[None], weight], lambda x, w: partial(d2k.temporal_conv, x, w, lengths=lengths), 0
        ),
        "condition_number": Case(
            [matrix],
            lambda a: partial(d2k.condition_number, a, log=True),
            0,
            lambda a: torch.linalg.svdvals(a).log().diff().neg()[:, 0],
        ),
        "svd": Case([matrix], lambda a: partial(d2k.svd, a), 1),
        "svdvals": Case([matrix], lambda a: partial(d2k.svdvals, a), 1),
        "pdmi_snippet": Case([attention], lambda a: partial(d2k.pdmi_snippet, r(a), r(attention)), 0),
        "pdmi_video": Case([scores], lambda p: partial(d2k.pdmi_video, p, labels.expand(ROWS, -1)), 0),
        "head": Case([rows, scores], lambda z, s: partial(head, r(z), s), 3),
        "losses": Case(
            [scores[:1], rand(1, 2, WIDTH)], lambda p, e: partial(losses, p, e, mass, labels, Options(), **known), 0
        ),
        "reference_score": Case([rows], lambda z: partial(reference_score, r(z), start, rows[:1], mass, labels)),
        "lowest_attention": Case([attention], lambda a: partial(d2k.lowest_attention, r(a))),
        "connected_components": Case([scores], lambda s: partial(d2k.connected_components, r(s), levels)),
        "nms": Case([numbers[0].expand(2)], lambda s: partial(d2k.nms, segments, s, 0.5)),
        "soft_nms": Case([numbers[0].expand(2)], lambda s: partial(d2k.soft_nms, segments, s, 0.5)),
        "localize": Case([scores], lambda s: partial(d2k.localize, r(s), thresholds=levels, iou_threshold=0.5)),
        "gather_rows": Case(
            [rows], lambda x: partial(gather_rows, x, offsets[:1], offsets, lengths, torch.empty_like(x))
        ),
        "step_record": Case(
            [start], lambda x: partial(step_record, numbers[:4], numbers[4], None, x, torch.zeros_like(x), sums)
        ),
        "tv_l1": Case([rand(1, 1, 1)], lambda x: partial(d2k.tv_l1, x, x)),
    }


def _picked(made: Any, output: int) -> Tensor:
    if isinstance(made, Tensor):
        return made
    return made.values if isinstance(made, d2k.Ragged) else made[output]


def bare(case: Case, leaves: list[Tensor]) -> Callable[[], Tensor]:
    """The call of a Function that does nothing but what torch asks of one in the op's place."""
    call = case.make(*leaves)
    module, seen = importlib.import_module(call.func.__module__), []  # type: ignore[attr-defined]
    real = module.apply

    def apply(function: Any, *args: Any, **options: bool) -> Any:
        out = real(function, *args, **options)
        seen.append((args, out if isinstance(out, tuple) else (out,)))
        return out

    with mock.patch.object(module, "apply", apply):
        call()
    ((args, results),) = seen
    output = case.output if len(results) > 1 else 0
    saved = [x for x in results[output].grad_fn.saved_tensors if x is not None]

    def among_saved(x: Any) -> bool:
        return isinstance(x, Tensor) and any(x.data_ptr() == s.data_ptr() and x.shape == s.shape for s in saved)

    inputs = [i for i, x in enumerate(args) if among_saved(x)]
    kept = [i for i, x in enumerate(results) if among_saved(x)]
    fixed = [i for i, x in enumerate(results) if isinstance(x, Tensor) and x.grad_fn is None]
    like = [x.detach() for x in results if isinstance(x, Tensor)]
    wanted = [x if isinstance(x, Tensor) and x.requires_grad else None for x in args]

    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            out = tuple([torch.empty_like(x) for x in like])
            ctx.save_for_backward(*[given[i] for i in inputs], *[out[i] for i in kept])
            ctx.mark_non_differentiable(*[out[i] for i in fixed])
            ctx.set_materialize_grads(False)
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            _ = ctx.saved_tensors
            return tuple([None if x is None else torch.empty_like(x) for x in wanted])

    assert len(inputs) + len(kept) == len(saved), "a saved tensor is neither argument nor result"
    return lambda: Bare.apply(*args)[output]


def with_gradients(call: Callable[[], Any], output: int, leaves: list[Tensor]) -> Callable[[], Any]:
    seed = torch.ones_like(_picked(call(), output))
    return lambda: torch.autograd.grad(_picked(call(), output), leaves, seed)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("op", [name for name, case in cases().items() if case.eager])
def test_overhead(contest, device, op, direction):
    case = cases(device)[op]
    call, eager = lambda *x: _picked(case.make(*x)(), case.output), case.eager
    with torch.no_grad():
        shape, plain = call(*case.leaves), eager(*case.leaves)
    backward = direction != "forward"
    seeds, plain_seeds = ([torch.ones_like(shape)], [torch.ones_like(plain)]) if backward else (None, None)

    def as_ours(out):
        return (out[0].reshape(shape.shape), *out[1:])

    def exact():
        with backends.use("reference", op):
            wide = [x.double() for x in case.leaves]
            return steps(call, wide, [s.double() for s in seeds] if seeds else None)()

    backend = backends.select(op, device.type, torch.float32).__name__.rpartition(".")[2]
    peers = [
        Side("torch.empty_like", lambda: torch.empty_like(case.leaves[0]), checked=False),
        Side("eager torch", steps(eager, case.leaves, plain_seeds), as_ours),
    ]
    if backward:
        leaves = [x.detach().requires_grad_() for x in case.leaves]
        peers.append(Side("bare Function", with_gradients(bare(case, leaves), 0, leaves), checked=False))
    contest(
        op=op,
        work="overhead",
        direction=direction,
        ours=Side(backend, steps(call, case.leaves, seeds)),
        peers=peers,
        oracle=exact,
    )


def least(runs: list[Callable[[], Any]]) -> list[float]:
    """µs of CPU time of one call each, least of rounds in turn."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for i, run in enumerate(runs):
            start = time.process_time_ns()
            for _ in range(LOOPS):
                run()
            best[i] = min(best[i], (time.process_time_ns() - start) / LOOPS / 1e3)
    return best


def main(ops: list[str]) -> None:
    torch.set_num_threads(1)
    gc.disable()
    print(f"| op | call, µs (goal {CALL:g}) | with gradients, µs | bare Function, µs | ratio (goal {RATIO:g}) |")
    print("| --- | --- | --- | --- | --- |")
    for name, case in cases().items():
        if ops and name.split(",")[0] not in ops:
            continue
        plain = case.make(*case.leaves)

        if case.output is None:
            print(f"| {name} | {least([plain])[0]:.1f} | | | |", flush=True)
            continue
        leaves = [x.detach().requires_grad_() for x in case.leaves]
        runs = [plain] + [
            with_gradients(run, case.output, leaves) for run in (case.make(*leaves), bare(case, leaves))
        ]
        alone, ours, other = least(runs)
        print(f"| {name} | {alone:.1f} | {ours:.1f} | {other:.1f} | {ours / other:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
