"""Inputs on which a kernel is checked: small, odd and target-sized batches of every op, with what it is called for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import d2kernels
from d2kernels.ragged import Ragged

d2k: Any = d2kernels  # its names are lazy
SIZES = ("small", "odd", "target")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDE = FLOATS[:2]


class Batch(NamedTuple):
    """Lengths of a batch's sequences, with the width and classes of its rows."""

    lengths: tuple[int, ...]
    width: int
    classes: int


# One sequence, rows in no multiple of 16, empty and one-row sequences, and a batch of THUMOS14 videos.
BATCHES = {
    "small": (Batch((5,), 8, 3), Batch((5, 0, 7), 8, 3)),
    "odd": (Batch((1,), 6, 1), Batch((1, 0, 33, 130, 1, 0, 18), 74, 21)),
    "target": (Batch((750, 48, 235, 1, 613, 750, 120, 87, 402, 274), 2048, 20),),
}


class Case(NamedTuple):
    """One call: inputs in float64 on the CPU that a gradient is asked of (none for whole-number results), and the call.

    call: takes a function that packs rows into a Ragged, and the inputs in the precision and on the device to check.
    exact: whole numbers decide, so the reference runs in the checked precision, not in float64.
    """

    name: str
    inputs: tuple[Tensor, ...]
    call: Callable[..., Any]
    lengths: tuple[int, ...]
    dtypes: Sequence[torch.dtype] = FLOATS
    exact: bool = False


def ragged_on(device: torch.device, lengths: Sequence[int]) -> Callable[[Tensor], Ragged]:
    """Packs rows that lie on the device."""
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(device)
    return lambda values: Ragged(values, offsets, max_length=max(lengths))


