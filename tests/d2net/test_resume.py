"""A resumed run goes on with the same data, classes and timing, or says what differs."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import warnings

import numpy as np
import pytest
import torch

from d2net import api
from d2net.config import load_config, make_config
from d2net.data.annotations import load_annotations
from d2net.data.dataset import TrainingBatches, split_holdout
from d2net.data.detections import load_detections, save_detections
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.training.checkpoint import CheckpointError, read_checkpoint
from d2net.training.errors import TrainingWarning
from d2net.training.loop import Run

SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 4, "train.batch_size": 3, "train.log_every": 2, "model.streams": 1,
    "loss.denoising": "none", "timing.snippet_seconds": 0.5,
}  # fmt: skip


class Data:
    """Features and annotations that a test changes before it resumes."""

    def __init__(self, folder, videos=6):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.features = {f"v{i}": rng.standard_normal((9 + i, 8)).astype(np.float32) for i in range(videos)}
        database = {f"v{i}": {"subset": "train", "video_labels": ["ab"[i % 2]], "user": i // 2} for i in range(videos)}
        self.tree = {"classes": ["a", "b"], "database": database}

    def train(self, resume=False, **overrides):
        np.savez(self.folder / "f.npz", **self.features)
        (self.folder / "a.json").write_text(json.dumps(self.tree))
        config = make_config(overrides={**SETTINGS, **overrides})
        files, out = (self.folder / "f.npz", self.folder / "a.json"), self.folder / "run"
        return api.train(*files, out, config, device="cpu", progress=False, resume=resume)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = Data(tmp_path_factory.mktemp("trained"))
    made.train()
    return made


def copied(made, folder):
    data = copy.deepcopy(made)
    data.folder = folder
    shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    return data


@pytest.fixture
def data(trained, tmp_path):
    return copied(trained, tmp_path)


def other_values(d):
    d.features["v3"] = d.features["v3"] * np.float32(1.5)


def one_value(d):
    d.features["v3"][4, 2] += 1e-3


def cut(d):
    d.features["v3"] = d.features["v3"][:6]


def wider(d):
    d.features = {v: np.concatenate([x, x], 1) for v, x in d.features.items()}


def renamed_class(d):
    d.tree["classes"] = ["a", "c"]
    for i in (1, 3, 5):
        d.tree["database"][f"v{i}"]["video_labels"] = ["c"]


def more_classes(d):
    d.tree["classes"] = ["a", "b", "c"]


def order_of_classes(d):
    d.tree["classes"] = ["b", "a"]


def labels(d):
    d.tree["database"]["v1"]["video_labels"] = ["a"]


def another_video(d):
    d.features["v9"], d.tree["database"]["v9"] = d.features["v1"], d.tree["database"]["v1"]


def renamed_video(d):
    d.features["w2"], d.tree["database"] = d.features.pop("v2"), {
        v.replace("v2", "w2"): x for v, x in d.tree["database"].items()
    }  # fmt: skip


def nothing(d):
    pass


HOLDOUT = {
    "train.holdout": 0.4, "train.holdout_by": "user", "train.selection": "loc_mAP", "train.evaluate_every": 2,
    "localize.min_length": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def selecting(tmp_path_factory):
    """A run that selects by held-out videos, v0 and v1 among them, to be copied."""
    made = Data(tmp_path_factory.mktemp("selecting"))
    for name, entry in made.tree["database"].items():
        entry["annotations"] = [{"label": entry["video_labels"][0], "segment": [1, 2]}]
        entry["duration_second"] = len(made.features[name]) * 0.5
    made.train(**HOLDOUT)
    held = read_checkpoint(made.folder / "run")["held_out"]
    return made, held


def held_value(d, v):
    d.features[v][0, 0] += 1


def held_rows(d, v):
    d.features[v] = d.features[v][:8]


def held_label(d, v):
    d.tree["database"][v]["video_labels"] = ["a", "b"]


def held_segment(d, v):
    d.tree["database"][v]["annotations"][0]["segment"] = [1, 2.5]


def held_duration(d, v):
    d.tree["database"][v]["duration_second"] += 0.1


@pytest.mark.parametrize(
    ("change", "overrides", "says"),
    [
        (held_value, {}, r"features of 1 of 2 videos compared have other values"),
        (held_rows, {}, r"features of '(v\d)' have 8 rows, and had"),
        (held_label, {}, r"labels of the held-out videos differ"),
        (held_segment, {}, r"segments, durations or timings of the held-out videos differ"),
        (held_duration, {}, r"segments, durations or timings of the held-out videos differ"),
        (lambda d, v: None, {"localize.min_length": 2}, r"localize.min_length is 2 but .* with 1"),
        (lambda d, v: None, {"train.evaluate_every": 3}, r"train.evaluate_every is 3 but .* with 2"),
    ],
)
def test_held_out_data_that_differ_are_refused_by_name(selecting, tmp_path, change, overrides, says):
    made, held = selecting
    data = copied(made, tmp_path)
    change(data, held[0])
    with pytest.raises(CheckpointError, match=says):
        data.train(resume=True, **{**HOLDOUT, "train.iterations": 8, **overrides})


def test_held_out_data_that_are_the_same_go_on(selecting, tmp_path):
    made, _ = selecting
    data = copied(made, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.train(resume=True, **{**HOLDOUT, "train.iterations": 8, "localize.subsets": ["train"]})
    saved = read_checkpoint(tmp_path / "run")
    for name in ("held_out_features", "held_out_labels"):
        del saved[name]
    torch.save(saved, tmp_path / "run" / "checkpoint.pt")  # as earlier revisions wrote it
    with pytest.warns(TrainingWarning, match="tells nothing of the held-out videos' data"):
        data.train(resume=True, **{**HOLDOUT, "train.iterations": 9})


def test_the_same_timing_in_other_words_goes_on(data):
    frames = {"timing.snippet_seconds": None, "timing.fps": 25.0, "timing.stride": 12.5, "timing.snippet_frames": 12.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.train(resume=True, **{"train.iterations": 6, **frames})
    near = {**frames, "timing.fps": 25.0001}
    with pytest.raises(CheckpointError, match=r"is a snippet .* at 25\.0001 fps, but the checkpoint's is .* at 25 fps"):
        data.train(resume=True, **{"train.iterations": 8, **near})


@pytest.mark.parametrize(("first", "then"), [(2, 3), (3, 2), (4, 100), (100, 3)])
def test_what_is_logged_how_often_may_change(tmp_path, first, then):
    """Weights are the same bits, and the log's means are over the steps since its last line."""
    data = Data(tmp_path)
    data.train(**{"train.iterations": 12, "train.log_every": 1})
    whole = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    weights = read_checkpoint(tmp_path / "run")["model"]
    shutil.rmtree(tmp_path / "run")
    data.train(**{"train.iterations": 5, "train.log_every": first})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.train(resume=True, **{"train.iterations": 12, "train.log_every": then})
    assert all(torch.equal(weights[k], x) for k, x in read_checkpoint(tmp_path / "run")["model"].items())
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    at = [i for i in range(1, 6) if i % first == 0] + [i for i in range(6, 13) if i % then == 0]
    assert [row["iteration"] for row in rows] == at
    for row, before in zip(rows, [0, *at], strict=False):
        assert row["total"] == pytest.approx(np.mean([w["total"] for w in whole[before : row["iteration"]]]), rel=1e-5)


