"""Classes, streams and λ' that collapse without an error are named during training."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
import torch

import d2kernels as d2k
from d2net import api
from d2net.config import make_config
from d2net.distributed.together import Together
from d2net.training.collapse import ENOUGH, Collapse
from d2net.training.errors import TrainingWarning

CONFIG = make_config(overrides={"loss.pool_divisor": 4, "loss.denoising": "both"})


def batches(t_of, labels, streams=lambda t: (t, t), foreground=lambda t: t.max(1), n=2 * ENOUGH, s=12):
    """Videos whose activations are t_of(rng, own labels), each stream's a function of them."""
    rng = np.random.default_rng(0)
    own = np.array([labels(i) for i in range(n)], bool)
    ts = [t_of(rng, row, s) for row in own]
    logits = [np.stack([np.log(x / (1 - x)) for x in streams(t)], 1) for t in ts]
    pieces = [torch.from_numpy(np.concatenate(x)).float() for x in (ts, logits, [foreground(t) for t in ts])]
    offsets = torch.arange(n + 1) * s
    return d2k.Ragged(pieces[0], offsets), d2k.Ragged(pieces[1], offsets), pieces[2], torch.from_numpy(own)


def good(rng, own, s):
    """High on a quarter of the snippets of the classes that a video has."""
    t = rng.uniform(0.02, 0.1, (s, len(own)))
    for c in np.flatnonzero(own):
        t[rng.permutation(s)[: s // 4], c] += 0.8
    return t


def findings(*given, config=CONFIG, classes=("a", "b"), **named):
    seen = Collapse(config, classes, 2)
    seen.add(*batches(*given, **named))
    found = seen.findings()
    assert seen.findings() == []  # each is told once
    return found


def one_of_two(i):
    return [i % 2 == 0, i % 2 == 1]


def test_what_is_well_is_not_told():
    assert findings(good, one_of_two) == []


@pytest.mark.parametrize(("value", "how"), [(0.15, "hardly higher"), (0.0, "lower")])
def test_a_class_that_is_no_higher_where_it_is(value, how):
    def flat(rng, own, s):
        t = good(rng, own, s)
        t[:, 1] = 0.4 + (value if own[1] else 0.1) + rng.uniform(0, 0.01, s)
        return t

    (text,) = findings(flat, one_of_two)
    assert text.startswith(f"class 'b' has collapsed: its score is {how} in videos that have it (0.")


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize(
    ("change", "how"),
    [(lambda t: 0.1 + 0 * t, "is silent beside"), (lambda t: 1 - t, "runs against"), (lambda t: t**0.8, None)],
)
def test_a_stream_that_is_silent_or_inverted(stream, change, how):
    pair = (lambda t: (change(t), t)) if stream == 0 else (lambda t: (t, change(t)))
    found = findings(good, one_of_two, streams=pair)
    assert [text.partition(" the others")[0] for text in found] == ([f"stream {stream + 1} of 2 {how}"] if how else [])


def test_an_inverted_foreground_score():
    (text,) = findings(good, one_of_two, foreground=lambda t: 1 - t.max(1))
    assert text.startswith("the foreground score λ' is inverted: 0.1")
    unused = make_config(overrides={"localize.reweight": False, "loss.denoising": "none", "loss.pool_divisor": 4})
    assert findings(good, one_of_two, foreground=lambda t: 1 - t.max(1), config=unused) == []


def test_few_videos_and_short_ones_say_nothing():
    def bad(rng, own, s):
        return rng.uniform(0.4, 0.6, (s, 2))

    assert len(findings(bad, one_of_two, streams=lambda t: (t, 1 - t))) > 2
    assert findings(bad, one_of_two, n=ENOUGH - 1, streams=lambda t: (t, 1 - t)) == []
    assert findings(bad, one_of_two, s=3, streams=lambda t: (t, 1 - t)) == []  # below loss.min_snippets
    assert findings(bad, lambda i: [False, False]) == []


def test_what_was_seen_goes_on():
    def weak(rng, own, s):
        t = good(rng, own, s)
        t[:, 1] = 0.4 + rng.uniform(0, 0.01, s)
        return t

    half = batches(weak, one_of_two, n=ENOUGH)
    first = Collapse(CONFIG, ["a", "b"], 2)
    first.add(*half)
    assert first.findings() == []  # of too few videos
    second = Collapse(CONFIG, ["a", "b"], 2)
    second.restore(first.state())
    for seen in (first, second):
        seen.add(*half)
    told = second.findings()
    assert len(told) == 1 and told == first.findings()
    third = Collapse(CONFIG, ["a", "b"], 2)
    third.restore(second.state())
    third.add(*half)
    assert third.findings() == []  # that was told before
    with pytest.raises(ValueError, match="collapse's p is"):
        Collapse(CONFIG, ["a"], 2).restore(first.state())


@pytest.fixture
def unlearnable(tmp_path):
    """Class a is in the features of some snippets, class b in none: its labels are drawn. Every video has c."""
    rng = np.random.default_rng(0)
    features, database = {}, {}
    for i in range(40):
        x = 0.3 * rng.standard_normal((24, 6)).astype(np.float32)
        if i % 2:
            x[4:12, 0] += 3
        features[f"v{i}"] = x
        labels = [name for name, has in (("a", i % 2), ("b", rng.random() < 0.5), ("c", True)) if has]
        database[f"v{i}"] = {"subset": "train", "video_labels": labels}
    np.savez(tmp_path / "f.npz", **features)
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    return tmp_path / "f.npz", tmp_path / "a.json"


def train(files, out, resume=False, **changed):
    """What was told, and log.jsonl's lines of it."""
    settings = {
        "train.subsets": ["train"], "train.iterations": 240, "train.log_every": 20, "train.batch_size": 16,
        "train.learning_rate": 1e-2, "loss.denoising": "none", "localize.reweight": False, **changed,
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            api.train(*files, out, make_config(overrides=settings), resume=resume, progress=False)
        except KeyboardInterrupt as stop:
            assert "go on with --resume" in str(stop)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [str(w.message) for w in caught if w.category is TrainingWarning], [r for r in rows if "collapsed" in r]


def test_training_tells_it_once_and_logs_it_though_it_was_stopped(unlearnable, tmp_path, monkeypatch):
    told, logged = train(unlearnable, tmp_path / "run")
    # Every video has c: there is nothing to tell it from, and nothing to say.
    assert [re.sub(r"\d+", "N", text)[:38] for text in told] == ["iteration N: class 'b' has collapsed: "]
    assert len(logged) == 1 and logged[0]["iteration"] > 180 and told[0].endswith(logged[0]["collapsed"][0])
    found, again, steps = [], [], iter(range(1, 1000))
    for stop_at in (190, 230, None):  # before it is told, and after
        with monkeypatch.context() as inner:
            inner.setattr(Together, "stopped", lambda self, at=stop_at: next(steps) == at)
            more, again = train(unlearnable, tmp_path / "stopped", resume=stop_at != 190)
        found += more
    assert found == told and again == logged
