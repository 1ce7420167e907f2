"""Runs that learn nothing end in an error that says what to try; odd data are counted and named once, at the start."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from d2net import api
from d2net.config import make_config
from d2net.data.annotations import AnnotationWarning, load_annotations
from d2net.training import loop, windows
from d2net.training.checkpoint import read_checkpoint
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.survey import annotation_facts

SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 8, "train.batch_size": 4, "train.log_every": 4,
    "train.checkpoint_every": 4, "train.learning_rate": 0.01, "model.streams": 1, "loss.denoising": "none",
}  # fmt: skip


def write(folder, lengths=(12, 9, 15, 20), scale=1.0, entries=None):
    rng = np.random.default_rng(0)
    np.savez(
        folder / "f.npz",
        **{f"v{i}": (scale * rng.standard_normal((s, 8))).astype(np.float32) for i, s in enumerate(lengths)},
    )
    database = {f"v{i}": {"subset": "train", "video_labels": ["ab"[i % 2]]} for i in range(len(lengths))}
    for name, fields in (entries or {}).items():
        database[name] |= fields
    (folder / "a.json").write_text(json.dumps({"classes": ["a", "b"], "database": database}))
    return folder / "f.npz", folder / "a.json"


def train(folder, data, resume=False, **settings):
    config = make_config(overrides={**SETTINGS, **settings})
    return api.train(*data, folder / "run", config, device="cpu", progress=False, resume=resume)


@pytest.mark.parametrize(
    ("data", "settings", "says"),
    [
        ({"lengths": (2, 3, 4)}, {}, r"none has a label and loss.min_snippets = 5 snippets \(the longest has 4\)"),
        ({}, {"train.max_snippets": 1}, r"train.max_snippets is 1 and loss.min_snippets 5"),
        ({"lengths": (12, 4), "entries": {"v0": {"video_labels": []}}}, {}, r"of 2 videos none has a label and"),
        ({"scale": 1e20}, {}, r"activations are saturated.*scale the features.*\(the largest here is \d.*e\+20\)"),
        (
            {},
            {"train.learning_rate": 1e10, "train.log_every": 50, "train.checkpoint_every": 50},
            r"iteration 8.* lower train.learning_rate \(1e\+10",
        ),
        ({}, {"train.learning_rate": 1e4}, r"iteration 4.* lower train.learning_rate \(10000"),
        ({}, {"train.weight_decay": 1e300, "train.log_every": 50}, r"not finite at iteration 4.*weight_decay \(1e\+30"),
        ({}, {"train.weight_decay": 1e30}, r"not finite at iteration 4: .*nothing was saved"),
        ({}, {"model.init_std": 1e3}, r"activations are saturated.*lower model.init_std \(1000\)"),
        ({"scale": 1e37}, {}, r"activations are saturated"),
        ({"scale": 0.0}, {}, r"features of all 4 videos read are of at most 0; scale them to about unit size"),
        ({"scale": 1e-30}, {}, r"features of all 4 videos read are of at most \d\S*e-30; scale them"),
        ({}, {"train.learning_rate": 1e-30}, r"nothing was learned: weights changed by 0 .* 4 steps: raise train.l"),
        ({}, {"train.learning_rate": 1e-15, "train.weight_decay": 0}, r"raise train.learning_rate \(1e-15\); nothing"),
        ({}, {"train.gradient_clip": 1e-40}, r"gradient was 1e-40 in the mean .*: raise train.gradient_clip \(1e-40\)"),
        ({}, {"train.gradient_clip": 1e-9}, r"gradient was 1e-09 in the mean .*: raise train.gradient_clip"),
        ({}, {"loss.beta": 1000}, r"was 0 in each .*: lower loss.beta \(1000\), a power of 1 - p, or else see"),
        (
            {},
            {"model.init_std": 0.5, "loss.clamp": 0.49999, "loss.classification": "CE"},
            r"the gradient was 0 in each of the first 4 steps.*features are near unit size",
        ),
    ],
)
def test_nothing_was_trained(tmp_path, data, settings, says):
    files = write(tmp_path, **data)
    with pytest.raises(TrainingError, match=says), warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        train(tmp_path, files, **settings)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("where", ["weight", "reference", "moment"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_overwrites_a_good_checkpoint(tmp_path, monkeypatch, where, value):
    files = write(tmp_path)
    train(tmp_path, files)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    step = loop.train_step

    def poisoned(state, *args):
        step(state, *args)
        if state.iteration == 10:
            moment = next(iter(state.optimizer.state.values()))["exp_avg_sq"]
            tensors = {"weight": state.network.conv1.weight, "reference": state.network.reference, "moment": moment}
            tensors[where].data.view(-1)[3] = value

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(TrainingError, match=r"not finite at iteration 12.*the checkpoint of iteration 8 is whole"):
        train(tmp_path, files, resume=True, **{"train.iterations": 16})
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    monkeypatch.undo()
    train(tmp_path, files, resume=True, **{"train.iterations": 16})
    assert read_checkpoint(tmp_path / "run")["iteration"] == 16


def test_steps_that_are_not_finite_end_the_run(tmp_path, monkeypatch):
    files = write(tmp_path)
    step = loop.train_step

    def spoilt(state, batch, config, ranks):
        if state.iteration > 0:
            batch.features[2] = float("nan")
        step(state, batch, config, ranks)

    monkeypatch.setattr(loop, "train_step", spoilt)
    with pytest.raises(TrainingError, match=r"7 of the last 8 steps were skipped .* not finite.*gradient_clip"):
        train(tmp_path, files, **{"train.log_every": 8, "train.checkpoint_every": 8})
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_skipped_steps_are_shown_logged_and_warned_of_once(tmp_path):
    files = write(tmp_path, lengths=(12, 3, 15, 3))
    with pytest.warns(TrainingWarning) as caught:
        train(tmp_path, files, **{"train.batch_size": 1, "train.iterations": 40, "train.log_every": 20})
    texts = [str(w.message) for w in caught]
    assert sum("of the last 20 steps were skipped" in text for text in texts) == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(4 < row["skipped_steps"] < 18 for row in rows)
    assert f"{rows[0]['skipped_steps']:.0f} steps skipped" in windows.shown(rows[0], "d2net")
    assert "skipped" not in windows.shown(rows[0] | {"skipped_steps": 0.0}, "d2net")


def test_odd_data_are_counted_and_named_once(tmp_path):
    files = write(
        tmp_path,
        lengths=(12, 3, 15, 12, 12, 4),
        entries={
            "v1": {"video_labels": []}, "v2": {"annotations": [{"label": "a", "segment": [0, 1]}] * 3},
            "v3": {"video_labels": ["a"]}, "v5": {"video_labels": ["a"]},
        },
    )  # fmt: skip
    with pytest.warns(TrainingWarning) as caught:
        train(tmp_path, files)
    texts = [str(w.message).partition("a.json: ")[2] for w in caught]
    assert texts == [
        "2 segments are given twice, in 1 videos: 'v2'",
        "1 of 6 training videos have no label and enter no loss: 'v1'",
        "1 of 2 classes have no training video: 'b'",
        "1 of 6 training videos are shorter than loss.min_snippets = 5 and enter no loss: 'v5'",
    ]


def test_names_in_two_spellings(tmp_path):
    labels = ["High Jump", "high_jump", "HighJump", "Dive", "\u6f5c", "\u8df3"]
    database = {
        f"v{i}": {"subset": s, "video_labels": [c]} for i, (c, s) in enumerate(zip(labels, "aAabbb", strict=True))
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    assert annotation_facts(load_annotations(tmp_path / "a.json")) == [
        "1 classes are spelt in several ways, each trained as its own: 'High Jump', 'HighJump', 'high_jump'",
        "subset names differ in case and are taken as one: 'a' (2 videos) and 'A' (1 videos)",
    ]


def test_features_that_never_change_are_named(tmp_path):
    files = write(tmp_path)
    with np.load(files[0]) as held:
        np.savez(files[0], **{v: np.repeat(held[v][:1], len(held[v]), 0) for v in held.files})
    with pytest.warns(TrainingWarning, match=r"of 4 of 4 videos read are the same in every row.*'v0', 'v1'"):
        train(tmp_path, files)


def test_clean_data_say_nothing(tmp_path):
    files = write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, files)


def test_mixed_dialects_are_counted_and_named(tmp_path):
    database = {f"v{i}": {"subset": "train", "duration_second": 9, "video_labels": ["a"]} for i in range(5)}
    database["v3"] = {"subset": "train", "duration": 9, "video_labels": ["a"]}
    database["v4"] |= {"video_labels": [], "annotations": [{"label": 7, "segment": [0, 1]}]}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    with pytest.warns(AnnotationWarning) as caught:
        found = load_annotations(tmp_path / "a.json")
    assert [str(w.message).partition("mixed: ")[2] for w in caught] == [
        "4 videos give lengths as duration_second, 1 as duration: 'v3'; both are read",
        "4 videos give labels as names, 1 as numbers: 'v4'; both are read",
    ]
    assert found.videos["v3"].duration == 9 and found.classes == ("7", "a")
    for entry in database.values():
        entry |= {"duration": 9, "duration_second": 9, "video_labels": ["a"], "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "settings", "says"),
    [
        ({"scale": 1e-5}, {}, r"features of 4 of 4 videos read are of at most \S+e-05, and little is .*: 'v0', 'v1'"),
        ({}, {"train.learning_rate": 2e-8}, r"weights changed by \S+ of their size in the first 4 steps: raise"),
        ({}, {"train.gradient_clip": 3e-8}, r"is lost beside weight decay's, \S+: raise train.gradient_clip \(3e-08\)"),
        ({}, {"train.weight_decay": 1e6}, r"is lost beside weight decay's, \S+: lower train.weight_decay \(1e\+06\)"),
    ],
)
def test_little_is_learned_and_said(tmp_path, data, settings, says):
    with pytest.warns(TrainingWarning, match=says):
        train(tmp_path, write(tmp_path, **data), **settings)
    assert read_checkpoint(tmp_path / "run")["iteration"] == 8


def test_a_video_of_small_features_among_others_is_named(tmp_path):
    files = write(tmp_path)
    with np.load(files[0]) as held:
        np.savez(files[0], **{v: held[v] * np.float32(1e-20 if v == "v2" else 1) for v in held.files})
    with pytest.warns(TrainingWarning, match=r"features of 1 of 4 videos read are of at most \S+e-20, .*: 'v2'; scale"):
        train(tmp_path, files)
