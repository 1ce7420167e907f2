"""From activations to snippet detections: what no golden file covers."""

from __future__ import annotations

import pytest
import torch

import d2kernels as d2k
from d2net.config import make_config
from d2net.localization.activations import Activations
from d2net.localization.decoding import localize_chunks


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_the_class_bonus_is_the_video_level_score(recipe):
    generator = torch.Generator().manual_seed(0)
    lengths, weight = [30, 7, 52], 0.2
    t = torch.rand(sum(lengths), 3, generator=generator)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    foreground = torch.rand(sum(lengths), generator=generator)

    def rows(**changes):
        # What depends on other proposals' scores is off, so that both runs keep the same ones.
        fixed = {"keep_ratio": None, "min_score": None, "iou_threshold": 1.0, "class_rule": "all"}
        config = make_config(recipe=recipe).localize.model_copy(update=fixed | changes)
        (out,) = localize_chunks(
            lambda names: Activations(d2k.Ragged(t, offsets), foreground), ["a", "b", "c"], lengths, config
        )
        d = out.detections
        keys = zip(d.sequence.tolist(), d.label.tolist(), d.start.tolist(), d.end.tolist(), strict=True)
        return dict(zip(keys, d.score.tolist(), strict=True))

    plain, bonus = rows(), rows(class_score_weight=weight)
    assert plain.keys() == bonus.keys() and len(plain) > 20
    p = torch.stack([x.topk(-(-len(x) // 8), dim=0).values.mean(0) for x in t.split(lengths)])
    for (video, label, start, end), score in bonus.items():
        expected = plain[video, label, start, end] + weight * p[video, label].item()
        assert score == pytest.approx(expected, abs=1e-6)
