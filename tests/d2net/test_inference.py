"""From activations to snippet detections: what no golden file covers."""

from __future__ import annotations

import inspect

import pytest
import torch

import d2kernels as d2k
from d2net.config import make_config
from d2net.localization.activations import Activations
from d2net.localization.decoding import ClassScores, detect, localize_chunks


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


def test_the_decoder_gives_localize_each_of_its_arguments(monkeypatch):
    """But those of the batch's form, a fixed capacity, and the release's inclusive NMS."""
    parameters = set(inspect.signature(d2k.localize).parameters)
    values = {"margin": 0.5, "outer": "pooled", "min_score": 0.1, "min_length": 3, "iou_threshold": 0.4, "sigma": 0.2}
    values |= {"keep_ratio": 0.3, "keep_scope": "sequence", "upsample": 2, "smoothing": 5, "relative": "max"}
    config = make_config(recipe="release").localize.model_copy(update={**values, "class_score_weight": 0.5})
    given = {}
    monkeypatch.setattr(d2k, "localize", lambda activations, **others: given.update(others))
    ones = torch.ones(1, 3)
    detect(d2k.Ragged(torch.rand(4, 3), torch.tensor([0, 4])), ClassScores(ones, ones > 0), config, ones)
    left_out = {"activations", "offsets", "lengths", "mask", "capacity", "inclusive"}
    assert set(given) == parameters - left_out
    assert {name: given[name] for name in values} == values
    assert given["thresholds"] == config.threshold_values() and torch.equal(given["class_score"], 0.5 * ones)
