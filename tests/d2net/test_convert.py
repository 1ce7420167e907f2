"""Conversion: every pair of formats keeps features bit for bit and annotations and detections as they are."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net.data.annotations import Annotations, load_annotations
from d2net.data.annotations.model import Segment, Video
from d2net.data.annotations.saving import compare, save_annotations
from d2net.data.convert import convert
from d2net.data.detections import Detections, load_detections
from d2net.data.detections.saving import by_video, save_detections_as
from d2net.data.features import FeatureError, FeatureStore, open_features
from d2net.data.features.writing import write_features
from d2net.data.features.writing.journal import Journal
from d2net.data.files import DataError
from d2net.data.kinds import kind_of

FEATURES = ("f.npz", "f.h5", "f.safetensors", "folder")
LISTS = ("a.json", "a.csv", "a.tsv", "tracks")


@pytest.fixture(autouse=True)
def _packages():
    pytest.importorskip("h5py")
    pytest.importorskip("safetensors")


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def random_arrays(seed=0, videos=7, width=4, dtypes=(np.float16, np.float32)):
    """Random bits that are finite numbers: subnormals and negative zeros too."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(videos):
        kind = np.dtype(dtypes[i % len(dtypes)])
        raw = rng.integers(0, 256, (int(rng.integers(1, 9)), width * kind.itemsize), np.uint8).view(kind)
        found[f"v{i}.x"] = np.where(np.isfinite(raw), raw, kind.type(-0.0))
    return found


def bits(store):
    return {v: (store[v].dtype.str, store[v].shape, store[v].tobytes()) for v in store}


@pytest.mark.parametrize("pair", [*itertools.permutations(FEATURES, 2)], ids="-".join)
def test_features_are_bit_equal_after_every_pair(tmp_path, pair):
    said = {"fps": 29.97, "stride": 16.0, "snippet_frames": 16.0}
    first = write_features(tmp_path / pair[0], open_features(save(tmp_path / "s.npz", random_arrays())))
    want = bits(open_features(tmp_path / "s.npz"))
    assert bits(open_features(first.path)) == want
    convert(first.path, tmp_path / f"2{pair[1]}", timing=said)
    convert(tmp_path / f"2{pair[1]}", tmp_path / f"3{pair[0]}")
    for place in (f"2{pair[1]}", f"3{pair[0]}"):
        store = open_features(tmp_path / place)
        assert bits(store) == want and store.stated == said
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), videos=st.integers(1, 5), width=st.integers(1, 40), data=st.data())
def test_any_features_through_any_chain(tmp_path_factory, seed, videos, width, data):
    base = tmp_path_factory.mktemp("chain")
    place = save(base / "s.npz", random_arrays(seed, videos, width))
    want = bits(open_features(place))
    for i, name in enumerate(data.draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=4))):
        convert(place, base / f"{i}{name}")
        place = base / f"{i}{name}"
    assert bits(open_features(place)) == want


@pytest.mark.parametrize("name", FEATURES)
def test_other_readers_read_what_is_written(tmp_path, name):
    arrays = random_arrays()
    convert(save(tmp_path / "s.npz", arrays), tmp_path / name)
    if name == "f.npz":
        got = dict(np.load(tmp_path / name))
    elif name == "f.h5":
        import h5py

        with h5py.File(tmp_path / name) as file:
            got = {v: file[v][()] for v in file}
    elif name == "f.safetensors":
        from safetensors.numpy import load_file

        got = load_file(tmp_path / name)
    else:
        got = {v: np.load(tmp_path / name / f"{v}.npy") for v in arrays}
    assert got.keys() == arrays.keys()
    assert all(got[v].dtype == arrays[v].dtype and got[v].tobytes() == arrays[v].tobytes() for v in arrays)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1.0, 1e-6, 1e4, 1e-39, 1e30]))
def test_precision_is_rounded_to_nearest(tmp_path_factory, seed, scale):
    base = tmp_path_factory.mktemp("precision")
    x = (np.random.default_rng(seed).standard_normal((3, 8)) * scale).astype(np.float32)
    save(base / "s.npz", {"v": x})
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        want = torch.from_numpy(x).to(dtype).float().numpy()
        if not np.isfinite(want).all():
            with pytest.raises(FeatureError, match="beyond what float16 holds; write float32"):
                convert(base / "s.npz", base / f"{name}.safetensors", dtype=name)
            continue
        convert(base / "s.npz", base / f"{name}.safetensors", dtype=name)
        got = open_features(base / f"{name}.safetensors")["v"]
        assert np.array_equal(got.astype(np.float32), want)


