"""Every reader, given damaged and hostile files: what it holds, or one DataError that names the file; never else."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from d2net.config import ConfigError, load_config, make_config
from d2net.data.activations import VideoActivations, load_activations, save_activations
from d2net.data.annotations import load_annotations
from d2net.data.detections import load_detections
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.data.video_info import load_video_info
from d2net.evaluation import load_ambiguous, load_fractions
from d2net.parity.checks import Golden
from d2net.timing import Timing

pytestmark = [
    pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning"),
    pytest.mark.filterwarnings("ignore::d2net.data.detections.DetectionWarning"),
]

VIDEO = {"subset": "train", "duration_second": 9.5, "fps": 30, "annotations": [{"label": "run", "segment": [1, 2.5]}]}
ANNOTATIONS = {
    "classes": ["jump", "run"], "streams": [[0, 2, "rgb"], [2, 4, "flow"]], "snippet_seconds": 0.5,
    "database": {"v": VIDEO, "w": {"subset": "test", "video_labels": ["jump"]}},
}  # fmt: skip
DETECTIONS = {"version": "1.3", "results": {"v": [{"label": "run", "score": 0.5, "segment": [1, 2]}], "w": []}}
INFO = {"v": {"fps": 30, "stride": 8, "snippet_frames": 16, "duration": 12}, "w": {"resized": 1, "duration": 3}}
FRACTIONS = {"rows": [["v", "run", 0.1, 0.5], ["w", "jump", 0.25, 1.0]]}


OPENTAD = {"version": "x", "database": {"v": {"subset": "training", "duration": 9.5, "fps": 30.0, "annotations": [
    {"label": "run", "segment": [1, 2.5], "segment(frames)": [30, 75], "label_id": 0},
    {"label": "jump", "segment": [3, 4.5], "segment(frames)": [90, 135], "label_id": 1}]}}}  # fmt: skip
DCASE = "filename\tonset\toffset\tevent_label\na.wav\t0.5\t2.25\tSpeech\nb.wav\t\t\t\n"
SED_EVAL = "a.wav\thome\t1.5\t2\trun\na.wav\thome\t3\t4\tjump\n"
TRACK = "1.500000\t2.250000\trun\n\\\t100.0\t2000.0\n3.0\t4.0\tjump high\n"
SCORED = "1.500000\t2.250000\trun [0.5]\n3.0\t4.0\tjump high [0.25]\n"


def write_splits(path):
    (path.parent / "gt.json").write_text(json.dumps({"database": {"v": VIDEO, "w": {"video_labels": ["run"]}}}))
    (path.parent / "split_train.txt").write_text("v\n")
    (path.parent / "split_test.txt").write_text("w\n")


def write_tracks(path):
    (path.parent / "v.txt").write_text(TRACK)
    path.write_text("video,subset,duration,label\nv,train,9.5,\nw,test,,fly\n")


def write_timing(path):
    np.save(path.parent / "v.npy", np.ones((3, 4), np.float32))
    path.write_text(json.dumps({"fps": 25, "stride": 16, "snippet_frames": 16.5}))


def arrays():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((s, 4)).astype(np.float16) for name, s in (("v", 5), ("w", 9))}


def read_features(path):
    store = open_features(path)
    for name in store:
        assert store[name].shape == (store.lengths[name], store.width)


def write_npz(path):
    np.savez(path, **arrays())


def write_compressed(path):
    np.savez_compressed(path, **arrays())


def write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, x in arrays().items():
            file.create_dataset(name, data=x, compression="gzip" if name == "w" else None)


def write_safetensors(path):
    pytest.importorskip("safetensors.numpy").save_file(arrays(), path, {"fps": "25"})


def write_c3d(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, x in arrays().items():
            file[f"{name}/c3d_features"] = x


def write_text(path):
    """As pandas writes it: a header of the columns' numbers."""
    np.savetxt(path, arrays()["w"], "%.9g", ",", header="0,1,2,3", comments="")


def write_npy(path):
    np.save(path, arrays()["w"])


def read_npy(path):
    """Of a folder that holds it alone."""
    read_features(path.parent)


def write_activations(path):
    save_activations(path, {k: VideoActivations(x, x[:, 0]) for k, x in arrays().items()})


def as_json(tree):
    return lambda path: path.write_text(json.dumps(tree))


def read_config(path):
    try:
        load_config(path)
    except ConfigError as error:
        raise DataError(str(error)) from error


def write_golden(path):
    np.savez(path, meta=np.array("{}"), tcam=np.ones((2, 3), np.float32))


PICKLED = {
    "video-id": ["v", "w"], "t-start": np.array([1.0, 2.0]), "t-end": np.array([3.0, 4.0]), "label": np.array([0, 1]),
    "score": np.array([0.5, 0.25], np.float32),
}  # fmt: skip


def objects(*items):
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def write_wtalc(path):
    np.save(path.parent / "videoname.npy", np.array([b"v", b"w"]))
    np.save(path, objects(*arrays().values()), allow_pickle=True)