@pytest.mark.skipif(os.name == "nt", reason="names of files there are Unicode")
@pytest.mark.parametrize("layout", ["npy", "pt"])
def test_names_of_files_that_are_not_unicode(tmp_path, layout):
    """Trained on, held out, stored, resumed and localized under the bytes that they are."""
    folder = tmp_path / os.fsdecode(b"features-\xff")
    folder.mkdir()
    rng = np.random.default_rng(0)
    database = {}
    for i in range(4):
        name = os.fsdecode(b"v\xe9-%d" % i)
        x = rng.standard_normal((9 + i, 8)).astype(np.float32)
        if layout == "npy":
            np.save(folder / f"{name}.npy", x)
        else:
            with open(folder / f"{name}.pt", "wb") as file:
                torch.save(torch.from_numpy(x), file)
        database[name] = {"subset": "train", "video_labels": ["ab"[i % 2]]}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    out = tmp_path / os.fsdecode(b"run-\xff")
    settings = {**SETTINGS, "train.holdout": 0.3, "localize.min_score": None}
    for iterations in (4, 6):
        config = make_config(overrides={**settings, "train.iterations": iterations})
        model = api.train(
            folder, tmp_path / "a.json", out, config, device="cpu", progress=False, resume=iterations == 6
        )
    held = read_checkpoint(out)["held_out"]
    assert len(held) == 1 and held == json.loads((out / "holdout.json").read_text())["held_out"]
    found = api.localize(model, folder)
    assert found.detections.videos == sorted(database)
    save_detections(out / "d.json", found.detections)
    assert load_detections(out / "d.json").videos == sorted(database)
    with pytest.raises(DataError, match=r"'v\\udce9-0' is not Unicode"):
        api.localize(model, folder, keep_activations=True)