def test_bfloat16_stays_and_goes_on_as_float32(tmp_path):
    convert(save(tmp_path / "s.npz", random_arrays()), tmp_path / "b.safetensors", dtype="bfloat16")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    convert(tmp_path / "b.safetensors", tmp_path / "d.h5")
    assert bits(open_features(tmp_path / "b.safetensors")) == bits(open_features(tmp_path / "d.h5"))
    with pytest.raises(FeatureError, match=r"only \.safetensors hold bfloat16"):
        convert(tmp_path / "b.safetensors", tmp_path / "e.npz", dtype="bfloat16")


def test_a_value_that_float16_does_not_reach(tmp_path):
    save(tmp_path / "s.npz", {"v": np.full((2, 3), 70000.0, np.float32)})
    with pytest.raises(FeatureError, match=r"'v' holds 70000, beyond what float16 holds"):
        convert(tmp_path / "s.npz", tmp_path / "f.npz", dtype="float16")
    assert os.listdir(tmp_path) == ["s.npz"]
    lines = convert(save(tmp_path / "d.npz", {"v": np.ones((2, 3))}), tmp_path / "f.npz")
    assert "1 arrays of float64 are rounded to float32" in lines


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_stopped_conversion_goes_on(tmp_path, name, after, monkeypatch):
    store = open_features(save(tmp_path / "s.npz", random_arrays()))
    write_features(tmp_path / f"whole{name}", store)
    read, kind = [], type(store)
    original = kind._read

    def stopping(self, video):
        if len(read) == after:
            raise KeyboardInterrupt
        read.append(video)
        return original(self, video)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_read", stopping)
        with pytest.raises(KeyboardInterrupt, match=rf"stopped after {after} of 7 videos; the same command goes on"):
            write_features(tmp_path / name, store)
    assert not (tmp_path / name).exists()
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(kind, "_read", lambda self, video: read.append(video) or original(self, video))
        assert write_features(tmp_path / name, store).resumed == after
    assert len(read) == 7 - after
    assert bits(open_features(tmp_path / name)) == bits(store)
    if (tmp_path / name).is_file() and not name.endswith("h5"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    assert not [n for n in os.listdir(tmp_path) if n.startswith(".")]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("damage", ["cut", "junk", "gone", "journal"])
def test_what_is_left_damaged_is_not_gone_on_with(tmp_path, name, damage, monkeypatch):
    store = open_features(save(tmp_path / "s.npz", random_arrays(width=300)))
    read, original = [], type(store)._read

    def stopping(self, video):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(video)
        return original(self, video)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_read", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_features(tmp_path / name, store)
    left = tmp_path / (".folder.partial" if name == "folder" else f".f.partial{name[1:]}")
    if damage == "journal":
        left = tmp_path / f".{name}.journal"
    elif name == "folder":
        left = left / "v2.x.npy"
    assert left.exists()
    if damage == "gone":
        left.unlink()
    else:
        whole = left.read_bytes()
        left.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"junk")
    assert write_features(tmp_path / name, store).resumed == 0
    assert bits(open_features(tmp_path / name)) == bits(store)
    assert not [n for n in os.listdir(tmp_path) if n.startswith(".")]


@pytest.mark.parametrize("name", FEATURES)
def test_another_job_killed_before_its_first_video(tmp_path, name, monkeypatch):
    """What it laid out is not taken for the first job's."""
    store = open_features(save(tmp_path / "s.npz", random_arrays(dtypes=(np.float32,))))
    read, original = [], type(store)._read

    def stopping(self, video):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(video)
        return original(self, video)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_read", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_features(tmp_path / name, store)
    for method in ("begin", "forget"):
        with monkeypatch.context() as patch:
            patch.setattr(Journal, method, lambda _: (_ for _ in ()).throw(Stopped))
            with pytest.raises(Stopped):
                write_features(tmp_path / name, store, timing={"snippet_seconds": 1.0})
    write_features(tmp_path / name, store)
    assert bits(open_features(tmp_path / name)) == bits(store)