def write_wtalc_annotations(path):
    np.save(path.parent / "videoname.npy", np.array([b"v", b"w"]))
    np.save(path.parent / "subset.npy", np.array([b"train", b"test"]))
    np.save(path.parent / "classlist.npy", np.array([b"jump", b"run"]))
    np.save(path.parent / "labels.npy", objects(["run"], ["jump", "run"]), allow_pickle=True)
    np.save(path, objects([[1.0, 2.0]], [[0.5, 1.5], [2.0, 3.0]]), allow_pickle=True)


READERS = {
    "npz": ("features.npz", write_npz, read_features),
    "compressed npz": ("features.npz", write_compressed, read_features),
    "hdf5": ("features.h5", write_hdf5, read_features),
    "hdf5 of groups": ("features.h5", write_c3d, read_features),
    "safetensors": ("features.safetensors", write_safetensors, read_features),
    "npy": ("only.npy", write_npy, read_npy),
    "text": ("only.csv", write_text, read_npy),
    "npz of one": ("only.npz", lambda path: np.savez(path, arrays()["w"]), read_npy),
    "tensor": ("only.pt", lambda path: torch.save(torch.from_numpy(arrays()["w"]), path), read_npy),
    "safetensors of one": (
        "only.safetensors", lambda path: pytest.importorskip("safetensors.numpy").save_file({"x": arrays()["w"]}, path),
        read_npy,
    ),
    "activations": ("a.npz", write_activations, lambda path: load_activations(path, 4)),
    "golden outputs": ("forward_x.npz", write_golden, Golden),
    "annotations": ("a.json", as_json(ANNOTATIONS), load_annotations),
    "detections": ("d.json", as_json(DETECTIONS), load_detections),
    "detections table": (
        "d.csv", lambda path: path.write_text("video;start;end;label;score\nv;1,5;2;run;0,5\n"), load_detections,
    ),
    "detections pickle": ("d.pkl", lambda path: path.write_bytes(pickle.dumps(PICKLED)), load_detections),
    "W-TALC": ("a-features.npy", write_wtalc, read_features),
    "W-TALC annotations": ("segments.npy", write_wtalc_annotations, lambda path: load_annotations(path.parent)),
    "sed_eval": ("d.txt", lambda path: path.write_text(SED_EVAL), load_annotations),
    "DCASE": ("d.tsv", lambda path: path.write_text(DCASE), load_annotations),
    "label tracks": ("v.txt", lambda path: path.write_text(TRACK), lambda path: load_annotations(path.parent)),
    "tracks of detections": ("v.txt", lambda path: path.write_text(SCORED), lambda path: load_detections(path.parent)),
    "what label tracks belong to": ("videos.csv", write_tracks, lambda path: load_annotations(path.parent)),
    "timing of features": ("timing.json", write_timing, read_npy),
    "BaS-Net": ("gt.json", write_splits, lambda path: load_annotations(path.parent)),
    "BaS-Net's split": ("split_train.txt", write_splits, lambda path: load_annotations(path.parent)),
    "OpenTAD": ("o.json", as_json(OPENTAD), load_annotations),
    "video info": ("i.json", as_json(INFO), load_video_info),
    "video info table": (
        "i.csv", lambda path: path.write_text("video,fps,stride,snippet_frames\nv,30,8,16\n"), load_video_info,
    ),
    "ambiguous": ("x.txt", lambda path: path.write_text("v 1.5 3.5\nw 2 7\n"), load_ambiguous),
    "fractions": ("f.json", as_json(FRACTIONS), lambda path: load_fractions(path, {"v": 10.0, "w": 20.0})),
    "yaml": ("c.yaml", lambda path: make_config("hapt").save(path), read_config),
    "toml": ("c.toml", lambda path: make_config("hapt").save(path), read_config),
}  # fmt: skip


def refused(read, path):
    """True for a DataError of one line that names the file or its folder; any other exception fails the test."""
    try:
        read(path)
    except DataError as error:
        text = str(error)
        assert str(path) in text or str(path.parent) in text, text
        assert len(text) < 1000, text[:2000]
        return True
    return False


@pytest.fixture(params=READERS)
def reader(request, tmp_path):
    """(path of a good file, read)"""
    name, write, read = READERS[request.param]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    write(path)
    assert not refused(read, path)
    return path, read


def damaged(whole, count, seed):
    """Truncations, flipped bits, overwritten, doubled and dropped stretches, at places that a seed decides."""
    rng = random.Random(seed)
    for _ in range(count):
        at, kind = rng.randrange(len(whole)), rng.randrange(6)
        raw = bytearray(whole)
        if kind == 0:
            del raw[at:]
        elif kind == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            raw[at : at + 4] = rng.randbytes(4)
        elif kind == 3:
            raw[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"9" * 400, b"-1e999", b"[" * 50, b"\x7f" * 8])
        elif kind == 4:
            raw[at:at] = raw[max(0, at - 40) : at]
        else:
            del raw[at : at + rng.randrange(1, 30)]
        yield bytes(raw)


