"""d2net inspect: what is planted in data is found and counted, clean data pass, the command that it prints trains."""

from __future__ import annotations

import copy
import io
import json
import shlex
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.data.inspect import inspect_data
from d2net.data.inspect.facts import Facts
from d2net.data.inspect.recommend import recommend
from d2net.data.inspect.rows import LAGS, RowFacts
from d2net.data.inspect.steps import fit_steps
from d2net.data.synth import make_synthetic, write_synthetic

TIMING = {"fps": 25, "stride": 16, "snippet_frames": 16}


@pytest.fixture(scope="module")
def made():
    data = make_synthetic(videos=18, classes=3, width=16)
    return data._replace(annotations={**data.annotations, **TIMING})


def write(folder, data, features=None, change=None):
    """Paths of features and annotations, with arrays replaced and the database changed."""
    tree = copy.deepcopy(data.annotations)
    if change is not None:
        change(tree["database"])
    return write_synthetic(folder, data._replace(features={**data.features, **(features or {})}, annotations=tree))


def kinds(found, level=None):
    return {f.kind: f for f in found.findings if level is None or f.level == level}


def test_clean_data_have_no_errors_and_right_counts(made, tmp_path):
    found = inspect_data(*write(tmp_path, made))
    assert not kinds(found, "error") and not kinds(found, "warning"), found.findings
    tree, database = json.loads(json.dumps(found.tree())), made.annotations["database"]
    assert tree["features"]["videos"] == 18 and tree["features"]["width"] == 16
    assert tree["features"]["snippets"] == sum(len(x) for x in made.features.values())
    assert tree["annotations"]["instances"] == sum(len(v["annotations"]) for v in database.values())
    assert tree["annotations"]["subsets"]["test"]["videos"] == 6
    values = np.concatenate(list(made.features.values())).astype(np.float64)
    assert tree["features"]["rms"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-5)
    for c in tree["annotations"]["classes"]:
        of = [a for v in database.values() for a in v["annotations"] if a["label"] == c["name"]]
        assert c["instances"] == len(of)
        assert c["instance_seconds"]["median"] == pytest.approx(
            np.median([b - a for a, b in (x["segment"] for x in of)])
        )
    for pair in tree["annotations"]["co_occurrence"]:
        both = [v for v in database.values() if set(pair["classes"]) <= {a["label"] for a in v["annotations"]}]
        assert pair["videos"] == len(both)


def odd_rows(x):
    x = x.copy()
    x[2], x[3, 5], x[4], x[6:9] = 0, np.nan, 3, x[6]
    x[10, 0] = np.inf
    return x


def test_odd_rows_are_counted_by_kind(made, tmp_path):
    arrays = {"video_003": odd_rows(made.features["video_003"]), "video_004": made.features["video_005"]}
    arrays |= {name: x.copy() for name, x in made.features.items() if name not in arrays}
    for x in arrays.values():
        x[:, 7] = 0.5
    arrays["video_003"][2] = 0
    found = inspect_data(write(tmp_path, made, arrays)[0], None)
    rows = found.features["rows"]
    assert rows == {"NaN": 1, "infinite": 1, "zero": 1, "constant": 0, "repeated": 2}
    assert found.features["copies"] == 1 and found.errors == 2
    assert kinds(found)["NaN rows"].names == ("video_003",)
    assert kinds(found)["copies"].names == ("video_005 = video_004",)
    # 0.5 but for the row of zeros
    assert "constant columns" not in kinds(found)


