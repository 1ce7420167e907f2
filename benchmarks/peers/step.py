"""One D2-Net training step as research code writes it: padded batches and loops over videos.

The same function as d2net's `release` recipe on 20-class data (embeddings masked after each layer, so that padding
does not leak), with weights copied from a d2net network. Anomaly detection is off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainer import Permutations


class PaddedNet(nn.Module):
    """nn.Conv1d on (n, d, s) batches; takes the state dict of a d2net network without its reference."""

    def __init__(
        self, width: int, classes: int, dropout: float, kernel: int = 3, slope: float = 0.2, classifier: int = 1
    ):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=2)
        self.conv2 = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=2)
        self.classifier = nn.Conv1d(width, 2 * classes, classifier, padding=classifier // 2, groups=2)
        self.dropout, self.slope = dropout, slope

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """features: (n, s, d); mask: (n, s). T (n, s, C) and embeddings (n, s, d / 2)."""
        x, keep = features.mT, mask[:, None]
        for conv in (self.conv1, self.conv2):
            x = (F.leaky_relu(conv(x), self.slope) + x) * keep
        x = F.dropout(x, self.dropout, self.training)
        logits = self.classifier(x)
        a, b = logits.sigmoid().chunk(2, 1)
        rgb, flow = x.chunk(2, 1)
        return ((a + b) / 2).mT, ((rgb + flow) / 2).mT


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (((a * a).sum(-1) + 1e-12) * ((b * b).sum(-1) + 1e-12)).sqrt()


def _pick(permutation: Tensor | None, n: int) -> Tensor:
    # One of all videos serves no shorter list, which training comes to.
    return torch.randperm(n) if permutation is None or len(permutation) != n else permutation


def losses(
    tcam: Tensor,
    embeddings: Tensor,
    lengths: list[int],
    labels: Tensor,
    reference: Tensor,
    permutations: Permutations | None = None,
    gamma: float = 0.01,
    denoising: float = 0.1,
    divisor: int = 8,
) -> tuple[Tensor, Tensor]:
    """Total loss and the updated x_ref; a Python loop over videos, torch ops on each."""
    n, classes = labels.shape
    p, fg, bg, fg_of, bg_of, lowest = [], [], [], [], [], []
    for i, s in enumerate(lengths):
        t, x = tcam[i, :s], embeddings[i, :s]
        p.append(t.topk(-(-s // divisor), dim=0).values.mean(0))
        attention = t.max(1).values
        front, back = attention >= 0.5, 1 - attention >= 0.5
        if front.any():
            a = attention[front]
            fg.append((a[:, None] * x[front]).sum(0) / a.sum())
            fg_of.append(i)
        if back.any():
            b = 1 - attention[back]
            bg.append((b[:, None] * x[back]).sum(0) / b.sum())
            bg_of.append(i)
            lowest.append(x[attention.argmin()].detach())
    w_ff, w_bb, w_fb = ([tcam.new_zeros(()) for _ in range(n)] for _ in range(3))
    given = permutations or Permutations(None, None, None, None)
    for i, j in enumerate(_pick(given.foreground, len(fg)).tolist()):
        w_ff[fg_of[i]] = 1 - cosine(fg[i], fg[j])
    for i, j in enumerate(_pick(given.background, len(bg)).tolist()):
        w_bb[bg_of[i]] = 1 - cosine(bg[i], bg[j])
    m = min(len(fg), len(bg))
    first, second = _pick(given.x_foreground, len(fg))[:m], _pick(given.x_background, len(bg))[:m]
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        w_fb[fg_of[i]] = cosine(fg[i], bg[j]).clamp(min=0)
    p = torch.stack(p).clamp(1e-3, 1 - 1e-3)
    classification = tcam.new_zeros(())
    for i in range(n):
        y = labels[i].to(p.dtype)
        positive = y * (1 - p[i] + w_fb[i] + gamma * w_ff[i]) ** 2 * p[i].log() * classes
        negative = (1 - y) * (p[i] + w_fb[i] + gamma * w_bb[i]) ** 2 * (1 - p[i]).log()
        classification = classification - (positive + negative).sum()
    classification = classification / (n * classes)
    if lowest:
        reference = 0.9 * reference + 0.1 * torch.stack(lowest).mean(0)

    q = torch.where(p > 0.2 * p.max(1, keepdim=True).values, p, 0)
    q = q / q.sum(1, keepdim=True)
    y = labels.to(p.dtype).t()
    y = y / y.sum(1, keepdim=True).clamp(min=1)
    singular = torch.linalg.svdvals(y @ q)
    singular = singular[singular > 1e-5]
    video = (singular.max() / singular.min()).log() if len(singular) else tcam.new_zeros(())

    terms = []
    for i, s in enumerate(lengths):
        t, x = tcam[i, :s], embeddings[i, :s].detach()
        score = (1 - F.cosine_similarity(x, reference[None], dim=1)) / 2
        front, back = score > 0.5, score < 0.5
        if not front.any() or not back.any():
            continue
        of_front = t[front][:, labels[i]].max(1).values
        of_back = t[back].max(1).values
        joint = torch.stack([of_front.mean(), (1 - of_front).mean(), of_back.mean(), (1 - of_back).mean()])
        values = torch.linalg.svdvals(joint.reshape(2, 2).clamp(min=1e-10))
        terms.append((values[0] / values[1]).log())
    snippet = torch.stack(terms).mean() if terms else tcam.new_zeros(())
    return classification + denoising * (video + snippet), reference