@pytest.mark.parametrize(
    ("change", "overrides", "says"),
    [
        (other_values, {}, r"features of 1 of 6 videos compared have other values .*\('v3'\)"),
        (one_value, {}, r"other values .*\('v3'\)"),
        (cut, {}, r"features of 'v3' have 6 rows, and had 12"),
        (wider, {}, r"features have width 16, the checkpoint's had 8"),
        (renamed_class, {}, r"the classes are not the checkpoint's: 1 new \('c'\) and 1 gone \('b'\)"),
        (more_classes, {}, r"classes are not the checkpoint's: 1 new \('c'\)"),
        (order_of_classes, {}, r"classes are not the checkpoint's: their order differs"),
        (labels, {}, r"labels of the training videos differ"),
        (another_video, {}, r"training videos are not the checkpoint's: 1 new \('v9'\)"),
        (renamed_video, {}, r"1 new \('w2'\) and 1 gone \('v2'\)"),
        (nothing, {"timing.snippet_seconds": 0.25}, r"the timing is snippets of 0.25 s, but .* is snippets of 0.5 s"),
        (
            nothing,
            {"timing.snippet_seconds": None},
            r"the timing is unknown, but the checkpoint's is snippets of 0.5 s",
        ),
        (nothing, {"train.iterations": 3}, r"train.iterations is 3, but the checkpoint has done 4"),
        (nothing, {"train.holdout": 0.3}, r"train.holdout is 0.3"),
        (nothing, {"model.streams": 2}, r"model.streams is 2 but the checkpoint was trained with 1"),
    ],
)
def test_what_differs_is_refused_by_name(data, change, overrides, says):
    change(data)
    before = {p.name: p.read_bytes() for p in (data.folder / "run").iterdir()}
    with pytest.raises(CheckpointError, match=says) as error:
        data.train(resume=True, **{"train.iterations": 8, **overrides})
    assert "another version" not in str(error.value) and "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in (data.folder / "run").iterdir()} == before


