"""Pictures of one video's activations, detections and ground truth."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from d2net.data.files import write_atomically


def plot_video(
    path: str | os.PathLike,
    title: str,
    seconds: np.ndarray,
    activations: dict[str, np.ndarray],
    foreground: np.ndarray,
    detections: Sequence[tuple[str, float, float, float]],
    truth: Sequence[tuple[str, float, float]],
) -> None:
    """Draws T and λ' over time above the detections and the ground truth, and saves a PNG.

    Args:
        seconds: (s,) snippet starts.
        activations: T (s,) of each class to draw; foreground: λ' (s,).
        detections: (label, start, end, score); the bar's opacity follows the score.
        truth: (label, start, end); may be empty.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = list(activations)
    color = {c: f"C{i % 10}" for i, c in enumerate(labels)}
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(10, 3.6 + 0.5 * len(labels)), sharex=True, height_ratios=[3, 0.6 + 0.6 * len(labels)]
    )
    for c in labels:
        top.plot(seconds, activations[c], color=color[c], label=c)
    top.plot(seconds, foreground, color="0.6", linewidth=0.8, label="foreground score λ'")
    top.set_ylim(0, 1.02)
    top.set_ylabel("activation")
    # A dollar sign in a name begins no formula.
    top.set_title(title, parse_math=False)
    for text in top.legend(loc="upper right", fontsize=8).get_texts():
        text.set_parse_math(False)
    best = max((d[3] for d in detections), default=1.0)
    ticks, names = [], []
    for i, c in enumerate(labels):
        for place, rows in (
            (2 * i, [(a, b, 1.0) for label, a, b in truth if label == c]),
            (2 * i + 1, [(a, b, max(0.15, s / best)) for label, a, b, s in detections if label == c]),
        ):
            for a, b, alpha in rows:
                bottom.barh(place, b - a, left=a, height=0.8, color=color[c], alpha=min(1.0, alpha))
            ticks.append(place)
            names.append(f"{c} {'truth' if place % 2 == 0 else 'found'}")
    bottom.set_yticks(ticks, names, fontsize=8, parse_math=False)
    bottom.invert_yaxis()
    bottom.set_xlabel("seconds")
    figure.tight_layout()
    try:
        write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    finally:
        plt.close(figure)
