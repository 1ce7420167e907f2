"""What has collapsed in a network that trains without an error: classes, streams, and the foreground score λ'.

Seen by video-level labels alone, on the batches that end the windows of the log, in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2kernels import Ragged
from d2net.config import Config

ENOUGH = 20  # videos that a finding is made of
VIDEOS = 64  # of a batch that are looked at
TOLD = 0.35  # of p between videos with and without a class; what lies below found another class in docs/features.md
SILENT = 0.05  # of the loudest stream
SUMS = ("p", "seen", "gaps", "foreground")  # tensors that `Collapse` adds up


class Collapse:
    """Sums over the second half of a training, judged in its last quarter; each finding is told once."""

    def __init__(self, config: Config, classes: Sequence[str], streams: int):
        self.config, self.classes = config, list(classes)
        self.p = torch.zeros(2, len(self.classes), dtype=torch.float64)  # of videos without, and with, the class
        self.seen = torch.zeros(2, len(self.classes), dtype=torch.float64)
        self.gaps = torch.zeros(streams, dtype=torch.float64)
        self.foreground = torch.zeros(2, dtype=torch.float64)  # on the other snippets, and on the k most active
        self.videos = 0
        self.told: set[str] = set()

    @torch.no_grad()
    def add(self, activations: Ragged, logits: Ragged, foreground: Tensor, labels: Tensor) -> None:
        """A batch's T and logits of streams, λ' (total,) and labels (n, C), all on the host."""
        rows = activations, logits, activations.with_values(foreground)
        of_videos = ([x.double() for x in each.unpack()[:VIDEOS]] for each in rows)
        for t, z, f, own in zip(*of_videos, labels[:VIDEOS], strict=True):
            if len(t) < self.config.loss.min_snippets or not own.any():
                continue
            k = -(-len(t) // self.config.loss.pool_divisor)
            top = t.topk(k, dim=0)
            p = top.values.mean(0)
            for side, mask in enumerate((~own, own)):
                self.p[side, mask] += p[mask]
                self.seen[side, mask] += 1
            if k < len(t):
                self.videos += 1
                inside = torch.zeros_like(t, dtype=torch.bool).scatter_(0, top.indices, True)
                by_stream = torch.sigmoid(z).unflatten(1, (len(self.gaps), -1)) if z.dim() == 2 else torch.sigmoid(z)
                self.gaps += torch.stack([_gap(by_stream[:, :, c], inside[:, c]) for c in own.nonzero()[:, 0]]).mean(0)
                busy = torch.zeros(len(t), dtype=torch.bool)
                busy[t[:, own].amax(1).topk(k).indices] = True
                self.foreground += torch.stack([f[~busy].mean(), f[busy].mean()])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        sums = {name: getattr(self, name).clone() for name in SUMS}
        return {**sums, "videos": self.videos, "told": sorted(self.told)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave.

        Raises:
            ValueError: it is of other classes or streams.
        """
        for name in SUMS:
            own, kept = getattr(self, name), saved[name]
            if own.shape != kept.shape or own.dtype != kept.dtype:
                raise ValueError(f"collapse's {name} is {tuple(kept.shape)} for {tuple(own.shape)}")
            own.copy_(kept)
        self.videos, self.told = int(saved["videos"]), {str(key) for key in saved["told"]}

    def findings(self) -> list[str]:
        """What is wrong and has not been told."""
        found = dict([*self._classes(), *self._streams(), *self._foreground()])
        fresh = [text for key, text in found.items() if key not in self.told]
        self.told |= found.keys()
        return fresh

    def _classes(self) -> Iterable[tuple[str, str]]:
        lacks, has = self.p / self.seen.clamp(min=1)
        weak = (self.seen >= ENOUGH).all(0) & (has - lacks < TOLD)
        for c in weak.nonzero()[:, 0].tolist():
            how = "lower" if has[c] < lacks[c] else "hardly higher"
            yield (
                f"class {c}",
                f"class {self.classes[c]!r} has collapsed: its score is {how} in videos that have it ({has[c]:.2f}) "
                f"than in those that do not ({lacks[c]:.2f}), so that its segments may be another's; try another "
                "seed, or --restarts, and look at which classes always occur together",
            )

    def _streams(self) -> Iterable[tuple[str, str]]:
        loudest = float(self.gaps.max())
        if len(self.gaps) < 2 or self.videos < ENOUGH or loudest <= 0:
            return
        for s, gap in enumerate((self.gaps / self.videos).tolist()):
            if gap >= SILENT * loudest / self.videos:
                continue
            how = "runs against" if gap < -SILENT * loudest / self.videos else "is silent beside"
            yield (
                f"stream {s}",
                f"stream {s + 1} of {len(self.gaps)} {how} the others: its activations differ by {gap:+.3f} between "
                f"the snippets that stand for a video and the rest, the strongest's by {loudest / self.videos:+.3f}; "
                "see that its features are of the same size as the others'",
            )

    def _foreground(self) -> Iterable[tuple[str, str]]:
        denoised = self.config.method == "d2net" and self.config.loss.denoising != "none"
        used = self.config.localize.reweight or denoised
        rest, busy = (self.foreground / max(self.videos, 1)).tolist()
        if used and self.videos >= ENOUGH and busy < rest:
            why = "x_ref follows foreground, so that localize.reweight=false and loss.denoising=none are better"
            if self.config.method != "d2net":
                why = "localize.reweight=false does without it"
            yield (
                "foreground",
                f"the foreground score λ' is inverted: {busy:.2f} on the most active snippets, {rest:.2f} on the rest; "
                f"{why}",
            )


def _gap(values: Tensor, inside: Tensor) -> Tensor:
    """(S,) mean of values (s, S) inside minus outside."""
    return values[inside].mean(0) - values[~inside].mean(0)