def _random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _temporal_conv(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    width = batch.width
    x = _normal(total, width, seed=0)

    def layer(c_out: int, taps: int) -> tuple[Tensor, ...]:
        fan = width // 2 * taps
        # Outputs far from 0, of either sign: rounding must not decide the activation's branch.
        bias = (_random(c_out, seed=3) < 0.5).double() * 24 - 12
        return x, _normal(c_out, width // 2, taps, seed=1) * fan**-0.5, bias

    yield (
        layer(width, 3),
        lambda ragged, *t: d2k.temporal_conv(ragged(t[0]), *t[1:], groups=2, negative_slope=0.2, residual=True).values,
    )
    yield (
        layer(width, 3),
        lambda ragged, *t: d2k.temporal_conv(
            Ragged.pack(ragged(t[0]).unpack(), gap=1), *t[1:], groups=2, negative_slope=0.2
        ).values,
    )
    yield (
        layer(2 * batch.classes, 5),
        lambda ragged, *t: d2k.temporal_conv(
            ragged(t[0]), *t[1:], groups=2, dilation=2, dropout=0.5,
            **{name: torch.tensor([at], device=t[0].device) for name, at in (("seed", 7), ("first_row", 2**33))},
        ).values,
    )


def _topk_pool(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    scores = _normal(total, batch.classes, seed=4)
    yield (scores,), lambda ragged, s: d2k.topk_pool(ragged(s))
    special = (scores * 2).round() / 2  # ties
    for i, value in enumerate((float("nan"), float("inf"), -float("inf"), -0.0)):
        special.view(-1)[i + 2 :: 41] = value
    yield (special,), lambda ragged, s: d2k.topk_pool(ragged(s.nan_to_num()), k=3)
    yield (special,), lambda ragged, s: d2k.topk_pool(ragged(s.detach()), k=3)


def _pooling(op: str) -> Callable[[Batch, int], Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]]:
    def cases(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
        x = _normal(total, batch.width, seed=5)
        if op == "foreground_score":
            yield (x, _normal(batch.width, seed=6)), lambda ragged, x, r: d2k.foreground_score(ragged(x), r).values
            return
        yield (
            (x, _random(total, 2, seed=7)),
            lambda ragged, x, a: d2k.attention_pool(ragged(x), ragged(a)),
        )
        yield (
            (x, _random(total, seed=8)),
            lambda ragged, x, a: d2k.attention_pool(ragged(x), ragged(a), threshold=0.3, normalize=True),
        )

    return cases


def _pdmi(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    yield (_random(total, seed=9),), lambda ragged, a: d2k.pdmi_snippet(ragged(a), (a.detach() * 7.3) % 1).value
    n = 2 * len(batch.lengths)
    labels = _random(n, batch.classes, seed=11) < 0.3
    labels[torch.arange(n), torch.arange(n) % batch.classes] = True
    yield (_random(n, batch.classes, seed=10),), lambda ragged, p: d2k.pdmi_video(p, labels.to(p.device)).value


def _condition_number(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    for m, n in ((2, 2), (batch.classes, 7)):
        yield (_random(len(batch.lengths), m, n, seed=12),), lambda ragged, a: d2k.condition_number(a, log=True)
    a, b = _random(3, 8, batch.classes, seed=13), _random(3, batch.classes, 5, seed=14)
    yield (a, b), lambda ragged, a, b: d2k.condition_number(a, b, log=True)


def _svd(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    for m, n in ((2, 2), (batch.classes, 7)):
        yield (_random(len(batch.lengths), m, n, seed=15),), lambda ragged, a: d2k.svdvals(a)


def _components(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    scores = _random(total, batch.classes, seed=16)
    yield (scores,), lambda ragged, s: d2k.connected_components(ragged(s), [0.2, 0.5, 0.9])


def _localize(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    scores = _random(total, batch.classes, seed=17)
    for options in ({}, {"sigma": 0.3, "outer": "sides", "upsample": 3, "smoothing": 3, "relative": "max"}):
        yield (
            (scores,),
            lambda ragged, s, options=options: d2k.localize(
                ragged(s), thresholds=[0.3, 0.6, 0.9], iou_threshold=0.4, min_length=2, **options
            ),
        )


def _nms(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    m = total if total < 1000 else 2500
    start = _random(m, seed=18) * m / 4
    segments = torch.stack([start, start + 1 + _random(m, seed=19) * 9], 1)
    groups = torch.arange(m) % batch.classes
    scores = _random(m, seed=20)
    yield (segments, scores), lambda ragged, t, s: [d2k.nms(t, s, 0.4, groups.to(s.device)), d2k.nms(t, s, 0.4)]
    yield (segments, scores), lambda ragged, t, s: d2k.soft_nms(t, s, 0.3, groups.to(s.device))


def _lowest(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    attention = (_random(total, seed=21) * 50).round() / 50  # ties
    yield (attention,), lambda ragged, a: d2k.lowest_attention(ragged(a))
    attention = attention.clone()
    attention[3::17] = float("nan")
    yield (attention,), lambda ragged, a: d2k.lowest_attention(ragged(a))


def _head(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    from d2kernels.ops.head import head, reference_score

    n, classes, streams = len(batch.lengths), batch.classes, 2
    z = _normal(total, batch.width, seed=22)
    # Both streams of a class have one sign: no attention lies at a threshold.
    sign = (_random(total, 1, classes, seed=23) < 0.5 / classes).double() * 2 - 1
    logits = (sign * (0.5 + _random(total, streams, classes, seed=24))).flatten(1)
    labels = _random(n, classes, seed=25) < 0.5
    start = _normal(batch.width // streams, seed=26)

    def call(ragged: Any, z: Tensor, logits: Tensor, **options: Any) -> list[Tensor]:
        own, rows = labels.to(z.device), ragged(z)
        out: Any = head(rows, logits, streams=streams, labels=own, **options)
        moved: Any = reference_score(
            rows.with_values(z.detach()), start.to(out.mass), out.lowest, out.mass, own, streams=streams, min_snippets=2
        )
        return [*out, *moved]

    yield (z, logits), call
    yield (z, logits), lambda ragged, *t: call(ragged, *t, inclusive=True, normalize=True)


def _losses(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    from d2kernels.ops.losses import PAIRS, Options, losses

    n, classes = len(batch.lengths), batch.classes
    inputs = (
        _random(n, classes, seed=27),
        _random(n, 2, batch.width, seed=28),  # no cosine is at 0, where rounding would decide
        _random(total, seed=29),
        _random(total, seed=30),
    )
    mass, score, keys = _random(n, 2, seed=31), _random(total, seed=32), _random(4, n, seed=33)
    labels = _random(n, classes, seed=34) < 0.4

    def call(options: Any) -> Callable[..., Any]:
        def run(ragged: Any, p: Tensor, embedding: Tensor, on: Tensor, off: Tensor) -> Any:
            rows = ragged(on.detach())
            return losses(
                p, embedding, mass.to(p), labels.to(p.device), options, iteration=torch.tensor(7, device=p.device),
                offsets=rows.offsets, lengths=rows.lengths, foreground_attention=on, background_attention=off,
                foreground=score.to(p), pairs_drawn=keys.to(p.device, torch.float32),
            )  # fmt: skip

        return run

    both = Options(snippet=True, video=True, rtol=1e-6, video_rtol=1e-9)
    yield (
        inputs,
        call(
            both._replace(
                pairs=PAIRS.index("random"), clamp=1e-3, per_entry=True, pair_warmup=9.0, denoising_warmup=11.0,
                relative_floor=0.2, normalize_rows=True, per_class=True, skip_one_sided=True,
            )
        ),
    )  # fmt: skip
    yield inputs, call(both._replace(pairs=PAIRS.index("all"), torch_cosine=True, joint=True))


def _step_record(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    from d2kernels.ops.step_record import step_record

    def call(scale: float) -> Callable[..., Any]:
        def run(ragged: Any, terms: Tensor, reference: Tensor) -> list[Tensor]:
            # The kernel knows float32 alone.
            given, kept = (terms.detach() * scale).float(), torch.zeros_like(reference, dtype=torch.float32)
            sums = torch.ones(7, device=terms.device)
            left_out = torch.tensor(3, device=terms.device)
            moved = reference.detach().float() * scale
            total, classification, ds, dv, norm = (x.clone() for x in given)
            skipped = step_record((total, classification, ds, dv), norm, left_out, moved, kept, sums)
            return [skipped, kept, sums]

        return run

    inputs = _random(5, seed=35), _normal(batch.width, seed=36)
    yield inputs, call(1.0)
    yield inputs, call(float("inf"))


def _gather_rows(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    from d2kernels.ops.gather_rows import DTYPES, gather_rows

    lengths = torch.tensor(batch.lengths)
    offsets = torch.cat([lengths.new_zeros(1), (lengths + 2).cumsum(0)]) + 2
    first = (torch.arange(len(lengths)) * 37) % (total - lengths + 1)

    def call(shift: int) -> Callable[..., Any]:
        def run(ragged: Any, source: Tensor) -> list[Tensor]:
            device, found = source.device, []
            for stored in DTYPES:
                # At an address that is aligned to one number alone, where there is a shift.
                rows = source.new_empty(source.numel() + shift, dtype=stored)[shift:].view_as(source).copy_(source)
                for dtype in DTYPES:
                    out = torch.full((int(offsets[-1]) + 3, batch.width), float("nan"), dtype=dtype, device=device)
                    found.append(gather_rows(rows, first.to(device), offsets.to(device), lengths.to(device), out))
            return found

        return run

    yield (_normal(total, batch.width, seed=39),), call(0)
    yield (_normal(total, batch.width, seed=40),), call(1)


def _tv_l1(batch: Batch, total: int) -> Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]:
    # Every iteration is done, and few: where an error ends them hangs on the last bit.
    few = {"nscales": 2, "warps": 1, "inner_iterations": 6, "outer_iterations": 2, "epsilon": 0.0, "scale_step": 0.75}
    for i, (height, width) in enumerate(((24, 34), (batch.classes, batch.width % 61 + 1))):
        # Smooth, so that the flow hangs little on rounding.
        wide = torch.nn.functional.avg_pool2d(_random(3, height + 8, width + 8, seed=37 + i), 7, 1)
        frames = (wide - 0.5) * 2 + 0.5
        yield (
            (frames[..., :-2, :-2], frames[..., 1:-1, 2:]),
            lambda ragged, a, b, few=few: [
                d2k.tv_l1(a, b, **few),
                d2k.tv_l1(a, b, **few, gamma=0.5, median_filtering=3),
            ],
        )


_CASES: dict[str, tuple[Callable[[Batch, int], Iterator[tuple[tuple[Tensor, ...], Callable[..., Any]]]], bool]] = {
    "temporal_conv": (_temporal_conv, False),
    "topk_pool": (_topk_pool, False),
    "attention_pool": (_pooling("attention_pool"), False),
    "foreground_score": (_pooling("foreground_score"), False),
    "lowest_attention": (_lowest, True),
    "condition_number": (_condition_number, False),
    "pdmi": (_pdmi, False),
    "svd": (_svd, False),
    "head": (_head, False),
    "losses": (_losses, False),
    "step_record": (_step_record, True),
    "gather_rows": (_gather_rows, True),
    "connected_components": (_components, True),
    "nms": (_nms, True),
    "localize": (_localize, True),
    "tv_l1": (_tv_l1, False),
}


def cases(op: str, sizes: Sequence[str] = SIZES) -> Iterator[Case]:
    """The op's cases, smallest first."""
    make, exact = _CASES[op]
    for size in sizes:
        for batch in BATCHES[size]:
            found = make(batch, sum(batch.lengths))
            for i, (inputs, call) in enumerate(found):
                if op == "tv_l1":
                    dtypes: Sequence[torch.dtype] = FLOATS[:1]
                else:
                    dtypes = WIDE if exact or op in ("condition_number", "pdmi", "svd", "losses") else FLOATS
                yield Case(f"{size}, n = {len(batch.lengths)}, {i + 1}", inputs, call, batch.lengths, dtypes, exact)
