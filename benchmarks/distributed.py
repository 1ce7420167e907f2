#!/usr/bin/env python3
"""Bytes that a step's processes exchange, counted, and a model of how K GPUs scale: python benchmarks/distributed.py

The bytes are those of a real step of one of K processes on torch's fake backend, which moves nothing. The times are a
model: no GPU is touched, and what is assumed of one is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "python")]
from workloads import thumos_lengths  # noqa: E402

from d2net.config import make_config  # noqa: E402
from d2net.data.dataset import TrainingBatches, shares  # noqa: E402
from d2net.distributed.parallel import in_parallel  # noqa: E402
from d2net.distributed.ranks import Ranks  # noqa: E402
from d2net.training.state import new_state  # noqa: E402
from d2net.training.step import train_step  # noqa: E402

CLASSES, STREAMS = 20, 2
# An H200 as its data sheet has it, and what of that is assumed to be reached.
PRODUCTS = {"bf16": 989e12, "tf32": 494e12}  # floating-point operations a second, dense
MEMORY = 4.8e12  # bytes a second
LINK = 450e9  # bytes a second each way, NVLink 4
REACHED, REACHED_LINK = 0.5, 0.8
COLLECTIVE = 20e-6  # seconds: of a small collective of 8 GPUs on one machine
AGREEMENT = 100e-6  # of the hosts, once a step, by gloo
HOST = 0.7e-3  # of a step: what one host takes to launch it
PASSES = 14  # reads and writes of a row of features' width, forward and backward, beside those within products


class Sent:
    """Counts what each kind of collective is given while it is installed."""

    NAMES = ("all_reduce", "all_gather")

    def __init__(self):
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Sent:
        self.before = {name: getattr(dist, name) for name in self.NAMES}
        for name, call in self.before.items():
            setattr(dist, name, self._counting(name, call))
        return self

    def _counting(self, name, call):
        def counted(x, *arguments, **options):
            self.bytes[name] += sum(t.numel() * t.element_size() for t in (x if isinstance(x, list) else [x]))
            self.calls[name] += 1
            return call(x, *arguments, **options)

        return counted

    def __exit__(self, *_: object) -> None:
        for name, call in self.before.items():
            setattr(dist, name, call)


class Random:
    """Features as wide as asked, made up when they are read."""

    source = "random"

    def __init__(self, lengths: list[int], width: int):
        self.width, self.lengths = width, {f"v{i}": n for i, n in enumerate(lengths)}

    def __getitem__(self, name: str) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((self.lengths[name], self.width), dtype=np.float32)


def counted(batch_size: int, width: int, ranks: int) -> tuple[Counter[str], Counter[str], int]:
    """Bytes and calls by collective of a step with L_D of the first of `ranks` processes, and its weights' bytes."""
    overrides = {"train.batch_size": batch_size, "loss.denoising_start": 0, "loss.denoising_every": 1}
    config = make_config("thumos14", "release", overrides)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        group = Ranks(0, ranks, dist.group.WORLD, dist.group.WORLD)
        lengths = thumos_lengths(batch_size, config.train.max_snippets)
        labels = np.eye(CLASSES, dtype=bool)[np.arange(batch_size) % CLASSES]
        batches = TrainingBatches(Random(lengths, width), [f"v{i}" for i in range(batch_size)], labels, config.train)
        batches.ranks = ranks
        state = new_state(config, width, STREAMS, CLASSES, torch.device("cpu"))
        state.joint = in_parallel(state.network, group)
        state.compute(lambda network: sum(p.sum() for p in network.parameters())).backward()  # buckets as they stay
        with Sent() as sent:
            train_step(state, batches[0], config, group)
        return sent.bytes, sent.calls, sum(p.numel() for p in state.network.parameters()) * 4
    finally:
        dist.destroy_process_group()


def largest_share(batch_size: int, ranks: int, crop: int, draws: int = 400) -> tuple[float, float]:
    """Mean rows of a batch and of the largest share of it, over random batches of THUMOS14's lengths."""
    population, random = np.array(thumos_lengths(2000, crop)), np.random.default_rng(0)
    rows, largest = [], []
    for _ in range(draws):
        lengths = random.choice(population, batch_size)
        ends = np.cumsum(counts := shares(lengths.tolist(), ranks))
        rows.append(lengths.sum())
        largest.append(max(lengths[e - n : e].sum() for e, n in zip(ends, counts, strict=True)))
    return float(np.mean(rows)), float(np.mean(largest))


def device_time(rows: float, width: int, kind: str) -> float:
    """Seconds of one GPU for `rows` rows: products of both layers and the classifier, three times, and passes."""
    products = 3 * rows * (2 * 2 * 3 * width**2 / STREAMS + 2 * 3 * width * CLASSES)
    moved = rows * width * (2 if kind == "bf16" else 4) * PASSES
    return products / (PRODUCTS[kind] * REACHED) + moved / (MEMORY * REACHED)


def step_time(rows: float, width: int, kind: str, weights: int, ranks: int) -> float:
    """Seconds of a step whose largest share has `rows` rows."""
    # Adam reads and writes weights, gradients and two moments, on every GPU.
    work = device_time(rows, width, kind) + 7 * weights / (MEMORY * REACHED)
    if ranks == 1:
        return max(work, HOST)
    reduced = 2 * (ranks - 1) / ranks * weights / (LINK * REACHED_LINK)
    # Of the gradients' sum, what the first layer's backward does not hide: it needs the last bucket at least.
    hidden = min(reduced / 2, device_time(rows, width, kind) / 4)
    return max(work + 3 * COLLECTIVE + reduced - hidden, HOST + AGREEMENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    width = parser.parse_args().width
    print(f"THUMOS14's lengths cropped to 750 snippets, width {width} in {STREAMS} streams, {CLASSES} classes.\n")
    print("| batch | processes | gathered, received by each | gradients, a rank's buckets | sent and received, ring |")
    print("| --- | --- | --- | --- | --- |")
    weights = 0
    for batch_size, ranks in ((10, 2), (10, 8), (128, 8)):
        sent, calls, weights = counted(batch_size, width, ranks)
        gathered, reduced = sent["all_gather"], sent["all_reduce"]
        print(
            f"| {batch_size} | {ranks} | {gathered / 1e3:.0f} kB in {calls['all_gather']} | "
            f"{reduced / 1e6:.1f} MB in {calls['all_reduce']} | {2 * (ranks - 1) / ranks * reduced / 1e6:.1f} MB |"
        )
    print(f"\nPredicted, not measured, on H200s of one machine that reach {REACHED:.0%} of the data sheet's rates.\n")
    print("| batch | precision | GPUs | largest share of rows | step, ms | times as fast | efficiency |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in PRODUCTS:
        for batch_size in (10, 32, 128, 512):
            for ranks in (1, 2, 4, 8):
                rows, largest = largest_share(batch_size, ranks, 750)
                alone = step_time(rows, width, kind, weights, 1)
                joint = step_time(largest, width, kind, weights, ranks)
                gain = alone / joint
                print(
                    f"| {batch_size} | {kind} | {ranks} | {largest / rows:.0%} | {1e3 * joint:.2f} | {gain:.1f} | "
                    f"{gain / ranks:.0%} |"
                )


if __name__ == "__main__":
    main()