def test_what_changed_meanwhile_starts_again(tmp_path, monkeypatch):
    store = open_features(save(tmp_path / "s.npz", random_arrays()))
    monkeypatch.setattr(type(store), "_read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / "f.npz", store)
    monkeypatch.undo()
    other = open_features(save(tmp_path / "s.npz", random_arrays(1)))
    assert write_features(tmp_path / "f.npz", other).resumed == 0
    assert bits(open_features(tmp_path / "f.npz")) == bits(other)


SAVING_OFTEN = """
import sys
import d2net.data.features.writing as writing
from d2net.data.convert import convert
writing.SECONDS = 0.0
print("go", flush=True)
convert(*sys.argv[1:3])
"""


@pytest.mark.parametrize("name", FEATURES)
def test_killed_at_any_time(tmp_path, name):
    rng = np.random.default_rng(0)
    source = tmp_path / "s"
    source.mkdir()
    for i in range(400):
        np.save(source / f"v{i:03}.npy", rng.standard_normal((30, 256)).astype(np.float32))
    command = [sys.executable, "-c", SAVING_OFTEN, source, tmp_path / name]
    for wait in (0.1,):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    if not (tmp_path / name).exists():
        convert(source, tmp_path / name)
    assert bits(open_features(tmp_path / name)) == bits(open_features(source))
    assert not [n for n in os.listdir(tmp_path) if n.startswith(".")]


def test_one_process_writes_an_output(tmp_path):
    from d2net.data.features.writing.journal import Journal

    source = save(tmp_path / "s.npz", random_arrays())
    with (
        Journal(tmp_path / ".f.npz.journal", "job", tmp_path / "f.npz"),
        pytest.raises(FeatureError, match=r"another process writes .*f\.npz"),
    ):
        convert(source, tmp_path / "f.npz")


@pytest.mark.parametrize(
    ("name", "out", "says"),
    [
        ("a/b", "folder", "has characters that a file's name cannot have"),
        (".hidden", "folder", "has characters"),
        ("x" * 300, "folder", "too long for a file's name"),
        ("v_rgb", "folder", "would be read as a stream"),
        ("V", "folder", "differs from 'v' in capitals alone|differs from 'V' in capitals alone"),
        ("a//b", "f.h5", r"cannot hold"),
        ("v/x", "f.h5", r"cannot hold"),
        (".hidden", "f.npz", "cannot hold videos of such names: '.hidden'"),
    ],
)
def test_names_that_a_format_cannot_hold(tmp_path, name, out, says):
    from safetensors.numpy import save_file

    save_file({"v": np.ones((2, 3), np.float32), name: np.ones((2, 3), np.float32)}, tmp_path / "s.safetensors")
    with pytest.raises(DataError, match=says):
        convert(tmp_path / "s.safetensors", tmp_path / out)
    assert os.listdir(tmp_path) == ["s.safetensors"]


@pytest.mark.parametrize("out", FEATURES)
def test_names_that_are_not_unicode(tmp_path, out):
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "v\udcff.npy", np.ones((2, 3), np.float32))
    if out == "folder":
        convert(tmp_path / "s", tmp_path / out)
        assert open_features(tmp_path / out).names == ["v\udcff"]
        return
    with pytest.raises(DataError, match=r"the name of video 'v\\udcff' is not Unicode"):
        convert(tmp_path / "s", tmp_path / out)
    known = Annotations((), {"v\udcff": Video("v\udcff", None, None, None, (), ())})
    for name in ("a.csv", "tracks"):
        with pytest.raises(DataError, match=r"is not Unicode; rename it, or write \.json|cannot hold"):
            save_annotations(tmp_path / name, known)
    assert os.listdir(tmp_path) == ["s"]


class Sparse(FeatureStore):
    """Three videos of 2 GiB that nobody reads."""

    def __init__(self):
        super().__init__("sparse", {f"v{i}": ((2**18 + i, 4096), np.dtype(np.float16)) for i in range(3)})

    def _read(self, name):
        raise AssertionError

    def sources(self):
        return []


