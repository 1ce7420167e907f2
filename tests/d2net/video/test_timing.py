"""Segments are where the events are, in seconds, whatever the video's rate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from videos import moving, texture, write_video

from d2net import api
from d2net.config import make_config
from d2net.data.activations import VideoActivations
from d2net.data.features import open_features
from d2net.methods.d2net.network import D2Net
from d2net.timing import Timing
from d2net.video.backbones import make_backbone
from d2net.video.extract import extract

SECONDS = 14.0
EVENTS = [(2.3, 5.61), (8.07, 11.9)]
RATES = {
    "23.976": Fraction(24000, 1001),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "59.94": Fraction(60000, 1001),
}


def times_at(name: str) -> list[Fraction]:
    if name != "variable":
        return [k / RATES[name] for k in range(int(SECONDS * RATES[name]))]
    rng = np.random.default_rng(0)
    steps = np.where(rng.random(2000) < 0.1, rng.uniform(0.1, 0.3, 2000), rng.uniform(0.01, 0.06, 2000))
    ticks = np.round(np.cumsum(steps) * 1000).astype(int)
    return [Fraction(0), *(Fraction(int(t), 1000) for t in ticks if t < 1000 * SECONDS)]


@pytest.mark.parametrize(
    ("name", "stride"), [*((name, 16) for name in (*RATES, "variable")), ("59.94", 4), ("variable", 4)]
)
def test_segments_end_within_a_snippet_of_the_truth(tmp_path, name, stride):
    times = times_at(name)
    moved = [sum(max(0.0, min(float(t), end) - start) for start, end in EVENTS) for t in times]
    views = moving(texture(4), [(round(60 * s), 0) for s in moved], 96, 64)
    video = write_video(tmp_path / "v.mp4", views, times, options={"crf": "18"})
    backbone = make_backbone("motion", short=48, stride=stride)
    extract([video], tmp_path / "features", backbone, progress=False)
    store = open_features(tmp_path / "features")
    assert abs(store.durations["v"] - float(times[-1])) < 0.2

    # How much of the picture moves: the square of what the features hold.
    activity = 1 - (store["v"][:, 320:352].reshape(-1, 8, 4)[:, :, 0] ** 2).mean(1)
    config = make_config(overrides={"localize.reweight": False, "localize.class_rule": "all"})
    model = api.Model(D2Net(512, 1, 1, config.model), config, ("moves",), None)
    found = api.localize(
        model,
        {"v": VideoActivations(activity[:, None].astype(np.float32), None)},
        from_activations=True,
        timing=Timing(**store.stated),
        durations=store.durations,
    ).detections
    best = sorted((float(found.start[i]), float(found.end[i])) for i in np.argsort(-found.score)[:2])
    assert np.abs(np.array(best) - np.array(EVENTS)).max() <= 16 / 25