def test_rows_of_one_value_and_dead_columns():
    facts = RowFacts(3)
    facts.add("v", np.array([[1, 2, 5], [4, 4, 5], [5, 5, 5], [5, 5, 5], [0, 0, 5]], np.float32))
    assert facts.odd == {"NaN": 0, "infinite": 0, "zero": 0, "constant": 2, "repeated": 0}
    assert facts.constant_columns() == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_how_rows_are_chunked(lengths, seed):
    from unittest import mock

    rng = np.random.default_rng(seed)
    arrays = [rng.integers(-1, 2, (s, 3)).astype(np.float32) for s in lengths]
    trees = []
    for chunk in (5, 65_536):
        with mock.patch("d2net.data.inspect.rows._ROWS", chunk):
            facts = RowFacts(3)
            for i, x in enumerate(arrays):
                facts.add(f"v{i}", x)
            trees.append(facts.tree())
    assert trees[0] == trees[1]
    plain = np.concatenate(arrays)
    assert trees[0]["rows"]["zero"] == int((plain == 0).all(1).sum())


def test_persistence_is_the_lag_of_half_the_likeness():
    x = np.repeat(np.random.default_rng(0).standard_normal((400, 8)), 16, axis=0).astype(np.float32)
    facts = RowFacts(8)
    facts.add("v", x)
    assert LAGS[2] < facts.persistence() < 10  # blocks of 16: half of a pair's rows agree at lag 8


def test_names_missing_surplus_and_nearest(made, tmp_path):
    features, annotations = write(tmp_path, made)
    arrays = dict(made.features)
    arrays["vidoe_010"] = arrays.pop("video_010")
    np.savez(features, **arrays)
    found = inspect_data(features, annotations)
    missing, surplus = kinds(found)["missing features"], kinds(found)["surplus features"]
    assert (
        missing.level == "error"
        and missing.names == ("video_010",)
        and "'video_010' is like 'vidoe_010'" in missing.text
    )
    assert surplus.names == ("vidoe_010",)
    np.savez(features, **{f"v_{name}-I3D": x for name, x in made.features.items()})
    found = inspect_data(features, annotations)
    assert not found.errors and kinds(found)["names normalized"].count == 18
    np.savez(features, **{name: x for name, x in made.features.items() if int(name[-3:]) >= 6})
    found = inspect_data(features, annotations)
    assert not found.errors and kinds(found)["missing features"].level == "warning"
    np.savez(features, **{f"other{i}": x for i, x in enumerate(made.features.values())})
    assert inspect_data(features, annotations).errors == 1


def test_a_subset_without_videos_is_an_error(made, tmp_path):
    paths = write(tmp_path, made, change=lambda database: database["video_017"].pop("subset"))
    found = inspect_data(*paths)
    assert kinds(found)["no subset"].names == ("video_017",) and not found.errors
    assert kinds(inspect_data(*paths, subsets=["other"]), "error")["no training video"].text.startswith("no video of")


def test_odd_segments_are_counted_by_kind(made, tmp_path):
    def change(database):
        video = database["video_007"]
        end = video["duration_second"]
        c = video["annotations"][0]["label"]
        video["annotations"] = [
            {"label": c, "segment": s}
            for s in ([1, 1], [2, 5], [2, 5], [4, 6], [end - 2, end + 3], [end + 1, end + 2], [-1, 1], [-2, -1])
        ] + [{"label": "class_0" if c != "class_0" else "class_1", "segment": [2, 5]}]

    found = kinds(inspect_data(None, write(tmp_path, made, change=change)[1]))
    wanted = dict.fromkeys(("degenerate", "duplicate", "overlapping", "overrunning", "negative"), 1)
    assert {k: f.count for k, f in found.items()} == {**wanted, "overlapping": 2, "outside": 2, "two labels at once": 1}
    assert all(f.names[0] == "video_007" for k, f in found.items() if k != "two labels at once")


