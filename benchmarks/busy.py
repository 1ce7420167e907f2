"""A training step on a machine in use: python benchmarks/busy.py [--width 128] [--busy 0 2].

Each way of threading runs in a process of its own, in turn, beside as many processes that compute without end as
`--busy` says; the ratio to one thread is what docs/threads.md speaks of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    "all, asleep while waiting": {"OMP_WAIT_POLICY": "PASSIVE"},
    "all, spinning": {},
}
CHOICES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def steps(width: int, count: int, seconds: float) -> list[float]:
    """Seconds of up to `count` steps of the release recipe on 20 clips of about 110 snippets."""
    import numpy as np
    import torch

    from d2net.config import make_config
    from d2net.data.dataset import TrainingBatches
    from d2net.data.features.arrays import ArrayFeatures
    from d2net.training.state import new_state
    from d2net.training.step import train_step

    rng = np.random.default_rng(0)
    lengths = rng.integers(60, 160, 40)
    store = ArrayFeatures({f"v{i}": rng.standard_normal((s, width)).astype(np.float32) for i, s in enumerate(lengths)})
    config = make_config("hapt", overrides={"loss.denoising_start": 0, "loss.denoising_every": 1})
    batches = TrainingBatches(store, list(store), np.eye(12)[np.arange(40) % 12], config.train, config.model.gap)
    state = new_state(config, width, 2, 12, torch.device("cpu"))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    for i in range(count + 3):
        batch, began = batches[i], time.perf_counter()
        train_step(state, batch, config)
        taken.append(time.perf_counter() - began)
        if time.perf_counter() > end and len(taken) > 3:
            break
    return taken[3:]


def measure(way: dict[str, str], width: int, seconds: float) -> float:
    """Median milliseconds of a step in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES} | way
    command = [sys.executable, __file__, "--child", "--width", str(width), "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(1e3 * statistics.median(steps(given.width, 200, given.seconds)))
        return
    for busy in given.busy:
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            taken: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(given.rounds):
                for name, way in WAYS.items():
                    taken[name].append(measure(way, given.width, given.seconds))
        finally:
            for process in burners:
                process.kill()
        load = os.getloadavg()[0]
        print(f"width {given.width}, {busy} busy processes beside (load {load:.1f}), {given.rounds} rounds in turn")
        for name, values in taken.items():
            ratios = [a / b for a, b in zip(values, taken["one thread"], strict=True)]
            middle, ratio = statistics.median(values), statistics.median(ratios)
            print(f"  {name:28}{middle:8.1f} ms a step, {ratio:5.2f} of one thread's")


if __name__ == "__main__":
    main()