@pytest.mark.parametrize("name", FEATURES[:3])
def test_places_beyond_4_gib(tmp_path, name):
    from d2net.data.features.writing import _WRITERS
    from d2net.data.features.writing.plan import make_plan

    path, store = tmp_path / name, Sparse()
    make = _WRITERS[path.suffix]
    writer = make(path, make_plan(store, path, None, {}, make))
    writer.lay_out()
    with writer:
        writer.write(2, b"\x01\x3c" * 4096)
        assert writer.offsets[2] > 2**32
    got = writer.open()
    assert got.lengths == store.lengths
    with open(path, "rb") as file:
        file.seek(writer.offsets[2])
        assert file.read(8192) == b"\x01\x3c" * 4096 and not file.read(8192).strip(b"\0")


def test_nothing_is_written_over(tmp_path):
    source = save(tmp_path / "s.npz", random_arrays())
    folder = write_features(tmp_path / "folder", open_features(source)).path
    before = source.read_bytes()
    (tmp_path / "link.npz").symlink_to(source)
    (tmp_path / "there.npz").write_bytes(b"mine")
    for read, out, says in (
        (source, source, "is what is read"),
        (source, tmp_path / "link.npz", "is what is read"),
        (folder, folder, "is a folder that holds files"),
        (folder, folder / "f.npz", "lies in .*which is read"),
        (source, tmp_path / "there.npz", "is there; say --overwrite"),
        (source, folder, "is a folder that holds files"),
        (source, tmp_path / "f.txt", r"written as \.npz, \.h5, \.safetensors or a folder, not as \.txt"),
        (tmp_path / "absent.npz", tmp_path / "f.npz", "no file"),
    ):
        with pytest.raises(DataError, match=says):
            convert(read, out)
    assert source.read_bytes() == before and (tmp_path / "there.npz").read_bytes() == b"mine"
    convert(source, tmp_path / "there.npz", overwrite=True)
    assert bits(open_features(tmp_path / "there.npz")) == bits(open_features(source))
    assert sorted(os.listdir(tmp_path)) == ["folder", "link.npz", "s.npz", "there.npz"]


@pytest.mark.parametrize("name", [*FEATURES, *LISTS])
def test_folders_are_made_and_links_followed(tmp_path, name):
    if name in FEATURES:
        source = save(tmp_path / "s.npz", random_arrays())
    else:
        source = tmp_path / "s.json"
        save_annotations(source, Annotations((), {"v": Video("v", None, None, None, (), ())}))
    out = tmp_path / "not" / "there" / name
    convert(source, out)
    assert kind_of(out) == ("features" if name in FEATURES else "annotations")
    if out.is_file():
        (tmp_path / f"link{out.suffix}").symlink_to(out)
        before = out.read_bytes()
        out.write_bytes(b"old")
        convert(source, tmp_path / f"link{out.suffix}", overwrite=True)
        assert (tmp_path / f"link{out.suffix}").is_symlink() and out.read_bytes()[:9] == before[:9]
    assert os.listdir(out.parent) == [name]


WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
SECONDS = st.floats(0, 1e6).map(lambda x: x + 0.0)
POSITIVE = st.floats(1e-6, 1e6)


@st.composite
def annotations(draw, plain):
    """plain: what tables can hold."""
    classes = draw(st.lists(WORD, min_size=1, max_size=4, unique=True))
    videos = {}
    for name in draw(st.lists(WORD, min_size=1, max_size=5, unique_by=str.casefold)):
        times = draw(st.lists(st.tuples(SECONDS, SECONDS, st.sampled_from(classes)), max_size=4))
        segments = tuple(Segment(c, min(a, b), max(a, b)) for a, b, c in times)
        weak = draw(st.lists(st.sampled_from(classes), max_size=2))
        labels = tuple(dict.fromkeys([*weak, *(s.label for s in segments)]))
        info = draw(st.dictionaries(st.sampled_from(["subject", "url"]), WORD if plain else WORD | st.integers(0, 9)))
        optional = [draw(st.none() | kind) for kind in (WORD, POSITIVE, POSITIVE)]
        videos[name] = Video(name, *optional, labels, segments, info)
    found = sorted({c for v in videos.values() for c in v.labels})
    if plain:
        return Annotations(tuple(found), videos)
    order = draw(st.permutations(classes))
    frames = draw(st.just({}) | st.just({"fps": 25.0, "stride": 16.0}))
    return Annotations(tuple(order), videos, draw(st.none() | st.just([[0, 2, "rgb"]])), None, "x", {}, frames)


