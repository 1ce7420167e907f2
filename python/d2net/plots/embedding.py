"""How far foreground and background lie apart in the embedding space: t-SNE of per-video means (the paper's Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2net import api
from d2net.api.inputs import prepare
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore
from d2net.data.files import DataError
from d2net.localization.activations import batches_of, network_embeddings
from d2net.methods.ensemble import Ensemble
from d2net.plots import style
from d2net.terminal import Bar

LEAST = 3  # videos
SIDES = ("foreground", "background")


@dataclass(frozen=True)
class Means:
    """Of each video that has both, the mean embedding x of snippets inside and outside its segments.

    Args:
        videos: n names. foreground, background: (n, D) float64.
        left_out: videos without segments, or without a snippet on either side.
    """

    videos: list[str]
    foreground: np.ndarray
    background: np.ndarray
    left_out: int


def check_scikit() -> None:
    """Raises ImportError in one line where scikit-learn is absent."""
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError as error:
        raise ImportError("--embedding needs scikit-learn: pip install 'd2kernels[embedding]'") from error


def video_means(
    model: api.Model, store: FeatureStore, truth: Annotations, *, skip_missing: bool = False, progress: bool = False
) -> Means:
    """A snippet is foreground where its middle lies in a segment of any class.

    Raises:
        DataError: too few videos with segments, or an average of runs, which have spaces of their own.
    """
    if isinstance(model.network, Ensemble):
        raise DataError("--embedding: an average of restarts has no embedding of its own; give one run, as RUN/seed-0")
    videos = prepare(model, store, annotations=truth, names=list(truth.videos), skip_missing=skip_missing)
    assert videos.annotations is not None
    names, means = [], []
    with Bar("embeddings", len(videos.names), unit="video", show=progress) as bar:
        for part in batches_of(videos.lengths):
            chosen = videos.names[part]
            x = network_embeddings(model.network, [store[v] for v in chosen], model.config.train.precision)
            for i, (v, rows) in enumerate(zip(chosen, x, strict=True), part.start):
                stride, length = videos.steps(i)
                middle = np.arange(len(rows)) * stride + length / 2
                inside = np.zeros(len(rows), bool)
                for s in videos.annotations.videos[v].segments:
                    inside |= (s.start <= middle) & (middle < s.end)
                if inside.any() and not inside.all():
                    names.append(v)
                    means.append([rows[inside].mean(0), rows[~inside].mean(0)])
            bar.update(len(chosen))
    if len(names) < LEAST:
        raise DataError(
            f"--embedding: {len(names)} of {len(videos.names)} videos have snippets inside and outside segments, and "
            f"{LEAST} are needed; give --annotations with segments, or another --subset"
        )
    table = np.asarray(means, np.float64)
    return Means(names, table[:, 0], table[:, 1], len(videos.names) - len(names))


def silhouette(means: Means) -> float:
    """Mean silhouette of the two sides by cosine distance, in the embedding space itself: 1 apart, 0 mixed."""
    from sklearn.metrics import silhouette_score

    n = len(means.videos)
    return float(silhouette_score(np.r_[means.foreground, means.background], np.repeat([0, 1], n), metric="cosine"))


def projected(means: Means, seed: int = 0) -> np.ndarray:
    """(2n, 2): t-SNE of foreground means, then background means, by cosine distance as λ' measures."""
    from sklearn.manifold import TSNE

    points = np.r_[means.foreground, means.background]
    perplexity = min(30.0, (len(points) - 1) / 3)
    # PCA has no starting place by cosine; a seed makes it the same on every run.
    made = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(points)
    return np.asarray(made, np.float64)


def draw_embedding(path: Any, runs: Sequence[str], means: Sequence[Means], seed: int = 0) -> None:
    """Saves a panel of points for each run."""
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    with style.figure(4.2 * columns + 0.4, 4.2 * rows + 0.4) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, name, of in zip(axes, runs, means, strict=False):
            points = projected(of, seed)
            n = len(of.videos)
            for k, side in enumerate(SIDES):
                own = points[k * n : (k + 1) * n]
                ax.scatter(
                    own[:, 0], own[:, 1], s=22, marker=style.MARKERS[2 * k], color=style.color(k), alpha=0.75,
                    linewidths=0, label=side,
                )  # fmt: skip
            more = f"; {style.left_out(of.left_out, 'videos')}" if of.left_out else ""
            ax.set_title(f"{name}\n{n} videos, silhouette {silhouette(of):.2f}{more}")
            ax.set_xticks([])
            ax.set_yticks([])
        for ax in axes[len(runs) :]:
            ax.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        style.save(path, figure)