def test_label_sets_that_differ(made, tmp_path):
    def change(database):
        for name, video in database.items():
            video["annotations"] = [a for a in video["annotations"] if a["label"] != "class_2"]
            if name == "video_001":
                video["annotations"].append({"label": "class_2", "segment": [1, 2]})
                video["video_labels"] = ["class_0", "class_1"]
            if name == "video_009":
                video["annotations"] = []

    path = write(tmp_path, made, change=change)[1]
    found = kinds(inspect_data(None, path))
    assert "classes of subset test have no video in subset train" in found["label sets differ"].text
    assert "'class_2'" in found["label sets differ"].text and "video_009" in found["no label"].names
    other = tmp_path / "other.json"
    tree = json.loads(path.read_text())
    tree["database"]["video_008"]["annotations"].pop()
    tree["database"].pop("video_017")
    tree["classes"] = ["Class 0", *tree["classes"]]
    other.write_text(json.dumps(tree))
    found = inspect_data(None, path, [other])
    texts = " | ".join(f.text for f in found.findings)
    assert "1 videos of" in texts and "'video_017'" in texts and "classes of" in texts and "instances," in texts
    assert "1 classes are spelt in several ways" in " | ".join(f.text for f in inspect_data(None, other).findings)


@given(
    st.sampled_from([(25.0, 16), (30.0, 16), (25.0, 4), (29.97, 8), (50.0, 16), (10.0, 1)]),
    st.integers(8, 40),
    st.integers(0, 2**32 - 1),
)
def test_the_step_is_found_from_durations(rate, n, seed):
    fps, stride = rate
    seconds = np.random.default_rng(seed).uniform(60, 400, n)
    durations = {f"v{i}": float(t) for i, t in enumerate(seconds)}
    lengths = {v: int(t * fps // stride) for v, t in durations.items()}
    fit = fit_steps(lengths, durations, {})
    assert fit.agree == 1 and fit.step == pytest.approx(stride / fps, rel=0.01)
    assert any(r[1] / r[0] == pytest.approx(stride / fps, rel=0.01) for r in fit.readings)
    known = fit_steps(lengths, durations, dict.fromkeys(durations, fps))
    assert (
        known.readings[0] == (fps, stride)
        and known.flags() == f"--fps {fps:g} --stride {stride} --snippet-frames {stride}"
    )


def test_frames_of_each_videos_own_rate_and_resized_features():
    rng = np.random.default_rng(0)
    rates = {f"v{i}": float(rng.choice([15, 24, 30, 60])) for i in range(40)}
    durations = {v: float(rng.uniform(30, 300)) for v in rates}
    fit = fit_steps({v: int(durations[v] * rates[v] // 16) for v in rates}, durations, rates)
    assert fit.frames == 16 and "snippet_frames 16" in fit.flags()
    assert fit_steps(dict.fromkeys(rates, 100), durations, rates).flags() == "--resized"
    assert fit_steps({v: int(rng.integers(5, 900)) for v in rates}, durations, {}) is None


def test_a_stated_timing_that_does_not_fit_is_an_error_with_the_one_that_does(command, made, tmp_path):
    features, annotations = write(tmp_path, made)
    assert command("inspect", features, annotations, "--quiet")[0] == 0
    status, out, _ = command("inspect", features, annotations, "--quiet", "--fps", 25, "--stride", 8,
                         "--snippet-frames", 8)  # fmt: skip
    assert status == 1 and "durations fit other snippets" in out and "--fps 25 --stride 16 --snippet-frames 16" in out
    weak = json.loads(annotations.read_text())
    for name in TIMING:
        weak.pop(name)
    annotations.write_text(json.dumps(weak))
    found = inspect_data(features, annotations)
    assert kinds(found)["no timing"].level == "warning" and "--fps 25 --stride 16 --snippet-frames 16" in found.command


@pytest.mark.parametrize("labels_only", [True, False])
def test_the_command_that_is_printed_trains(command, made, tmp_path, monkeypatch, labels_only):
    monkeypatch.chdir(tmp_path)
    paths = write(tmp_path, made)
    status, out, _ = command("inspect", *paths, "--json", "--quiet", *["--labels-only"] * labels_only)
    tree = json.loads(out)
    assert status == 0 and tree["recommended"]["used_segments"] is not labels_only
    words = shlex.split(tree["recommended"]["command"].replace("\\\n", ""))
    assert words[0] == "d2net" and all(c["reason"] for c in tree["recommended"]["choices"])
    status, _, err = command(*words[1:], "--set", "iterations=3", "--quiet")
    assert status == 0, err
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        (["--fps", 25, "--stride", 16, "--snippet-frames", 16], "--fps 25.0 --stride 16.0 --snippet-frames 16.0"),
        (["--snippet-seconds", 0.64], "--snippet-seconds 0.64"),
        (["--fps", 25, "--stride", 8, "--snippet-frames", 8], "--fps 25 --stride 16 --snippet-frames 16"),
        (["--layout", "annotations=activitynet", "--layout", "rows", "--crops", "first"],
         "--layout annotations=activitynet --layout rows --crops first"),
    ],
)  # fmt: skip
def test_the_command_repeats_what_the_user_said(command, made, tmp_path, given, repeated):
    paths = write(tmp_path, made._replace(annotations={k: v for k, v in made.annotations.items() if k not in TIMING}))
    _, out, _ = command("inspect", *paths, "--json", "--quiet", *given)
    words = json.loads(out)["recommended"]["command"].replace("\\\n", " ").split()
    assert repeated in " ".join(words)


def test_preset_auto_trains_with_what_it_prints_and_the_users_word_wins(command, made, tmp_path):
    import yaml

    features, annotations = write(tmp_path, made)
    common = ["train", "--features", features, "--annotations", annotations, "--set", "iterations=3"]
    status, out, err = command(*common, "--out", tmp_path / "a", "--preset", "auto", "--set", "smoothing=7", "--quiet")
    assert status == 0, err
    lines = [x.removeprefix("auto: ") for x in out.splitlines() if x.startswith("auto: ")]
    said = {x.partition(" = ")[0]: x.partition(" = ")[2].partition(": ") for x in lines}
    assert {"loss.pool_divisor", "train.learning_rate", "localize.thresholds"} <= said.keys()
    assert (
        all(reason for _, _, reason in said.values()) and not {"localize.smoothing", "train.iterations"} & said.keys()
    )
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["preset"] is None and config["localize"]["smoothing"] == 7 and config["train"]["subsets"] == ["train"]
    for name, (value, _, _) in said.items():
        section, field = name.split(".")
        assert config[section][field] == yaml.safe_load(value), name
    status, _, err = command(*common, "--out", tmp_path / "a", "--preset", "auto", "--set", "smoothing=7", "--resume")
    assert status == 0, err
    settings = tmp_path / "c.yaml"
    settings.write_text("preset: auto\ntrain: {subsets: [test]}\n")
    status, out, err = command(*common, "--out", tmp_path / "b", "--config", settings)
    assert status == 0 and "auto: loss.pool_divisor" in out and "train.subsets" not in out
    status, _, err = command(*common, "--out", tmp_path / "d", "--preset", "auto", "--set", "train.subsets=[nothing]")
    assert status == 2 and "no video of subset nothing" in err
    status, _, err = command("localize", "--checkpoint", tmp_path / "a", "--features", features, "--out",
                         tmp_path / "x.json", "--set", "preset=auto")  # fmt: skip
    assert status == 2 and len(err.splitlines()) == 1


def test_preset_auto_never_looks_at_segments(made, tmp_path):
    from d2net.auto import auto_config

    def weak(database):
        for video in database.values():
            video["video_labels"] = sorted({a["label"] for a in video.pop("annotations")})

    (tmp_path / "weak").mkdir()
    features, annotations = write(tmp_path, made)
    _, bare = write(tmp_path / "weak", made, change=weak)
    a, b = (auto_config(open_features(features), load_annotations(path)) for path in (annotations, bare))
    assert a == b
    found = inspect_data(features, bare)
    assert not found.used_segments and [*map(str, found.choices)] == [*map(str, a.choices)]


def test_preset_auto_never_looks_at_test_videos(made, tmp_path):
    from d2net.auto import auto_config

    def change(database):
        for video in database.values():
            if video["subset"] == "test":
                video.update(duration_second=1.0, annotations=[], video_labels=["class_0", "class_1", "class_2"])

    spoilt = {n: x[:6] * 100 for n, x in made.features.items() if made.annotations["database"][n]["subset"] == "test"}
    found = []
    for name, features, how in (("a", {}, None), ("b", spoilt, change)):
        (tmp_path / name).mkdir()
        paths = write(tmp_path / name, made, features, how)
        found.append(auto_config(open_features(paths[0]), load_annotations(paths[1])))
    assert found[0] == found[1]


def test_preset_auto_is_near_what_was_chosen_by_hand(shared_dir):
    """On HAPT's training people; docs/features.md has what both score."""
    from d2net.auto import auto_config
    from d2net.config import make_config

    folder = shared_dir / "data" / "har"
    store = open_features(folder / "features.npz")
    by_hand = make_config("hapt")
    for name in ("annotations_12.json", "annotations_6.json"):
        auto = auto_config(store, load_annotations(folder / name)).config
        for section in ("model", "train", "localize"):
            ours, theirs = getattr(auto, section), getattr(by_hand, section)
            assert ours.model_dump() | {"streams": None} == theirs.model_dump() | {"streams": None}, section
        assert 4 <= auto.loss.pool_divisor <= 8
        assert auto.loss.model_dump() | {"pool_divisor": 7} == by_hand.loss.model_dump()


@pytest.mark.parametrize(
    ("step", "persistence", "size", "dilation", "smoothing"),
    [(0.04, None, 5, 5, 5), (0.32, None, 5, 3, 3), (0.5, None, 5, 2, 3), (0.64, 9.0, 1, 1, 3), (None, 4.0, 3, 1, 3),
     (None, None, 1, 1, 3)],
)  # fmt: skip
def test_the_classifier_sees_seconds_where_snippets_are_short(step, persistence, size, dilation, smoothing):
    facts = Facts("train", "test", 20, 64, None, (100,) * 20, 1.5, step, 1.0, persistence)
    chosen = {c.field: c for c in recommend(facts)}
    assert (chosen["model.classifier_kernel_size"].value, chosen["model.classifier_dilation"].value) == (size, dilation)
    assert chosen["localize.smoothing"].value == smoothing
    if step is not None:
        reach = dilation * (size - 1) // 2
        assert reach * step <= 2 and f"{(2 * reach + 1) * step:.3g} s" in chosen["model.classifier_kernel_size"].reason


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0.3, 1),
)
def test_damaged_files_are_inspected_to_the_end(tmp_path_factory, flips, kept):
    folder = tmp_path_factory.mktemp("damaged")
    data = make_synthetic(videos=4, classes=2, width=4)
    paths = write_synthetic(folder, data)
    for of_features, at, byte in flips:
        raw = bytearray(paths[not of_features].read_bytes())
        raw[at % len(raw)] = byte
        paths[not of_features].write_bytes(raw)
    if kept < 0.6:
        paths[0].write_bytes(paths[0].read_bytes()[: int(kept * paths[0].stat().st_size)])
    found = inspect_data(*paths)
    assert found.text() and json.dumps(found.tree(), allow_nan=False)
    if kept < 0.6:
        assert found.errors


ODD = st.one_of(st.none(), st.text(max_size=4), st.integers(-5, 5), st.floats(-10, 10), st.just([]), st.just({}))


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {},
            optional={
                "subset": st.sampled_from(["train", "Train", "test", "", None, 3]),
                "duration_second": st.one_of(st.floats(0.1, 100), ODD),
                "fps": ODD,
                "video_labels": st.lists(st.sampled_from("ab"), max_size=3),
                "annotations": st.lists(
                    st.fixed_dictionaries(
                        {
                            "label": st.sampled_from("abc"),
                            "segment": st.lists(st.floats(-5, 200), min_size=2, max_size=2),
                        }
                    ),
                    max_size=4,
                ),
            },
        ),
        max_size=5,
    )
)
def test_any_annotations_are_inspected_to_the_end(tmp_path_factory, database):
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.json").write_text(json.dumps({"database": database}))
    names = [*database][:3]
    arrays = {f"{name}": np.full((3 + i, 2), i, np.float32) for i, name in enumerate(names) if name.strip()}
    features = None
    if arrays and not any("/" in name or "\0" in name for name in arrays):
        features = folder / "f.npz"
        with zipfile.ZipFile(features, "w") as archive:
            for name, x in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, x)
                archive.writestr(f"{name}.npy", buffer.getvalue())
    for labels_only in (False, True):
        found = inspect_data(features, folder / "a.json", labels_only=labels_only)
        assert found.text() and json.dumps(found.tree(), allow_nan=False)