def holdable(known):
    """Whether names are such that lists of events can hold them: others are refused, and tested below."""
    names = [*known.videos, *known.classes, *(v.subset or "x" for v in known.videos.values())]
    names += [str(x) for v in known.videos.values() for x in v.info.values()]
    return not any(set(n) & set('/\\:";,\t') or n.startswith(".") or n.strip() != n for n in names)


@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
@settings(max_examples=60)
@given(known=annotations(plain=True), data=st.data())
def test_any_annotations_through_any_chain(tmp_path_factory, known, data):
    base, place = tmp_path_factory.mktemp("chain"), None
    save_annotations(base / "s.json", known)
    place = base / "s.json"
    for i, name in enumerate(data.draw(st.lists(st.sampled_from(LISTS), min_size=1, max_size=4))):
        try:
            lines = convert(place, base / f"{i}{name}", kind="annotations")
        except DataError as error:
            assert not holdable(known), error
            assert "cannot" in str(error), error
            return
        assert len(lines) == 1, lines
        place = base / f"{i}{name}"
    compare(place, load_annotations(place), known)


@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
@settings(max_examples=30)
@given(known=annotations(plain=False))
def test_json_holds_everything_and_tables_say_what_they_do_not(tmp_path_factory, known):
    base = tmp_path_factory.mktemp("json")
    assert save_annotations(base / "s.json", known) == []
    compare(base, load_annotations(base / "s.json"), known)
    if not holdable(known):
        return
    lost = " ".join(save_annotations(base / "s.csv", known))
    for there, word in ((known.streams, "streams"), (known.frames, "frames")):
        assert bool(there) == (word in lost)
    got = load_annotations(base / "s.csv")
    assert (got.classes == known.classes) == ("classes" not in lost)
    assert all(got.videos[n].segments == v.segments for n, v in known.videos.items())


def test_what_tables_cannot_hold_is_said(tmp_path):
    videos = {"v": Video("v", None, None, None, ("run",), (), {"URL": "x", "subject": 3, "note": ""})}
    known = Annotations(("run", "fly"), videos, [[0, 2, "rgb"]], 0.5, "x", {}, {"fps": 25.0})
    save_annotations(tmp_path / "a.json", known)
    lines = convert(tmp_path / "a.json", tmp_path / "a.csv")[1:]
    assert lines == [
        "not in a.csv: 1 classes without a video: 'fly'",
        "not in a.csv: streams ([[0, 2, 'rgb']])",
        "not in a.csv: snippet_seconds (0.5)",
        "not in a.csv: frames ({'fps': 25.0})",
        "not in a.csv: that 'subject' are numbers: they are text",
        "not in a.csv: that 'note' are empty text: they are left out",
        "not in a.csv: capitals in the names of fields: 'URL'",
    ]
    got = load_annotations(tmp_path / "a.csv").videos["v"]
    assert got.labels == ("run",) and got.info == {"url": "x", "subject": "3"}


@st.composite
def detections(draw):
    videos = draw(st.lists(WORD, min_size=1, max_size=4, unique_by=str.casefold))
    classes = draw(st.lists(WORD, min_size=1, max_size=3, unique=True))
    rows = draw(st.lists(st.tuples(
        st.integers(0, len(videos) - 1), st.integers(0, len(classes) - 1), SECONDS, SECONDS, st.floats(-5, 5)
    ), max_size=8))  # fmt: skip
    columns = np.array([(v, c, min(a, b), max(a, b), s) for v, c, a, b, s in rows], np.float64).reshape(-1, 5).T
    return Detections.from_arrays(videos, classes, *columns)


@settings(max_examples=60)
@given(found=detections(), data=st.data())
def test_any_detections_through_any_chain(tmp_path_factory, found, data):
    base = tmp_path_factory.mktemp("chain")
    save_detections_as(base / "s.json", found)
    place = base / "s.json"
    for i, name in enumerate(data.draw(st.lists(st.sampled_from(LISTS), min_size=1, max_size=4))):
        try:
            convert(place, base / f"{i}{name}", kind="detections")
        except DataError as error:
            assert any(set(n) & set('/\\:";,\t') or n[0] == "." for n in [*found.videos, *found.classes]), error
            return
        place = base / f"{i}{name}"
    assert by_video(load_detections(place)) == by_video(found)