def test_damage(reader):
    path, read = reader
    whole = path.read_bytes()
    count = 0
    for raw in damaged(whole, 250, path.name):
        path.write_bytes(raw)
        count += refused(read, path)
    assert count > 25


HOSTILE = {
    "empty": b"",
    "a byte": b"\0",
    "zeros": bytes(5000),
    "utf-16": '{"database": {}}'.encode("utf-16"),
    "latin-1": '{"database": {"é": {}}}'.encode("latin-1"),
    "deep lists": b"[" * 200_000,
    "deep json": b'{"a":' * 100_000,
    "deep toml": b"a = " + b"[" * 100_000 + b"]" * 100_000,
    "many digits": b'{"database": {"v": {"duration": ' + b"9" * 400 + b"}}}",
    "too many digits": b'{"database": {"v": {"duration": ' + b"9" * 5000 + b"}}}",
    "long field": b"video,fps\nv," + b"1" * 200_000 + b"\n",
    "quotes": b'video,fps\n"v,1\n',
    "nul": b"video,fps\nv,\0\n",
    "not a tree": b"3",
    "null": b"null",
    "yaml int": b"train: {seed: !!int ''}",
    "yaml time": b"train: {seed: !!timestamp 'x'}",
    "yaml python": b"train: !!python/object/apply:os.system ['true']",
    "yaml bomb": b"a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a]\ntrain: [*b, *b, *b]\n",
    "yaml twice": b"train:\n  seed: 1\n  seed: 2\n",
    "yaml keys": b"? [1, 2]\n: 3\n",
    "yaml merge": b"train: {<<: 3}",
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "zip of nothing": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_content(reader, kind):
    path, read = reader
    path.write_bytes(HOSTILE[kind])
    fine = {("x.txt", "empty"), ("c.yaml", "null"), ("c.toml", "empty"), ("only.csv", "not a tree"), ("v.txt", "empty")}
    assert refused(read, path) or (path.name, kind) in fine


def test_not_regular_files(reader, tmp_path):
    path, read = reader
    for special in ("pipe", "loop", "device", "folder"):
        path.unlink()
        if special == "pipe":
            os.mkfifo(path)
        elif special == "loop":
            path.symlink_to(path)
        elif special == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        assert refused(read, path), special
        if special == "folder":
            path.rmdir()
            path.write_bytes(b"")


def test_wrong_dialects(reader, tmp_path):
    path, read = reader
    whole = path.read_bytes()
    for name, write, _ in READERS.values():
        write(tmp_path / name)
        other = (tmp_path / name).read_bytes()
        if other != whole:
            path.write_bytes(other)
            refused(read, path)


UNSHRUNK = [Phase.explicit, Phase.generate]  # shrinking these trees takes minutes
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, -0.0, True]),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=4))
VALUES = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3))


def with_value(tree, data):
    """A copy of a tree with one node, drawn at random, replaced by another value."""
    tree = json.loads(json.dumps(tree))
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(VALUES)
        return tree


@pytest.mark.parametrize("name", ["annotations", "detections", "video info", "fractions"])
@settings(max_examples=75, phases=UNSHRUNK)
@given(data=st.data())
def test_any_value_anywhere(name, tmp_path_factory, data):
    trees = {"annotations": ANNOTATIONS, "detections": DETECTIONS, "video info": INFO, "fractions": FRACTIONS}
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(with_value(trees[name], data)))
    refused(READERS[name][2], path)


# Of a preset's sections as they are: reading the whole configuration as YAML takes a tenth of a second.
SECTIONS = {name: fields for name, fields in make_config("hapt").model_dump().items() if isinstance(fields, dict)}


@settings(max_examples=200, phases=UNSHRUNK)
@given(data=st.data())
def test_any_value_in_a_configuration(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    name = data.draw(st.sampled_from(list(SECTIONS)))
    fields = data.draw(st.lists(st.sampled_from(list(SECTIONS[name])), min_size=1, max_size=3, unique=True))
    tree = with_value({name: {field: SECTIONS[name][field] for field in fields}, "preset": "hapt"}, data)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="backslashreplace")
    try:
        load_config(path)
    except ConfigError as error:
        assert len(str(error)) < 1000


def test_a_zip_bomb_of_one_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "features.npz"
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (1000000000000, 2048), }"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v.npy", raw)
    assert refused(read_features, path)
    (tmp_path / "v.npy").write_bytes(raw)
    path.unlink()
    assert refused(read_npy, tmp_path / "v.npy")


def test_timing_of_any_numbers():
    for value in (10**400, float("inf"), -1, 0, "3", None, True):
        try:
            Timing(snippet_seconds=value)
        except ValueError as error:
            assert "snippet_seconds" in str(error)
