"""Decoders fitted to annotated videos: the same scores as localize and evaluate give, and gains that are not chance."""

from __future__ import annotations

import dataclasses
import json
import sys
import zlib

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net import api, cli
from d2net.api import tuning
from d2net.config import make_config
from d2net.data.annotations import load_annotations
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.evaluation import evaluate
from d2net.evaluation.matching import Spans
from d2net.evaluation.prepared import PROTOCOLS, rate_of
from d2net.evaluation.release import Rate
from d2net.localization import tune_search
from d2net.localization.tune_scoring import Metric, joined, ranked, repeated
from d2net.localization.tune_search import folds_of, search
from d2net.localization.tune_space import FIELDS, fields_for, neighbour, random_decoder
from d2net.sections import LocalizeConfig
from d2net.timing import Timing

SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 40, "train.learning_rate": 3e-3, "train.batch_size": 8,
    "train.holdout": 0.5, "timing.fps": 25, "timing.stride": 16, "timing.snippet_frames": 16, "loss.denoising": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(videos=48, classes=3, width=16))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    api.train(*files, out, make_config(overrides=SETTINGS), progress=False)
    return out


@pytest.fixture(scope="module")
def model(run):
    return api.load(run)


def spans(rows):
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    return Spans(*columns[:4], columns[4])


def test_random_decoders_are_valid():
    rng = np.random.default_rng(0)
    good = [random_decoder(LocalizeConfig(), fields_for(9), rng) for _ in range(200)]
    good += [neighbour(good, FIELDS, rng) for _ in range(200)]
    for config in good:
        assert LocalizeConfig.model_validate(config.model_dump()) == config
    assert max(c.smoothing for c in good[:200]) == 9
    for name in FIELDS:
        assert len({repr(getattr(c, name)) for c in good}) > 1


@pytest.mark.parametrize("protocol", ["activitynet", "thumos", "release"])
def test_tuning_scores_what_localize_and_evaluate_score(model, files, protocol, monkeypatch):
    seen = []
    monkeypatch.setattr(tuning, "search", lambda *given, **_: seen.append(given))
    monkeypatch.setattr(tuning, "Tuned", lambda *given: given)
    annotations = load_annotations(files[1])
    api.tune(model, files[0], annotations, protocol=protocol, settings=1)
    decode, truth, metric = seen[0][:3]
    rng = np.random.default_rng(1)
    names = list(model.held_out)
    for _ in range(12):
        config = random_decoder(model.config.localize, FIELDS, rng)
        found = api.localize(model, files[0], annotations=annotations, names=names, config=config).detections
        report = evaluate(found, annotations.only(names), protocol=protocol, timing=model.timing, proposals=None)
        assert metric(decode(config), truth) == pytest.approx(report.average_mAP, abs=1e-12)
        f1 = dataclasses.replace(metric, kind="F1")
        assert f1(decode(config), truth) == pytest.approx(np.mean([row.f1 for row in report.f1]), abs=1e-12)
        for c, name in enumerate(annotations.classes):
            alone = dataclasses.replace(metric, kind="class", of=c)
            assert alone(decode(config), truth) == pytest.approx(np.mean(report.ap.get(name, 0.0)), abs=1e-12)