@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
@pytest.mark.parametrize("name", ["thumos14_wtalc", "activitynet12_wtalc"])
def test_real_annotations_through_every_format(shared_dir, tmp_path, name):
    known = load_annotations(shared_dir / "data" / name / "annotations.json")
    save_annotations(tmp_path / "0.json", known)
    compare(tmp_path, load_annotations(tmp_path / "0.json"), known)
    for out in ("a.csv", "a.tsv", "tracks"):
        if out == "a.tsv":
            known = known.only([*known.videos][::10])
        save_annotations(tmp_path / out, known)
        got = load_annotations(tmp_path / out)
        assert got.videos == known.videos and set(got.classes) <= set(known.classes)


def test_numbers_of_classes_get_their_names(tmp_path):
    import pickle

    columns = {"video-id": [*"vv"], "t-start": [0.0, 1.0], "t-end": [1.0, 2.0], "label": [1, 0], "score": [0.5, 0.25]}
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(columns))
    entry = {"annotations": [{"label": c, "label_id": i, "segment": [0, 1]} for i, c in enumerate(("run", "jump"))]}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v": entry}}))
    convert(tmp_path / "d.pkl", tmp_path / "d.csv", classes=tmp_path / "a.json")
    assert (tmp_path / "d.csv").read_text().splitlines()[1:] == ["v,0.0,1.0,jump,0.5", "v,1.0,2.0,run,0.25"]
    entry["annotations"].pop()
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v": entry}}))
    with pytest.raises(DataError, match="label '1' is not the number of one of the 1 classes"):
        convert(tmp_path / "d.pkl", tmp_path / "e.csv", classes=tmp_path / "a.json")


def test_numbers_of_classes_are_their_label_ids(tmp_path):
    ids = {"run": 4, "jump": 1, "fall": 2}
    entry = {"annotations": [{"label": c, "label_id": i, "segment": [0, 1]} for c, i in ids.items()]}
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v": entry}}))
    rows = [{"label": i, "score": 0.5, "segment": [0, 1]} for i in ids.values()]
    (tmp_path / "d.json").write_text(json.dumps({"results": {"v": rows}}))
    convert(tmp_path / "d.json", tmp_path / "e.json", classes=tmp_path / "a.json")
    assert [r["label"] for r in json.loads((tmp_path / "e.json").read_text())["results"]["v"]] == [*ids]
    rows[0]["label"] = 0
    (tmp_path / "d.json").write_text(json.dumps({"results": {"v": rows}}))
    with pytest.raises(DataError, match=r"label '0' is not .* 3 classes, which are numbered 1 to 4 by label_id"):
        convert(tmp_path / "d.json", tmp_path / "f.json", classes=tmp_path / "a.json")


def test_kinds_are_told_by_content(tmp_path):
    known = Annotations(("run",), {"v": Video("v", "train", 9.0, None, ("run",), (Segment("run", 1.0, 2.0),))})
    one = np.ones(1)
    found = Detections.from_arrays(["v"], ["run"], 0 * one, 0 * one, one, 2 * one, 0.5 * one)
    for i, name in enumerate(LISTS):
        save_annotations(tmp_path / f"a{i}{name[1:] if '.' in name else ''}", known)
        save_detections_as(tmp_path / f"d{i}{name[1:] if '.' in name else ''}", found)
    save(tmp_path / "f.npz", random_arrays())
    for name in FEATURES[1:]:
        convert(tmp_path / "f.npz", tmp_path / name)
    kinds = {"a": "annotations", "d": "detections", "f": "features"}
    for place in tmp_path.iterdir():
        assert kind_of(place) == kinds[place.name[0]], place
    (tmp_path / "folder" / "done.txt").touch()
    assert kind_of(tmp_path / "folder") == "features"
    (tmp_path / "x").write_text("{}")
    with pytest.raises(DataError, match="neither features, annotations"):
        kind_of(tmp_path / "x")
    with pytest.raises(DataError, match="dtype is for features, and these are annotations"):
        convert(tmp_path / "a0.json", tmp_path / "b.json", dtype="float16")
    with pytest.raises(DataError, match="classes is for detections, and these are features"):
        convert(tmp_path / "f.npz", tmp_path / "g.npz", classes=tmp_path / "a0.json")
    with pytest.raises(DataError, match=r"lists of events are written as \.json, \.csv, \.tsv"):
        convert(tmp_path / "a0.json", tmp_path / "b.npz")


def test_a_place_without_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "f.npz", random_arrays())
    with pytest.raises(DataError, match="give the name of what to write"):
        convert("f.npz", ".")


