"""Every method through the trainer: learning, checkpoints, exact resumption, localization, export and refusals."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import d2net
from d2net import api
from d2net.api import single
from d2net.config import ConfigError, load_config, make_config
from d2net.data.annotations import load_annotations
from d2net.data.annotations.saving import save_annotations
from d2net.data.batch import pack
from d2net.data.dataset import TrainingBatches
from d2net.data.features import open_features
from d2net.data.features.arrays import ArrayFeatures
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.distributed.ranks import Ranks
from d2net.evaluation import evaluate
from d2net.methods import METHODS
from d2net.methods.base import Step, method_named
from d2net.methods.ensemble import Ensemble
from d2net.training.checkpoint import CheckpointError
from d2net.training.resume import check_same_run
from d2net.training.state import log_terms, new_state
from d2net.training.step import train_step

OTHERS = [name for name in METHODS if name != "d2net"]
SETTINGS = {
    "train.iterations": 4, "train.batch_size": 8, "train.log_every": 2, "train.subsets": ["train"],
    "model.streams": 2, "train.learning_rate": 1e-3, "timing.snippet_seconds": 0.64,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), make_synthetic(24, 3, 32, seed=1))


def train(files, out, method, config=None, **given):
    settings = config or make_config(method=method, overrides=SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return api.train(*files, out, settings, device="cpu", progress=False, **given)


def test_every_method_names_its_folder_and_terms():
    for name in METHODS:
        method = method_named(name)
        assert len(method.terms) <= 3 and len(log_terms(make_config(method=name))) == 7
    with pytest.raises(ValueError, match="unknown method 'nope'; there are d2net, wtalc, 3cnet, basnet"):
        method_named("nope")


@pytest.mark.parametrize("method", OTHERS)
def test_training_on_made_up_data_beats_the_untrained_network(tmp_path, method):
    data = write_synthetic(tmp_path / "data", make_synthetic(40, 3, 32, seed=2))
    settings = {
        **SETTINGS, "train.iterations": 150, "train.learning_rate": 3e-3, "train.log_every": 50,
        "localize.upsample": 1, "localize.subsets": ["test"], "timing.fps": 25, "timing.stride": 16,
        "timing.snippet_frames": 16, "timing.snippet_seconds": None,
    }  # fmt: skip
    config = make_config(method=method, overrides=settings)
    model = train(data, tmp_path / "run", method, config)
    truth = load_annotations(data[1]).subset("test")
    fresh = method_named(method).network(32, 3, 2, config).eval()
    scores = []
    for network in (model.network, fresh):
        found = api.localize(
            api.Model(network, config, model.classes, model.timing), data[0], annotations=truth, names=[*truth.videos]
        )
        scores.append(evaluate(found.detections, truth, iou=[0.3, 0.5]).average_mAP)
    assert scores[0] > scores[1] + 0.2, scores
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert set(method_named(method).terms) < set(log[0]) and log[-1]["total"] < log[0]["total"]
    assert "ds" not in log[0] and "skipped_video_terms" not in log[0]


@pytest.mark.parametrize("method", OTHERS)
def test_a_resumed_run_is_the_whole_run_bit_for_bit(files, tmp_path, method):
    whole = train(files, tmp_path / "whole", method).network.state_dict()
    short = make_config(method=method, overrides={**SETTINGS, "train.iterations": 2})
    train(files, tmp_path / "parts", method, short)
    parts = train(files, tmp_path / "parts", method, resume=True).network.state_dict()
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    last = [{k: v for k, v in json.loads(log[-1]).items() if k != "snippets_per_second"} for log in logs]
    assert last[0] == last[1]


@pytest.mark.parametrize("method", OTHERS)
def test_checkpoints_carry_the_method_and_its_fields(files, tmp_path, method):
    trained = train(files, tmp_path / "run", method)
    model = d2net.load(tmp_path / "run", device="cpu")
    assert (model.config.method, type(model.network)) == (method, type(trained.network))
    assert load_config(tmp_path / "run" / "config.yaml") == model.config
    others = {METHODS[name] for name in OTHERS if name != method}
    assert not others & model.config.model_dump().keys()
    x = open_features(files[0])[next(iter(open_features(files[0])))]
    a, b = trained.activations(x), model.activations(x)
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert ((a.classes > 0) & (a.classes < 1)).all() and a.classes.shape == (len(x), 3)
    assert ((a.foreground > 0) & (a.foreground <= 1)).all() and (method == "basnet") == bool((a.foreground < 1).any())
    with pytest.raises(CheckpointError, match=f"method is 'd2net' but the checkpoint was trained with '{method}'"):
        train(files, tmp_path / "run", "d2net", resume=True)
    section = METHODS[method]
    field = {"wtalc": "margin", "threecnet": "center_rate", "basnet": "norm_weight"}[section]
    other = make_config(method=method, overrides={**SETTINGS, f"{section}.{field}": 0.25, "train.iterations": 6})
    with pytest.raises(CheckpointError, match=f"{section}.{field} is 0.25"):
        train(files, tmp_path / "run", method, other, resume=True)


@pytest.mark.parametrize("method", OTHERS)
def test_restarts_average(files, tmp_path, method):
    train(files, tmp_path / "run", method, restarts=2, average=True)
    model = d2net.load(tmp_path / "run", device="cpu")
    assert isinstance(model.network, Ensemble) and len(model.network.members) == 2
    found = d2net.localize(model, files[0])
    assert len(found.p) == len(open_features(files[0]).names)


@pytest.mark.parametrize("method", OTHERS)
def test_export(files, tmp_path, method):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = train(files, tmp_path / "run", method)
    session = onnxruntime.InferenceSession(str(d2net.export_onnx(model, tmp_path / "m.onnx")))
    for name in open_features(files[0]).names[:2]:
        x = np.asarray(open_features(files[0])[name], np.float32)
        found, ours = session.run(None, {"features": x}), model.activations(x)
        np.testing.assert_allclose(found[0], ours.classes, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], ours.foreground, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", OTHERS)
def test_batches_without_a_usable_video_leave_the_weights_alone(method):
    config = make_config(method=method, overrides=SETTINGS)
    state = new_state(config, 8, 2, 3, torch.device("cpu"))
    before = {k: v.clone() for k, v in state.network.state_dict().items()}
    arrays = [np.ones((s, 8), np.float32) for s in (1, 9)]  # too short; without a label
    batch = pack(arrays, np.array([[True, False, False], [False] * 3]), config.model.gap)
    train_step(state, batch, config)
    if method == "basnet":
        assert state.sums[0] == 0
    assert all(torch.equal(before[k], v) for k, v in state.network.state_dict().items())
    assert state.sums[log_terms(config).index("skipped_steps")] == 1


def batches(pairs, sampling="uniform", labels=None):
    config = make_config(overrides={"train.batch_size": 8, "train.sampling": sampling, "train.seed": 3}).train
    if labels is None:
        labels = np.eye(4, dtype=np.uint8)[[0, 0, 1, 1, 1, 2, 3, 3, 2, 0]]

    store = ArrayFeatures({f"{i:02}": np.ones((3, 2), np.float32) for i in range(len(labels))})
    return TrainingBatches(store, store.names, labels, config, pairs=pairs)


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_pairs_share_a_class_and_follow_from_seed_and_iteration_alone(sampling):
    made, again = batches(3, sampling), batches(3, sampling)
    for i in (0, 5, 1, 40):
        videos = made.videos(i)
        assert len(videos) == 8 and np.array_equal(videos, again.videos(i))
        for a, b in videos[:6].reshape(3, 2):
            assert a != b and (made.labels[a] & made.labels[b]).any()
    assert not np.array_equal(made.videos(0), made.videos(1))
    if sampling == "epoch":
        rest = np.concatenate([made.videos(i)[6:] for i in range(5)])
        assert sorted(rest) == list(range(10))


def test_where_no_class_has_two_videos_there_are_no_pairs():
    alone = batches(3, labels=np.eye(4, dtype=np.uint8))
    assert np.array_equal(alone.videos(2), batches(0, labels=np.eye(4, dtype=np.uint8)).videos(2))


def test_several_processes_are_refused(files, tmp_path):
    given = dict(
        names=None,
        device="cpu",
        resume=False,
        overwrite=False,
        progress=False,
        skip_missing=False,
        trackers=(),
        cache=None,
    )
    stores = open_features(files[0]), load_annotations(files[1])
    config = make_config(method="wtalc", overrides=SETTINGS)
    with pytest.raises(ValueError, match="method wtalc trains in one process, not 2; start it without torchrun"):
        single._train(*stores, tmp_path, config, Ranks(0, 2), **given)


def test_fields_of_other_methods_are_refused():
    for given, says in (
        ({"wtalc.margin": 1.0}, "wtalc.margin plays no part in method d2net"),
        ({"method": "basnet", "loss.gamma": 0.5}, "loss.gamma plays no part in method basnet"),
        ({"method": "wtalc", "recipe": "paper"}, "recipe paper is of method d2net; leave it out for wtalc"),
        ({"method": "wtalc", "train.batch_size": 5}, "wtalc.pairs is 3, more than a batch of 5 videos holds"),
        ({"method": "w-talc"}, "unknown method 'w-talc'; there are d2net, wtalc, 3cnet, basnet"),
    ):
        with pytest.raises(ConfigError, match=says):
            make_config(overrides=given)


def with_counts(files, folder, counts):
    tree = json.loads(files[1].read_text())
    for i, video in enumerate(tree["database"].values()):
        if not counts:
            video["video_labels"] = sorted({a["label"] for a in video.pop("annotations")})
        elif i % 2:
            own = [a["label"] for a in video["annotations"]]
            video["counts"] = {c: own.count(c) for c in own}
    (folder / "a.json").write_text(json.dumps(tree))
    return files[0], folder / "a.json"


def count_terms(folder):
    return [json.loads(line).get("count") for line in (folder / "log.jsonl").read_text().splitlines()]


def test_counts_come_from_the_field_or_from_segments_which_is_said(files, tmp_path, capsys):
    given = with_counts(files, tmp_path, True)
    train(given, tmp_path / "field", "3cnet")
    assert all(count_terms(tmp_path / "field")) and "weak supervision" not in capsys.readouterr().out
    whole = make_config(method="3cnet", overrides={**SETTINGS, "threecnet.counts": "segments"})
    train(files, tmp_path / "segments", "3cnet", whole)
    assert all(count_terms(tmp_path / "segments"))
    assert "counts are of the training videos' segments: this is no longer weak supervision" in capsys.readouterr().out
    with pytest.warns(match="no training video has the field `counts`"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*timing.*")
        config = make_config(method="3cnet", overrides=SETTINGS)
        api.train(*files, tmp_path / "none", config, device="cpu", progress=False)
    assert not any(count_terms(tmp_path / "none"))
    weak = with_counts(files, tmp_path, False)
    with pytest.raises(ValueError, match=r"threecnet\.counts: segments are to be counted, and .* has none"):
        train(weak, tmp_path / "weak", "3cnet", whole)
    config = make_config(method="3cnet", overrides=SETTINGS)
    with pytest.raises(CheckpointError, match="or counts"):
        train(files, tmp_path / "field", "3cnet", config, resume=True)


def test_counts_survive_a_file_and_wrong_ones_are_refused(files, tmp_path):
    annotations = load_annotations(with_counts(files, tmp_path, True)[1])
    assert save_annotations(tmp_path / "again.json", annotations) == []
    assert load_annotations(tmp_path / "again.json").videos == annotations.videos
    lost = save_annotations(tmp_path / "table.csv", annotations)
    assert any("how often labels occur (counts)" in text for text in lost)
    matrix = annotations.count_matrix(list(annotations.videos)[:2], "field")
    assert np.isnan(matrix[0][matrix[0] != 0]).all() and np.isfinite(matrix[1]).all() and matrix[1].sum() > 0
    for value in ([1], {"x": 1}, {"a": -1}, {"a": 1.5}, {"a": True}):
        entry = {"subset": "train", "video_labels": ["a"], "counts": value}
        (tmp_path / "bad.json").write_text(json.dumps({"database": {"v": entry}}))
        with pytest.raises(DataError, match="counts"):
            load_annotations(tmp_path / "bad.json")


def test_a_cropped_video_is_not_counted():
    labels = np.ones((2, 1), np.uint8)
    store = ArrayFeatures({"long": np.ones((9, 2), np.float32), "short": np.ones((4, 2), np.float32)})
    config = make_config(overrides={"train.batch_size": 8, "train.max_snippets": 5}).train
    made = TrainingBatches(store, ["long", "short"], labels, config, counts=np.array([[3.0], [2.0]], np.float32))
    batch = made[0]
    assert batch.counts is not None and set(batch.lengths.tolist()) == {4, 5}
    assert batch.counts[batch.lengths == 5].isnan().all() and (batch.counts[batch.lengths == 4] == 2).all()


def test_checks_of_a_resumed_run_name_the_method():
    old, new = make_config(), make_config(method="wtalc")
    with pytest.raises(CheckpointError, match="method is 'wtalc' but"):
        check_same_run({"width": 4, "config": old.model_dump()}, new, {"width": 4})


def test_objectives_do_not_depend_on_the_batch_order():
    """Losses of a permuted batch are the same, to rounding."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((s, 8)).astype(np.float32) for s in (9, 14, 6, 11)]
    labels = np.array([[1, 1], [1, 0], [0, 1], [1, 0]], bool)
    for name in OTHERS:
        config = make_config(method=name, overrides={**SETTINGS, "model.dropout": 0.0})
        torch.manual_seed(0)
        method = method_named(name)
        network = method.network(8, 2, 2, config)
        found = []
        for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
            batch = pack([arrays[i] for i in order], labels[order], config.model.gap)
            step = Step(2, torch.tensor(2), torch.Generator())
            found.append(method.objective(network, batch, config, step).total)
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
