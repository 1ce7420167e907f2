"""Pictures: what stands in them, that names cannot break them, and what is said where one cannot be made."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from d2net import api
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.demo import demo_config
from d2net.evaluation import evaluate
from d2net.evaluation.errors import TRUE
from d2net.evaluation.prepared import PROTOCOLS
from d2net.plots import style
from d2net.plots.choosing import chosen_videos, classes_that_matter, thinned
from d2net.plots.curves import draw_curves
from d2net.plots.embedding import Means, projected, silhouette, video_means
from d2net.plots.precision_recall import class_curves
from d2net.plots.shown import files_of, with_thumbnails
from d2net.plots.timeline import POINTS, Timeline, Track, draw_timelines
from d2net.report.results import results
from d2net.report.runs import RunRecord

EVIL = "$\\frac{a <b>&\x1b[2J 中"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Features, annotations and two runs of one name that differ in the seed."""
    folder = tmp_path_factory.mktemp("plot")
    features, annotations = write_synthetic(folder / "data", make_synthetic(videos=12, classes=3, width=16))
    store, known = open_features(features), load_annotations(annotations)
    for seed, name in enumerate(("a", "b")):
        config = demo_config(6)
        config.train.seed, config.train.log_every, config.train.batch_size = seed, 2, 4
        api.train(store, known, folder / name / "run", config, device="cpu", progress=False)
    return folder, store, known


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, which are saved too."""
    figures, save = [], style.save
    monkeypatch.setattr(style, "save", lambda path, figure, **how: (figures.append(figure), save(path, figure, **how)))
    return figures


def example(snippets=50, label="dive", **changes):
    """One run on a video of `snippets` of 2 s, with one true and one false detection."""
    values = np.linspace(0, 1, snippets)
    found = [(label, 8.0, 20.0, 0.8, TRUE), (label, 10.0, 12.0, 0.4, 2)]
    track = Track("run", (2.0, 4.0), {label: values}, np.maximum(values, 0.3), 1 - values, found, 7)
    given = {"video": "v", "between": (0.0, 2.0 * snippets + 2), "classes": [label], "left_out": 94,
             "truth": [(label, 7.0, 21.0)], "tracks": [track], "at": 0.5}  # fmt: skip
    return Timeline(**(given | changes))


def bars(axes, what):
    return [p for p in axes.patches if (p.get_gid() or "").startswith(what)]


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_a_timeline_shows_what_it_is_given(drawn, tmp_path):
    draw_timelines(tmp_path / "t.png", [example(), example(video="w")])
    truth, curves, found, *others = drawn[0].axes
    assert len(others) == 3 and (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    (bar,) = bars(truth, "truth")
    assert (bar.get_x(), bar.get_width()) == (7.0, 14.0)
    lines = {x.get_label(): x for x in curves.lines}
    assert list(lines) == ["λ, the largest of all classes", "dive", "λ', the foreground score"]
    # A value stands at the middle of its snippet.
    assert lines["dive"].get_xydata() == pytest.approx(np.c_[2.0 + 2 * np.arange(50), np.linspace(0, 1, 50)])
    assert lines["λ, the largest of all classes"].get_ydata() == pytest.approx(np.maximum(np.linspace(0, 1, 50), 0.3))
    assert lines["λ', the foreground score"].get_ydata() == pytest.approx(np.linspace(1, 0, 50))
    sure, false = bars(found, "found")
    assert (sure.get_x(), sure.get_width(), false.get_x(), false.get_width()) == (8.0, 12.0, 10.0, 2.0)
    assert false.get_height() == pytest.approx(sure.get_height() / 2)  # as the scores
    assert not sure.get_hatch() and false.get_hatch()
    assert (
        found.get_title("left")
        == "2 detections, as high as their score, hatched where false at IoU 0.5; 7 more detections not shown"
    )
    assert others[-1].get_xlabel() == "seconds; 94 more classes not shown" and found.get_xlim() == (0, 102)
    assert truth.get_title("left") == "v" and others[0].get_title("left") == "w"


def test_an_hour_is_legible(drawn, tmp_path):
    draw_timelines(tmp_path / "t.png", [example(5625, between=(0.0, 3600.0 * 2), truth=[("dive", 50.0, 50.01)])])
    truth, curves, _ = drawn[0].axes
    (bar,) = bars(truth, "truth")
    assert bar.get_width() == pytest.approx(6)  # wide enough to be seen
    assert [t.get_text() for t in curves.get_yticklabels()][1] == "dive" and len(curves.lines) == 3  # lanes
    assert all(len(x.get_xdata()) <= POINTS for x in curves.lines)
    assert curves.get_title("left") == "run; means of 3 snippets, the line their largest"
    assert any(t.endswith("hours; 94 more classes not shown") for t in texts(drawn[0]))
    assert "1:30:00" in [t.get_text() for t in drawn[0].axes[-1].get_xticklabels()]


def test_a_part_of_a_video(drawn, tmp_path):
    draw_timelines(tmp_path / "t.svg", [example(5000, between=(600.0, 700.0))])
    line = drawn[0].axes[1].lines[1]
    assert line.get_xdata()[0] == pytest.approx(598) and line.get_xdata()[-1] == pytest.approx(702)
    assert line.get_ydata()[1] == pytest.approx(299 / 4999)


def test_videos_without_truth_detections_or_foreground(drawn, tmp_path):
    track = example().tracks[0]
    bare = Track("run", (2.0, 4.0), {}, track.attention[:1], None, [])
    draw_timelines(tmp_path / "t.svg", [example(truth=None, at=None, tracks=[bare], classes=[])])
    curves, found = drawn[0].axes
    assert [x.get_label() for x in curves.lines] == ["λ, the largest of all classes"]
    assert found.get_title("left") == "no detections" and "nothing was found" in found.get_xlabel()
    draw_timelines(tmp_path / "t.svg", [example(at=None)])
    assert all(not b.get_hatch() for b in bars(drawn[1].axes[2], "found"))


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_names_are_text_and_the_bytes_are_the_same(kind, tmp_path, recwarn):
    for name in ("one", "two"):
        draw_timelines(tmp_path / f"{name}.{kind}", [example(video=EVIL, label=EVIL)])
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    lacking = [w for w in recwarn if "characters that the fonts here lack" in str(w.message)]
    if kind == "svg":
        text = (tmp_path / "one.svg").read_text()
        assert "$\\frac{a &lt;b&gt;&amp;\\x1b[2J 中</text>" in text and "\x1b" not in text
        assert "94 more classes not shown" in text and not lacking


def test_too_many_videos_and_foreign_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="inches high, of at most 300; give fewer videos"):
        draw_timelines(tmp_path / "t.png", [example()] * 200)
    for name in ("t.jpg", "t", "t.png.txt"):
        with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.pdf"):
            style.check_picture(name)
    assert not any(tmp_path.iterdir())


def test_curves_are_told_apart_without_colour_too():
    pairs = [(how["color"], str(how["linestyle"])) for how in map(style.line, range(24))]
    assert len(set(pairs)) == 24 and len({line for _, line in pairs[:4]}) == 4


def test_classes_that_matter():
    scores = [{"a": 0.2, "b": 0.9}, {"c": 0.5, "a": 0.1}]
    assert classes_that_matter(["z"], scores, []) == ["z", "b", "c", "a"]
    assert classes_that_matter(["z"], scores, [], most=2) == ["z", "b"]
    assert classes_that_matter([], [{}], [{"a": 0.1, "b": 0.3}]) == ["b", "a"]


def test_thinned_keeps_means_and_extremes():
    values = np.arange(10.0)[:, None]
    means, least, most, size = thinned(values, 4)
    assert size == 3 and means[:, 0].tolist() == [1, 4, 7, 9]
    assert least[:, 0].tolist() == [0, 3, 6, 9] and most[:, 0].tolist() == [2, 5, 8, 9]


def test_unknown_videos_are_named_with_the_nearest():
    there = ["video_test_0000004", "video_test_0000006"]
    assert chosen_videos(["v_video_test_0000004.mp4"], there, "f.npz") == there[:1]
    assert chosen_videos([there[0], there[0]], there, "f.npz") == there[:1]
    with pytest.raises(DataError, match=r"f\.npz: no video 'video_test_000004'.*is like 'video_test_0000004'"):
        chosen_videos(["video_test_000004"], there, "f.npz")


def test_names_of_runs_are_as_short_as_tells_them_apart(tmp_path):
    assert style.short_names([tmp_path / "a/run", tmp_path / "b/run"]) == ["a/run", "b/run"]
    assert style.short_names([tmp_path / "a/x", tmp_path / "b/y"]) == ["x", "y"]


def test_plot_shows_what_localize_finds(data, command, drawn, tmp_path):
    folder, store, known = data
    name = next(iter(known.subset("test").videos))
    runs = [folder / "a/run", folder / "b/run"]
    status, out, err = command("plot", *runs, f"v_{name}.mp4", "--out", tmp_path / "t.svg", "--device", "cpu")
    assert status == 0 and f"picture: {tmp_path / 't.svg'}" in out, err
    truth, *axes = drawn[0].axes
    assert truth.get_title("left") == name
    wanted = [(s.start, pytest.approx(s.end - s.start)) for s in known.videos[name].segments]
    assert sorted((b.get_x(), b.get_width()) for b in bars(truth, "truth")) == sorted(wanted)
    for run, curves, found in zip(runs, axes[::2], axes[1::2], strict=True):
        model = api.load(run, "cpu")
        of = api.localize(model, store, annotations=known, names=[name], keep_activations=True)
        rows = of.detections
        starts = sorted(b.get_x() for b in bars(found, "found"))
        assert starts == pytest.approx(sorted(rows.start[np.argsort(-rows.score, kind="stable")][:150]))
        lines = {x.get_label(): x.get_ydata() for x in curves.lines}
        for k, c in enumerate(model.classes):
            assert lines[c] == pytest.approx(of.activations[name].classes[:, k])
        assert lines["λ, the largest of all classes"] == pytest.approx(of.activations[name].classes.max(1))
    svg = (tmp_path / "t.svg").read_text()
    assert "a/run</text>" in svg and "b/run</text>" in svg


def test_plot_without_a_video_or_annotations(data, command, drawn, tmp_path):
    folder, _store, known = data
    status, out, err = command("plot", folder / "a/run", "--out", tmp_path / "t.png", "--quiet")
    first = next(v for v, x in known.subset("test").videos.items() if x.segments)
    assert status == 0 and f"video: {first}, the first with segments" in out, err
    given = ["--features", folder / "data/features.npz", "--out", tmp_path / "u.png", "--quiet"]
    status, _, err = command("plot", folder / "a/run", first, *given)
    assert status == 0, err
    assert len(drawn[1].axes) == 2 and "false" not in drawn[1].axes[1].get_title("left")
    status, _, err = command("plot", folder / "a/run", first, "--between", "1:4", "--classes", "class_1", *given)
    assert status == 0 and drawn[2].axes[0].get_xlim() == (1, 4), err
    assert [x.get_label() for x in drawn[2].axes[0].lines][1] == "class_1"


def test_what_cannot_be_plotted_is_one_line(data, command, tmp_path, monkeypatch):
    folder, _, known = data
    run, name = folder / "a/run", next(iter(known.videos))
    shutil.copytree(run, tmp_path / "moved")
    saved = api.load(run, "cpu")  # the run's folder is whole
    assert saved.classes
    for arguments, said in (
        ([run, "video_99999"], "no video 'video_99999', and no run's folder of that name"),
        ([tmp_path / "none"], "there is no run"),
        ([run, run], "given twice"),
        ([run, name, "--out", tmp_path / "x.jpg"], "ends in .png, .svg, .pdf"),
        ([run, name, "--out", run / "config.yaml"], "ends in .png"),
        ([run, name, "--classes", "class_9"], "no class 'class_9'"),
        ([run, name, "--between", "9"], "--between must be two numbers"),
        ([run, name, "--between", "9:3"], "must begin before it ends"),
        ([run, name, "--between", "90000:90001"], "and nothing of it is after 90000 s"),
        ([run, name, "--at", "0"], "an IoU is in (0, 1]"),
        ([run, name, "--video", tmp_path / "none.mp4"], "there is no such file"),
        ([run, name, "--curves"], "--curves is of all videos"),
        ([run, "--pr", "--curves"], "exclude each other"),
        ([run, "--pr", "--between", "1:2"], "--between does nothing with --pr"),
        ([run, "--pr", "--subset", "none"], "no video of subset none"),
        ([run, "--pr", "--features", folder / "data/features.npz"], "--pr needs segments"),
        ([run, name, "--out", "/proc/none/x.png"], "cannot write"),
        ([tmp_path], "checkpoint.pt"),
    ):
        status, _, err = command("plot", *arguments, *([] if "--out" in arguments else ["--out", tmp_path / "x.png"]))
        lines = [x for x in err.splitlines() if not x.startswith("warning")]
        assert status == 2 and said in err and len(lines) == 1, (arguments, err)
    assert not (tmp_path / "x.png").exists()
    (folder / "data").rename(folder / "gone")
    status, _, err = command("plot", run, name, "--out", tmp_path / "x.png")
    (folder / "gone").rename(folder / "data")
    assert status == 2 and "give --features" in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = command("plot", run, name)
    assert status == 2 and err == "error: pictures need matplotlib: pip install 'd2kernels[plot]'\n"


def test_curves_are_those_of_the_log(data, command, drawn, tmp_path):
    folder, *_ = data
    status, _, err = command("plot", folder / "a/run", folder / "b/run", "--curves", "--out", tmp_path / "c.svg")
    assert status == 0, err
    panels = {ax.get_title("left"): ax for ax in drawn[0].axes}
    for k, name in enumerate("ab"):
        log = [json.loads(x) for x in (folder / name / "run/log.jsonl").read_text().splitlines()]
        log = [x for x in log if "total" in x]
        for title, term in (("total loss", "total"), ("gradient norm", "gradient_norm")):
            line = panels[title].lines[k]
            assert line.get_xydata().tolist() == [[x["iteration"], x[term]] for x in log]
    assert "steps skipped, since the start" in panels


def test_curves_with_gaps_and_sums(drawn, tmp_path):
    values = [1.0, None, 4.0, 400.0]
    run = RunRecord("r", {}, {"gradient_norm": list(zip((10, 20, 30, 40), values, strict=True)),
                              "skipped_steps": [(10, 1.0), (20, 0.0), (30, 2.0)]})  # fmt: skip
    draw_curves(tmp_path / "c.png", [run], ["r"])
    norm, skipped = drawn[0].axes[:2]
    assert np.isnan(norm.lines[0].get_ydata()[1]) and norm.lines[1].get_xdata().tolist() == [20]
    assert norm.get_yscale() == "log" and skipped.lines[0].get_ydata().tolist() == [1, 1, 3]
    with pytest.raises(DataError, match=r"log\.jsonl holds no entry"):
        draw_curves(tmp_path / "d.png", [RunRecord("r", {}, {})], ["r"])


@pytest.mark.parametrize("protocol", ["activitynet", "thumos", "release"])
def test_precision_and_recall_make_the_protocols_ap(data, protocol):
    folder, store, known = data
    truth = known.subset("test")
    run = results(api.load(folder / "a/run", "cpu"), store, truth, protocol=protocol, iou=0.3, at=0.3, details=False)
    report = evaluate(run.detections, truth, protocol=protocol, iou=0.3, timing=run.model.timing)
    found = class_curves(run, truth, protocol, 0.3)
    assert {c: k.ap for c, k in found.items()} == {c: ap[0] for c, ap in report.ap.items()}
    for k in found.values():
        best = np.maximum.accumulate(k.precision[::-1])[::-1] if PROTOCOLS[protocol].interpolate else k.precision
        area = np.sum(np.diff(k.recall, prepend=0) * best)
        assert area == pytest.approx(k.ap) and k.instances > 0


def test_precision_recall_picture(data, command, drawn, tmp_path):
    folder, *_ = data
    runs = [folder / "a/run", folder / "b/run"]
    status, _, err = command("plot", *runs, "--pr", "--at", "0.3", "--out", tmp_path / "p.svg", "--quiet")
    assert status == 0, err
    *panels, ap = drawn[0].axes
    assert [p.get_title("left").split(":")[0] for p in panels] == ["a/run", "b/run"]
    assert all(len(p.lines) == 3 for p in panels) and len(ap.patches) == 6
    shown = [f"{b.get_width():.1f}" for b in ap.patches]
    assert all(
        any(s in x.get_label() for x in p.lines)
        for p, row in zip(panels, (shown[:3], shown[3:]), strict=True)
        for s in row
    )


def test_a_hundred_classes_leave_room(drawn, tmp_path):
    from d2net.plots.precision_recall import ClassCurve, draw_precision_recall

    rng = np.random.default_rng(0)
    found = {f"class {i}": ClassCurve(np.ones(1), np.ones(1), float(rng.random()), 100 - i) for i in range(100)}
    draw_precision_recall(tmp_path / "p.png", ["r"], [found], 0.5, "thumos")
    panel, ap = drawn[0].axes
    assert [x.get_label().split(":")[0] for x in panel.lines] == [f"class {i}" for i in range(6)]
    assert panel.get_xlabel() == "recall; 94 more classes not shown"
    values = [b.get_width() for b in ap.patches]
    every = sorted((100 * k.ap for k in found.values()), reverse=True)
    assert values == pytest.approx(every[:15] + every[-15:])
    assert "70 more classes not shown, between the 15 best and the 15 worst" in ap.get_xlabel()


def test_compare_as_a_picture(data, command, drawn, tmp_path):
    folder, *_ = data
    runs = [folder / "a/run", folder / "b/run"]
    given = ["--features", folder / "data/features.npz", "--annotations", folder / "data/annotations.json", "--quiet"]
    status, _, err = command("compare", *runs, *given, "--iou", "0.1:0.3:0.1", "--out", tmp_path / "c.json")
    tree = json.loads((tmp_path / "c.json").read_text())
    status, out, err = command("compare", *runs, *given, "--iou", "0.1:0.3:0.1", "--out", tmp_path / "c.svg")
    assert status == 0 and "average mAP" in out, err
    by_iou, averages = drawn[0].axes[:2]
    assert [x.get_ydata() for x in by_iou.lines] == [
        pytest.approx([100 * v for v in m["mAP"]]) for m in tree["metrics"]
    ]
    assert [b.get_width() for b in averages.patches] == pytest.approx([100 * m["average_mAP"] for m in tree["metrics"]])
    svg = (tmp_path / "c.svg").read_text()
    assert "train.seed" in svg and "mean ± deviation of 2 seeds" in svg
    status, _, err = command("compare", *runs, "--out", tmp_path / "d.png")
    assert status == 0 and drawn[1].axes[0].get_title("left") == "total loss", err


def test_means_of_foreground_and_background(data):
    folder, store, known = data
    model, truth = api.load(folder / "a/run", "cpu"), known.subset("test")
    found = video_means(model, store, truth)
    from d2net.localization.activations import network_embeddings

    name = found.videos[0]
    (x,) = network_embeddings(model.network, [store[name]])
    middle = (np.arange(len(x)) + 0.5) * 16 / 25
    inside = np.array([any(s.start <= m < s.end for s in truth.videos[name].segments) for m in middle])
    assert found.foreground[0] == pytest.approx(x[inside].mean(0), abs=1e-5)
    assert found.background[0] == pytest.approx(x[~inside].mean(0), abs=1e-5)
    assert len(found.videos) + found.left_out == len(truth.videos)


def test_embedding_needs_scikit_and_one_network(data, command, tmp_path, monkeypatch):
    from dataclasses import replace

    from d2net.methods.ensemble import Ensemble

    folder, store, known = data
    model = api.load(folder / "a/run", "cpu")
    with pytest.raises(DataError, match="give one run, as RUN/seed-0"):
        video_means(replace(model, network=Ensemble([model.network])), store, known.subset("test"))
    with pytest.raises(DataError, match="0 of 2 videos have snippets inside and outside segments, and 3"):
        names = list(known.videos)[:2]
        bare = {v: replace(known.videos[v], segments=()) for v in names}
        video_means(model, store, replace(known, videos=bare))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    status, _, err = command("plot", folder / "a/run", "--embedding", "--out", tmp_path / "e.png")
    assert status == 2 and err == "error: --embedding needs scikit-learn: pip install 'd2kernels[embedding]'\n"


def test_embedding_picture(data, command, drawn, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'd2kernels[embedding]'")
    folder, store, known = data
    status, _, err = command("plot", folder / "a/run", "--embedding", "--out", tmp_path / "e.svg", "--quiet")
    assert status == 0, err
    n = len(video_means(api.load(folder / "a/run", "cpu"), store, known.subset("test")).videos)
    sides = drawn[0].axes[0].collections
    assert [s.get_label() for s in sides] == ["foreground", "background"]
    assert [len(s.get_offsets()) for s in sides] == [n, n] and "silhouette" in drawn[0].axes[0].get_title("left")
    rng = np.random.default_rng(0)
    a, b = np.r_[1, np.zeros(7)], np.r_[0, 1, np.zeros(6)]
    apart = Means(list("uvwxyz"), a + 0.05 * rng.normal(size=(6, 8)), b + 0.05 * rng.normal(size=(6, 8)), 0)
    mixed = Means(list("uvwxyz"), rng.normal(size=(6, 8)), rng.normal(size=(6, 8)), 0)
    assert silhouette(apart) > 0.8 > 0.3 > silhouette(mixed)
    assert (projected(apart) == projected(apart)).all()


def test_thumbnails_of_a_video_or_a_part(tmp_path, monkeypatch):
    calls = []

    def thumbnails(file, seconds, count):
        calls.append((file, seconds, count))
        return [np.full((2, 2, 3), i, np.uint8) for i in range(count)]

    monkeypatch.setattr("d2net.video.render.thumbnails", thumbnails)
    whole = with_thumbnails(example(between=(0.0, 120.0)), tmp_path / "v.mp4")
    assert [(a, b) for a, b, _ in whole.thumbnails] == [(10.0 * i, 10.0 * i + 10) for i in range(12)]
    part = with_thumbnails(example(between=(60.0, 120.0)), tmp_path / "v.mp4")
    assert calls[1] == (tmp_path / "v.mp4", 120.0, 24)
    assert [(a, int(x[0, 0, 0])) for a, _, x in part.thumbnails] == [(5.0 * i, i) for i in range(12, 24)]


def test_thumbnails_stand_above(drawn, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    from d2net.video.synth import write_videos

    write_videos(tmp_path / "videos", 1, seed=0)
    (file,) = (tmp_path / "videos").glob("*.mp4")
    draw_timelines(tmp_path / "t.png", [with_thumbnails(example(between=(0.0, 4.0)), file)])
    images = drawn[0].axes[0].images
    assert len(images) == 12 and images[-1].get_extent() == pytest.approx([4 * 11 / 12, 4, 0, 1])
    assert images[0].get_array().std() > 1


def test_files_are_matched_to_videos(tmp_path):
    for name in ("v_one.mp4", "two.mkv", "other.mp4"):
        (tmp_path / name).write_bytes(b"x")
    one, two, other = (tmp_path / n for n in ("v_one.mp4", "two.mkv", "other.mp4"))
    assert files_of([one, two], ["one", "two", "three"]) == {"one": one, "two": two}
    assert files_of([other], ["one"]) == {"one": other}
    with pytest.raises(DataError, match="none of the videos shown is called so"):
        files_of([one, other], ["one", "two"])
