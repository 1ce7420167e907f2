"""This machine's ceilings, measured on random data: copy bandwidth and products. A script that prints them.

The ceiling of products is the faster of a matrix product and a convolution: on some CPUs the libraries behind the two
differ by a factor of two.
"""

from __future__ import annotations

import time
from typing import Any

import torch

COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
SIZE = {"cpu": 1024, "cuda": 8192}
PRODUCTS = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}


def _fastest(run: Any, device: torch.device, least: float) -> float:
    """Seconds of the fastest call in `least` seconds and at least three calls."""
    run()
    best, end = float("inf"), time.perf_counter() + least
    done = 0
    while done < 3 or time.perf_counter() < end:
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            stop.record()
            torch.cuda.synchronize()
            seconds = start.elapsed_time(stop) / 1e3
        else:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
        best, done = min(best, seconds), done + 1
    return best


def measure(device: torch.device, seconds: float = 0.5) -> dict[str, float]:
    """`copy` in bytes/s, read and write counted; products by dtype in FLOP/s, `tf32` on a GPU too."""
    kind = device.type
    source = torch.randint(1 << 30, (COPY_BYTES[kind] // 8,), dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    found = {"copy": 2 * COPY_BYTES[kind] / _fastest(lambda: target.copy_(source), device, seconds)}
    n = SIZE[kind]
    for dtype in PRODUCTS[kind]:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        name = str(dtype).removeprefix("torch.")
        found[name] = 2.0 * n**3 / _fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, seconds)
        image = torch.randn(1, n, 1, n, device=device).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(n, n, 1, 3, device=device).to(dtype, memory_format=torch.channels_last)
        convolve = lambda x=image, w=weight: torch.nn.functional.conv2d(x, w, padding=(0, 1))  # noqa: E731
        found[name] = max(found[name], 6.0 * n**3 / _fastest(convolve, device, seconds))
    if kind == "cuda":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        a, b = (torch.randn(n, n, device=device) for _ in range(2))
        found["tf32"] = 2.0 * n**3 / _fastest(lambda: a @ b, device, seconds)
        torch.set_float32_matmul_precision(before)
    return found


def share(row: dict[str, Any], ceilings: dict[str, float]) -> float | None:
    """The least time that the ceilings allow, over the time taken; None where the op's cost is not known."""
    if not ceilings or "bytes" not in row or "seconds" not in row:
        return None
    floor = max(row["bytes"] / ceilings["copy"], row["flops"] / ceilings.get(row["dtype"], ceilings["float32"]))
    return floor / min(row[key]["median"] for key in ("seconds", "graph_seconds") if key in row)


if __name__ == "__main__":
    for kind in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for name, value in measure(torch.device(kind)).items():
            unit = "GB/s" if name == "copy" else "GFLOP/s"
            print(f"{kind:5} {name:9} {value / 1e9:10.1f} {unit}")