def test_what_cannot_be_read_is_a_finding(command, made, tmp_path):
    features, annotations = write(tmp_path, made)
    features.write_bytes(features.read_bytes()[:2000])
    status, out, _ = command("inspect", features, annotations, "--json", "--quiet")
    tree = json.loads(out)
    assert status == 1 and tree["features"] is None and tree["annotations"]["videos"] == 18
    assert tree["errors"] == 1 and str(features) in tree["findings"][0]["text"]
    status, out, _ = command("inspect", tmp_path / "none.json", "--quiet")
    assert status == 1 and "no file" in out


def test_each_video_is_read_once_in_bounded_memory(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    for i in range(300):
        np.lib.format.open_memmap(folder / f"v{i:03d}.npy", "w+", np.float16, (200, 256)).flush()
    store = open_features(folder)
    read = []
    raw = type(store).raw
    facts = RowFacts(store.width)
    tracemalloc.start()
    for name in store.names:
        read.append(name)
        facts.add(name, raw(store, name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.odd["zero"] == 300 * 200 and facts.copied == 299
    assert peak < 8 * 200 * 256 * 4 < 300 * 200 * 256 * 2


@pytest.mark.parametrize("form", ["annotations.json", ""])
def test_thumos14_is_as_its_readme_describes(shared_dir, form):
    found = inspect_data(None, shared_dir / "data" / "thumos14_wtalc" / form)
    a, subsets = found.annotations, found.annotations["subsets"]
    assert a["videos"] == 412 and len(a["classes"]) == 20 and found.errors == 0
    assert (subsets["validation"]["videos"], subsets["validation"]["instances"]) == (200, 3007)
    assert (subsets["test"]["videos"], subsets["test"]["instances"]) == (212, 3358)
    said = kinds(found)
    assert said["outside"].count + said.get("overrunning", said["outside"]).count >= 30
    assert "360 of 360 instances of 'CliffDiving' are also 'Diving'" in said["two labels at once"].text


def test_activitynet12_is_as_its_readme_describes(shared_dir):
    found = inspect_data(None, shared_dir / "data" / "activitynet12_wtalc")
    a, subsets = found.annotations, found.annotations["subsets"]
    assert a["videos"] == 7202 and len(a["classes"]) == 100
    assert (subsets["training"]["videos"], subsets["training"]["instances"]) == (4819, 7151)
    assert (subsets["validation"]["videos"], subsets["validation"]["instances"]) == (2383, 3582)
    assert kinds(found)["degenerate"].count == 10


@pytest.mark.filterwarnings("ignore::d2net.data.annotations.AnnotationWarning")
def test_thumos14_with_features_of_another_rate(shared_dir, tmp_path):
    """extracted_fps is 25 in the file; these features were extracted at 30."""
    annotations = load_annotations(shared_dir / "data" / "thumos14_wtalc")
    arrays = {
        name: np.ones((max(1, int(v.duration * 30 / 16)), 2), np.float32) for name, v in annotations.videos.items()
    }
    np.savez(tmp_path / "f.npz", **arrays)
    found = inspect_data(tmp_path / "f.npz", shared_dir / "data" / "thumos14_wtalc")
    assert [30.0, 16] in found.timing["fitted"]["readings"] or found.timing["fitted"]["frames"] == 16
    assert found.choices[0].value == ["validation"] and found.choices[1].value == ["test"]