def test_what_may_differ_goes_on_and_config_yaml_follows(data):
    data.features = {v: x.astype(np.float64) for v, x in data.features.items()}  # the same values
    data.tree["database"]["t"] = {"subset": "test", "video_labels": ["a"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.train(resume=True, **{"train.iterations": 8, "train.workers": 1, "localize.min_length": 3})
    config = load_config(data.folder / "run" / "config.yaml")
    assert (config.train.iterations, config.localize.min_length) == (8, 3)
    assert read_checkpoint(data.folder / "run")["config"] == config.model_dump()
    assert data.train(resume=True, **{"train.iterations": 8}) is not None  # done already


@pytest.mark.parametrize("big", [False, True])
def test_large_arrays_are_compared_by_some_rows(tmp_path, monkeypatch, big):
    monkeypatch.setattr("d2net.training.resume.WHOLE", 0 if big else 2**20)
    data = Data(tmp_path, videos=20)
    data.train(**{"train.cache_gigabytes": 0.0})
    compared = read_checkpoint(tmp_path / "run")["features"]["digests"]
    assert len(compared) == 16
    data.features["v0"] = data.features["v0"] + 1
    with pytest.raises(CheckpointError, match=r"1 of 16 videos compared .*'v0'"):
        data.train(resume=True, **{"train.cache_gigabytes": 0.0, "train.iterations": 8})


def test_what_decides_the_bits_is_said(data, monkeypatch):
    monkeypatch.setenv("D2K_FLOAT32", "winograd")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the user's choice: a narrow training does not take one thread
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(
            TrainingWarning, match=r"not bit for bit: D2K_FLOAT32 was unset and is winograd; threads was"
        ):
            data.train(resume=True, **{"train.iterations": 8})
    finally:
        torch.set_num_threads(threads)


def test_held_out_videos_are_the_same_for_every_seed_and_stored(tmp_path):
    data = Data(tmp_path)
    held = {}
    for seed in (0, 1, 2):
        data.folder = tmp_path / str(seed)
        data.folder.mkdir()
        data.train(**{"train.holdout": 0.4, "train.holdout_by": "user", "train.seed": seed})
        held[seed] = read_checkpoint(data.folder / "run")["held_out"]
        assert json.loads((data.folder / "run" / "holdout.json").read_text()) == {"held_out": held[seed]}
    assert held[0] == held[1] == held[2] and len(held[0]) == 2
    annotations = load_annotations(data.folder / "a.json")
    splits = set()
    for seed in range(8):
        config = make_config(overrides={"train.holdout": 0.4, "train.holdout_seed": seed}).train
        splits.add(tuple(split_holdout(annotations, list(annotations.videos), config)[1]))
    assert len(splits) > 1
    data.train(
        resume=True, **{"train.holdout": 0.4, "train.holdout_by": "user", "train.seed": 2, "train.iterations": 6}
    )
    with pytest.raises(CheckpointError, match=r"train.holdout_seed is 5 but"):
        data.train(resume=True, **{"train.holdout": 0.4, "train.holdout_by": "user", "train.seed": 2,
                                   "train.holdout_seed": 5, "train.iterations": 8})  # fmt: skip


@pytest.mark.parametrize("broken", [torch.zeros(2), torch.zeros(0), "turned"])
def test_moments_of_another_shape_are_refused(data, broken):
    path = data.folder / "run/checkpoint.pt"
    saved = read_checkpoint(path)
    moment = saved["optimizer"]["state"][0]["exp_avg"]
    saved["optimizer"]["state"][0]["exp_avg"] = moment.mT if isinstance(broken, str) else broken
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"does not fit.*exp_avg"):
        data.train(resume=True, **{"train.iterations": 6})


@pytest.mark.parametrize("iteration", [3.5, -1, True])
def test_an_iteration_that_no_run_reaches(data, iteration):
    path = data.folder / "run/checkpoint.pt"
    torch.save(read_checkpoint(path) | {"iteration": iteration}, path)
    with pytest.raises(CheckpointError, match="iteration"):
        data.train(resume=True, **{"train.iterations": 6})


def test_weights_that_are_not_finite_do_not_load(data):
    path = data.folder / "run/checkpoint.pt"
    saved = read_checkpoint(path)
    next(iter(saved["model"].values())).view(-1)[0] = float("inf")
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match="not finite"):
        api.load(path, "cpu")


def test_a_selection_that_never_comes_is_refused(data):
    with pytest.raises(ValueError, match=r"evaluate_every"):
        data.train(**{"train.selection": "cls_mAP", "train.holdout": 0.4, "train.evaluate_every": 500})


def places(tree, prefix=()):
    """Every entry of nested dicts and lists, as a path of keys; deep down the first two."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in list(inner)[: None if len(prefix) < 2 else 2]:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


OTHERS = [None, True, "ab", 3, -1.5, float("nan"), [], ["a", "a"], {}, {"a": 1}, b"x", torch.zeros(3), torch.zeros(0)]


@pytest.mark.filterwarnings("ignore::d2net.training.health.TrainingWarning")
def test_entries_of_another_kind_are_refused_in_one_line(data):
    """Whatever stands in a checkpoint's entry: it is used, or one line says what is wrong."""
    path = data.folder / "run/checkpoint.pt"
    whole = read_checkpoint(path)
    every = list(places(whole))
    assert len(every) > 60
    rng = random.Random(0)
    for at in every:
        for other in rng.sample(OTHERS, 1 if len(at) > 1 else 3):
            broken = copy.deepcopy(whole)
            holder = broken
            for key in at[:-1]:
                holder = holder[key]
            if isinstance(holder, tuple):
                continue
            holder[at[-1]] = other
            torch.save(broken, path)
            for use in (lambda: api.load(path, "cpu"), lambda: resumed(data)):
                try:
                    use()
                except CheckpointError as error:
                    assert "\n" not in str(error) and len(str(error)) < 1000, (at, other)


def resumed(data):
    """What `train --resume` does before the first step."""
    config = make_config(overrides=SETTINGS)
    store, annotations = open_features(data.folder / "f.npz"), load_annotations(data.folder / "a.json")
    names = list(annotations.videos)
    labels = annotations.label_matrix(names)
    batches = TrainingBatches(store, names, labels, config.train, config.model.gap)
    meta = {
        "classes": ["a", "b"], "width": 8, "streams": 1, "timing": config.timing.model_dump(), "timing_explicit": True,
    }  # fmt: skip
    run = Run(config, batches, data.folder / "run", meta, torch.device("cpu"), 1, progress=False)
    run.start(resume=True)
    run.lock.release()