@pytest.mark.parametrize("field", ['"x": NaN', '"x": -Infinity'])
def test_a_field_that_json_has_not(tmp_path, field):
    (tmp_path / "a.json").write_text(f'{{"database": {{"v": {{{field}, "video_labels": ["run"]}}}}}}')
    with pytest.raises(DataError, match=r"b\.json cannot hold .*a\.json: it has a field that is NaN or infinite"):
        convert(tmp_path / "a.json", tmp_path / "b.json")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_list_is_replaced_only_when_asked(tmp_path):
    known = Annotations((), {"v": Video("v", None, None, None, (), ())})
    for name in ("a.json", "a.csv", "tracks"):
        save_annotations(tmp_path / name, known)
        with pytest.raises(DataError, match=r"is what is read|is the input|lies in"):
            convert(tmp_path / name, tmp_path / name, overwrite=True)
    with pytest.raises(DataError, match="is there; say --overwrite"):
        convert(tmp_path / "a.json", tmp_path / "a.csv")
    with pytest.raises(DataError, match="is there; label tracks are written to a new folder"):
        convert(tmp_path / "a.json", tmp_path / "tracks", overwrite=True)
    convert(tmp_path / "a.json", tmp_path / "a.csv", overwrite=True)


def test_the_command(tmp_path, command):
    source = save(tmp_path / "s.npz", random_arrays())
    timing = ["--fps", 25, "--stride", 16, "--snippet-frames", 16]
    status, out, err = command("convert", source, tmp_path / "f.safetensors", *timing)
    assert status == 0, err
    assert "read an .npz keyed by video: 7 videos of width 4" in out and "written: " in out
    assert open_features(tmp_path / "f.safetensors").stated == {"fps": 25, "stride": 16, "snippet_frames": 16}
    status, out, err = command("convert", tmp_path / "f.safetensors", tmp_path / "g.h5", "--snippet-seconds", 0.5)
    assert "timing: {'snippet_seconds': 0.5} replaces {'fps': 25.0," in out, err
    for bad, says in (
        ([source, tmp_path / "h.npz", "--fps", 25], "fps given without stride and snippet_frames"),
        ([source, tmp_path / "h.npz", "--dtype", "int8"], "dtype must be float16, bfloat16, float32, got 'int8'"),
        ([source, tmp_path / "h.npz", "--kind", "videos"], "kind must be features, annotations, detections"),
        ([source, tmp_path / "h.npz", "--crops", "last"], "crops must be mean or first"),
        ([source, source], "is what is read"),
    ):
        status, _, err = command("convert", *bad, "--quiet")
        assert status == 2 and says in err and err.count("\n") == 1, err


def test_a_full_disk_keeps_what_is_written(tmp_path):
    rng = np.random.default_rng(0)
    source = save(tmp_path / "s.npz", {f"v{i}": rng.standard_normal((200, 64)).astype(np.float32) for i in range(9)})
    # A folder's files of at most 32 KiB stand for a disk with no more room.
    command = [sys.executable, "-m", "d2net", "convert", source, tmp_path / "folder"]
    limited = ["bash", "-c", 'ulimit -f 32; exec "$@"', "-", *map(str, command)]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 2 and "the same command goes on" in done.stderr, done.stderr
    assert not (tmp_path / "folder").exists()
    convert(source, tmp_path / "folder")
    assert bits(open_features(tmp_path / "folder")) == bits(open_features(source))
    shutil.rmtree(tmp_path / "folder")


def test_the_measurement_of_memory_runs():
    script = Path(__file__).parents[2] / "benchmarks" / "convert_memory.py"
    sizes = ["--videos", "300", "--snippets", "3", "--width", "16", "--most", "100", "--formats", "f.safetensors"]
    done = subprocess.run([sys.executable, script, *sizes], capture_output=True, text=True)
    assert done.returncode == 0 and "300 videos" in done.stdout and "KiB a video" in done.stdout, done.stderr


def test_real_detections_through_every_format(shared_dir, tmp_path):
    place = shared_dir / "data" / "detections" / "autoloc_thumos14" / "predictions.json"
    want = by_video(load_detections(place))
    for name in ("d.csv", "d.tsv", "tracks", "d.json"):
        convert(place, tmp_path / name)
        place = tmp_path / name
    assert by_video(load_detections(place)) == want