def test_a_bad_decoder_is_mended_and_the_file_is_taken_everywhere(run, files, tmp_path, monkeypatch, capsys):
    def d2net(*arguments):
        monkeypatch.setattr(sys, "argv", ["d2net", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        return capsys.readouterr().out

    bad, tuned = tmp_path / "bad.yaml", tmp_path / "tuned.yaml"
    bad.write_text("localize: {smoothing: 25, iou_threshold: 0.9, keep_ratio: 0.0, min_score: null}\n")
    of = ("--features", files[0], "--annotations", files[1])
    out = d2net("tune", run, *of, "--config", bad, "--out", tuned, "--settings", "80", "--quiet")
    assert "80 decoders were tried on" in out and "whose segments were used: this is no longer weak supervision" in out
    assert "interval +" in out and "localize.smoothing: 25 ->" in out
    tree = yaml.safe_load(tuned.read_text())
    assert set(tree) == {"localize", "evaluate"} and tuned.read_text().startswith("# 80 decoders were tried on")
    loaded = api.load(run, config=tuned)
    assert loaded.config.localize.model_dump() == tree["localize"]
    assert loaded.config.train == api.load(run).config.train
    maps = []
    for config in (bad, tuned):
        found, scores = tmp_path / "d.json", tmp_path / "m.json"
        d2net("localize", "--checkpoint", run, *of, "--config", config, "--out", found, "--subset", "test", "--quiet")
        d2net("evaluate", "--predictions", found, "--ground-truth", files[1], "--subset", "test", "--config", tuned,
              "--out", scores)  # fmt: skip
        saved = json.loads(scores.read_text())
        assert saved["iou"] == pytest.approx(np.arange(1, 8) / 10)
        maps.append(saved["average_mAP"])
    assert maps[1] > maps[0]
    assert api.load(run, config=bad).config.localize.smoothing == 25
    assert api.load(run, config=bad).config.localize.margin == api.load(run).config.localize.margin


@pytest.mark.parametrize("stated", [None, 1.7])
def test_evaluate_takes_the_release_protocols_snippets_from_what_tune_wrote(run, files, tmp_path, stated, monkeypatch):
    model = dataclasses.replace(api.load(run), timing=Timing(fps=30, stride=40, snippet_frames=40))
    known = dataclasses.replace(load_annotations(files[1]), snippet_seconds=stated)
    found = api.tune(model, files[0], known, protocol="release", settings=1)
    found.save(tmp_path / "tuned.yaml")
    assert found.rate == (Rate(30, 40) if stated is None else Rate(1, 1.7))
    seen = []
    monkeypatch.setattr("d2net.evaluation.evaluate", lambda *_, **named: seen.append(named["timing"]) or sys.exit(9))
    empty = tmp_path / "found.json"
    empty.write_text('{"results": {}}')
    command = ["evaluate", "--predictions", empty, "--ground-truth", files[1], "--config", tmp_path / "tuned.yaml"]
    monkeypatch.setattr(sys, "argv", ["d2net", *map(str, command), "--quiet"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 9 and rate_of(seen[0]) == found.rate


def _noise(seed, n):
    """Detections that are right by chance: what a decoder finds depends on nothing but its fields."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 80, n * 3)
    truth = spans([(0, i // 3, a, a + rng.uniform(3, 15), 0) for i, a in enumerate(start)])

    def decode(config):
        own = np.random.default_rng([seed, zlib.crc32(repr(config).encode())])
        a = own.uniform(0, 80, n * 6)
        return spans([(0, i // 6, x, x + own.uniform(3, 15), own.random()) for i, x in enumerate(a)])

    return decode, Spans(truth.label, truth.video, truth.start, truth.end)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(tune_search, "DRAWS", 100)


def _tune_noise(seed, n):
    decode, truth = _noise(seed, n)
    metric = Metric("mAP", -1, [0.3, 0.5], PROTOCOLS["activitynet"], 1)
    return search(decode, truth, metric, LocalizeConfig(), FIELDS, np.arange(n), settings=40, seed=seed)


def test_chance_is_no_gain(quick):
    found = [_tune_noise(seed, 12) for seed in range(10)]
    # What is chosen always looks better on the videos that it was chosen on.
    assert min(o.fitted - o.present for o in found) > 0
    assert sum(o.accepted for o in found) <= 2
    assert abs(np.mean([o.gain for o in found])) < 0.5 * np.mean([o.fitted - o.present for o in found])
    assert all(o.low <= o.gain <= o.high for o in found)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_videos_are_no_proof(quick, n):
    found = [_tune_noise(seed, n) for seed in range(6)]
    assert sum(o.accepted for o in found) <= (n == 5)
    assert all(o.needed(0.02) > n for o in found)


def test_the_same_seed_finds_the_same(model, files):
    a, b = (api.tune(model, *files, settings=30).outcome for _ in range(2))
    assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)


def test_time_ends_a_search(model, files):
    outcome = api.tune(model, *files, settings=100_000, seconds=1.0).outcome
    assert outcome.tried < 5_000


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(2, 7), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_groups_stay_in_one_fold(groups, most, seed):
    groups = np.array(groups)
    fold = folds_of(groups, most, np.random.default_rng(seed))
    names = np.unique(groups)
    assert all(len(set(fold[groups == g])) == 1 for g in names)
    sizes = np.bincount([fold[groups == g][0] for g in names])
    assert len(sizes) == min(most, len(names)) and sizes.max() - sizes.min() <= 1


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=6))
@settings(max_examples=50, deadline=None)
def test_repeated_videos(of, wanted):
    own = spans([(0, v, i, i + 1, 0.1 * i) for i, v in enumerate(of)])
    found = repeated(own, np.array(wanted, np.int64))
    expected = [(place, i) for place, v in enumerate(wanted) for i, w in enumerate(of) if w == v]
    assert list(zip(found.video.tolist(), found.start.tolist(), strict=True)) == expected


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), max_size=30))
@settings(max_examples=50, deadline=None)
def test_ranks_keep_order_and_ties_and_are_of_one_class(rows):
    found = ranked(spans([(c, 0, i, i + 1, score / 4) for i, (c, score) in enumerate(rows)]))
    expected = [-sum(c == own and other > score for c, other in rows) for own, score in rows]
    assert found.score.tolist() == expected
    parts = [found[:3], found[3:3], found[3:]]
    assert joined(parts).start.tolist() == found.start.tolist()


def test_what_cannot_be_tuned_on_is_refused(model, files):
    annotations = load_annotations(files[1])
    trained = [v for v, x in annotations.videos.items() if x.subset == "train" and v not in model.held_out]
    few = list(model.held_out)
    bare = {v: dataclasses.replace(x, segments=()) for v, x in annotations.videos.items()}
    for says, changed in {
        "videos were trained on, or are of the subsets that were": {"names": [*few, trained[0]]},
        "has no segments of the": {"annotations": dataclasses.replace(annotations, videos=bare)},
        "at least two videos are needed": {"names": few[:1]},
        "metric must be mAP, F1 or class:NAME": {"metric": "class:nothing"},
        "protocol must be one of": {"protocol": "pascal"},
        "iou must be like": {"iou": "high"},
        "settings must be at least 1, got 0": {"settings": 0},
        "folds must be at least 2, got 1": {"folds": 1},
    }.items():
        with pytest.raises(ValueError, match=says):
            api.tune(model, files[0], **{"annotations": annotations, **changed})
    with pytest.raises(ValueError, match="the run held no videos out; name a subset"):
        api.tune(dataclasses.replace(model, held_out=()), files[0], annotations)


def test_videos_that_were_trained_on_are_found_under_any_name(model, files, tmp_path):
    tree = json.loads(files[1].read_text())
    seen = next(v for v, x in tree["database"].items() if x["subset"] == "train" and v not in model.held_out)
    tree["database"] = {f"{v}.mp4": x for v, x in tree["database"].items()}
    (tmp_path / "other.json").write_text(json.dumps(tree))
    other = load_annotations(tmp_path / "other.json")
    for name in (seen, f"{seen}.mp4"):
        with pytest.raises(ValueError, match="1 of 1 videos were trained on, or are of the subsets that were"):
            api.tune(model, files[0], other, names=[name])
    for video in tree["database"].values():
        video["subset"] = "test"
    (tmp_path / "renamed.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="1 of 1 videos were trained on"):
        api.tune(model, files[0], tmp_path / "renamed.json", names=[seen])
    assert api.tune(model, files[0], other, settings=1).outcome.videos == len(model.held_out)
    twice = [model.held_out[0], f"{model.held_out[0]}.mp4"]
    with pytest.raises(ValueError, match=r"lists .* twice; keep one"):
        api.tune(model, files[0], other, names=twice)


def test_a_field_to_group_by_is_in_every_video(model, files, tmp_path):
    with pytest.raises(ValueError, match=r"videos have no field 'usr' in .*group by another"):
        api.tune(model, *files, by="usr")
    grouped = dataclasses.replace(model, config=make_config(overrides=SETTINGS | {"train.holdout_by": "user"}))
    with pytest.warns(UserWarning, match="no video has the field 'user'.*each stands alone"):
        found = api.tune(grouped, *files, settings=1).outcome
    assert found.groups == found.videos == len(model.held_out)
    tree = json.loads(files[1].read_text())
    for i, v in enumerate(model.held_out):
        tree["database"][v]["user"] = 1 if i % 4 == 0 else str(i % 4)  # 1 and "1" are one user, as for train.holdout_by
    (tmp_path / "users.json").write_text(json.dumps(tree))
    assert api.tune(model, files[0], tmp_path / "users.json", by="user", settings=1).outcome.groups == 3
    with pytest.raises(ValueError, match="tune: seed must be at least 0, got -1"):
        api.tune(model, *files, seed=-1)
