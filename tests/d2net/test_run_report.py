"""The page about runs, and their comparison: what they say, that names cannot break the page, and that it works."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from d2net import api
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.data.files import DataError
from d2net.data.synth import make_synthetic, write_synthetic
from d2net.demo import demo_config
from d2net.evaluation import analyse_errors, evaluate
from d2net.evaluation.errors import KINDS, TRUE
from d2net.report.collect import collect
from d2net.report.page import embedded, page_data, write_report
from d2net.report.results import results
from d2net.report.runs import read_run, thinned, trained_on

EVIL = "</script><script>document.body.id='broken'</script><!-- \u2028 & \" ' <b>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Features, annotations with a class and a video of a hostile name, and two runs that differ in the seed."""
    folder = tmp_path_factory.mktemp("report")
    features, annotations = write_synthetic(folder / "data", make_synthetic(seed=0))
    tree = json.loads(annotations.read_text())
    first = next(c for v in tree["database"].values() for c in (a["label"] for a in v["annotations"]))
    text = annotations.read_text().replace(json.dumps(first), json.dumps(EVIL))
    annotations.write_text(text)
    store, known = open_features(features), load_annotations(annotations)
    for seed in (0, 1):
        config = demo_config(60)
        config.train.seed, config.train.log_every = seed, 10
        api.train(store, known, folder / f"run{seed}", config, device="cpu", progress=False)
    return folder, store, known


@pytest.fixture(scope="module")
def found(data):
    folder, store, known = data
    return collect([folder / "run0", folder / "run1"], store, known, device="cpu", iou="0.1:0.7:0.1")


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, found, EVIL)
    return path


def content(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_page_says_what_evaluation_says(data, found, page):
    folder, store, known = data
    tree, truth = content(page), known.subset("test")
    assert [r["name"] for r in tree["runs"]] == [str(folder / "run0"), str(folder / "run1")]
    assert tree["differences"] == {"train.seed": ["0", "1"]}
    assert {v["name"] for v in tree["videos"]} == set(truth.videos)
    for k, shown in enumerate(tree["runs"]):
        detections = api.localize(
            api.load(folder / f"run{k}", "cpu"), store, annotations=truth, names=list(truth.videos)
        ).detections
        report = evaluate(detections, truth, protocol="activitynet", iou="0.1:0.7:0.1")
        assert shown["metrics"]["mAP"] == report.mAP and shown["metrics"]["ap"] == report.ap
        errors = analyse_errors(detections, truth, iou="0.5").to_dict()
        kinds = np.sum([v["runs"][k]["kinds"] for v in tree["videos"]], axis=0)
        assert kinds[TRUE] == errors["true_positives"][0]
        assert kinds[: len(KINDS)].tolist() == [errors["false_positives"][kind][0] for kind in KINDS]
        lost = sum(sum(v["runs"][k]["missed"]) for v in tree["videos"])
        assert lost == sum(c["missed"][0] for c in errors["classes"].values())
        log = [json.loads(x) for x in (folder / f"run{k}" / "log.jsonl").read_text().splitlines()]
        assert shown["curves"]["total"] == [[x["iteration"], x["total"]] for x in log if "total" in x]
    (seeds,) = tree["seeds"]
    both = [r["metrics"]["average_mAP"] for r in tree["runs"]]
    assert seeds["runs"] == [0, 1]
    assert seeds["mean"][-1] == pytest.approx(np.mean(both))
    assert seeds["deviation"][-1] == pytest.approx(np.std(both, ddof=1))


def test_times_of_detections_and_activations(data, page):
    _, store, known = data
    tree = content(page)
    for video in tree["videos"]:
        truth = known.videos[video["name"]]
        assert video["truth"] == [[tree["classes"].index(s.label), s.start, s.end] for s in truth.segments]
        for run in video["runs"]:
            assert run["points"] == store.lengths[video["name"]]
            assert run["step"] == pytest.approx(16 / 25)
            assert all(0 <= a <= b <= video["duration"] + 1e-3 for _, a, b, _, _ in run["found"])


@pytest.mark.parametrize("text", [EVIL, "<!--<script>", "\ud800", "]]>", "\u2028\u2029", "&lt;", "__proto__"])
def test_embedded_text_ends_no_element_and_comes_back(text):
    made = embedded({text: [text]})
    assert made.isascii() and not set(made) & set("<>&")
    assert json.loads(made) == {text: [text]}


def test_page_loads_nothing(page):
    text = page.read_text()
    assert "default-src 'none'" in text and EVIL not in text
    shell = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\"]*", shell)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img)[^>]* (src|href)=\"(?!data:)", shell)


def test_page_of_200_long_videos_is_small(data, tmp_path):
    folder, _, known = data
    rng = np.random.default_rng(0)
    model = api.load(folder / "run0", "cpu")
    names = [f"v{i}" for i in range(200)]
    arrays = {n: rng.normal(size=(5600, model.network.width)).astype(np.float32) for n in names[:2]}
    np.savez(tmp_path / "f.npz", **arrays)
    tree = {
        n: {
            "subset": "test",
            "duration": 3600,
            "annotations": [{"label": known.classes[i % 3], "segment": [10 * i, 10 * i + 5]} for i in range(300)],
        }
        for n in names[:2]
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": tree}))
    found = collect(
        [folder / "run0"], open_features(tmp_path / "f.npz"), load_annotations(tmp_path / "a.json"), device="cpu"
    )
    made = page_data(found, "")
    # 200 like these two, each as large as a page of two lets it be.
    small = {**made, "videos": made["videos"] * 100}
    assert len(made["videos"]) == 2 and made["videos"][0]["runs"][0]["points"] >= 1000
    assert len(embedded(small)) < 20e6


def test_worst_is_what_alone_is_found_worst(data):
    folder, store, known = data
    truth = known.subset("test")
    run = results(api.load(folder / "run0", "cpu"), store, truth, protocol="activitynet", iou="0.5", at=0.5)
    for name in list(truth.videos)[:3]:
        alone = evaluate(run.detections[run.detections.video == run.detections.videos.index(name)],
                         truth.only([name]), iou="0.5")  # fmt: skip
        assert run.ap[name] == pytest.approx(alone.average_mAP)


@pytest.mark.parametrize("protocol", ["thumos", "release"])
def test_other_protocols(data, protocol):
    folder, store, known = data
    found = collect([folder / "run0"], store, known, device="cpu", protocol=protocol, iou="0.5")
    tree, detections = page_data(found, ""), found.results[0].detections
    errors = analyse_errors(
        detections, known.subset("test"), protocol=protocol, iou="0.5", timing=found.results[0].model.timing
    )
    kinds = np.sum([v["runs"][0]["kinds"] for v in tree["videos"]], axis=0)
    assert tree["protocol"] == protocol
    assert kinds.tolist() == [*errors.false_positives[0].tolist(), errors.true_positives[0], 0]


def test_long_curves_are_thinned():
    curve = [(i, float(i)) for i in range(1, 4001)]
    assert len(thinned(curve)) == 1000 and thinned(curve)[0] == (4, 2.5)
    assert thinned(curve, total=True)[0] == (4, 10.0)
    assert thinned([(1, None), *curve[1:]])[0] == (4, None)
    assert thinned(curve[:10]) == curve[:10]


def test_logs_that_are_none(data, tmp_path):
    folder, *_ = data
    shutil.copy(folder / "run0" / "config.yaml", tmp_path)
    (tmp_path / "log.jsonl").write_text('{"iteration": 1, "total": NaN}\n{"iteration": 2, "to')
    assert read_run(tmp_path).curves == {"total": [(1, None)]}
    (tmp_path / "log.jsonl").write_text('{"iteration": 1\n{"iteration": 2, "total": 1}\n')
    with pytest.raises(DataError, match="line 1 is not an entry"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="not a run's folder"):
        read_run(tmp_path / "none")


def test_commands(data, command, tmp_path):
    folder, *_ = data
    runs = [folder / "run0", folder / "run1"]
    given = ["--features", folder / "data/features.npz", "--annotations", folder / "data/annotations.json", "--quiet"]
    status, out, err = command("report", *runs, *given, "--device", "cpu", "--out", tmp_path / "r.html")
    assert status == 0 and f"report: {tmp_path / 'r.html'}" in out, err
    assert len(content(tmp_path / "r.html")["videos"]) > 0
    status, out, err = command("compare", *runs, *given, "--device", "cpu", "--out", tmp_path / "c.json")
    assert status == 0 and "train.seed" in out and "average mAP % over seeds [1], [2]" in out, err
    tree = json.loads((tmp_path / "c.json").read_text())
    assert tree["differences"] == {"train.seed": [0, 1]} and len(tree["metrics"]) == 2
    status, out, _ = command("compare", *runs)
    assert status == 0 and "iterations" in out and "mAP" not in out
    status, out, err = command("report", runs[0], "--out", tmp_path / "own.html", "--device", "cpu", "--quiet")
    assert status == 0, err  # what it was trained on
    assert len(content(tmp_path / "own.html")["videos"]) == len(content(tmp_path / "r.html")["videos"])
    (folder / "data").rename(folder / "moved")
    status, out, _ = command("report", runs[0], "--out", tmp_path / "s.html")
    (folder / "moved").rename(folder / "data")
    assert status == 0 and "no metrics and no videos" in out
    assert content(tmp_path / "s.html")["videos"] == []
    for wrong, said in (
        ([runs[0], runs[0]], "given twice"),
        ([runs[0], *given[:2]], "go together"),
        ([tmp_path], "config.yaml"),
        ([runs[0], "--out", runs[0] / "config.yaml"], "is the input"),
        ([runs[0], *given, "--subset", "none"], "no video of subset none"),
    ):
        status, _, err = command("report", *wrong)
        assert status == 2 and said in err and err.count("\n") == 1, err


def test_features_that_have_changed_are_refused(data):
    folder, store, _ = data
    trained = trained_on(folder / "run0")
    assert (trained.features, trained.annotations) == (folder / "data/features.npz", folder / "data/annotations.json")
    trained.check(store)
    name = next(iter(trained.lengths))
    with pytest.raises(DataError, match="but the run was trained on"):
        trained._replace(lengths={name: trained.lengths[name] + 1}).check(store)
    with pytest.raises(DataError, match="is not there"):
        trained._replace(lengths={"none": 3}).check(store)


def test_annotations_without_segments(data, tmp_path):
    folder, store, known = data
    weak = {n: {"subset": "test", "duration": v.duration, "labels": list(v.labels), "annotations": []}
            for n, v in known.subset("test").videos.items()}  # fmt: skip
    (tmp_path / "weak.json").write_text(json.dumps({"database": weak}))
    found = collect([folder / "run0"], store, load_annotations(tmp_path / "weak.json"), device="cpu")
    tree = page_data(found, "")
    assert "metrics" not in tree["runs"][0] and tree["runs"][0]["errors"] is None
    assert tree["videos"] and all(d[4] == -1 for v in tree["videos"] for d in v["runs"][0]["found"])


WATCH = """<script>
const said = [];
console.error = (...x) => said.push(String(x));
addEventListener("error", e => said.push(e.message));
addEventListener("securitypolicyviolation", e => said.push(e.violatedDirective));
</script>"""


def opened(page, tmp_path, script=""):
    """What a browser makes of the page after `script`, which fills `seen`; and the errors of its console."""
    act = (
        f"<script>{{\nconst seen = {{}};\ntry {{ {script} }} catch (e) {{ said.push(e.stack); }}\n"
        "const out = document.createElement('pre'); out.id = 'seen';"
        "out.textContent = JSON.stringify({seen, said}); document.body.append(out); }</script>"
    )
    text = page.read_text().replace("<head>", "<head>" + WATCH, 1).replace("</body>", act + "</body>", 1)
    copy = tmp_path / "watched.html"
    copy.write_text(text)
    call = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()]  # fmt: skip
    dom = subprocess.run(call, capture_output=True, text=True, timeout=180, check=True).stdout
    (made,) = re.findall(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    tree = json.loads(html.unescape(made))
    return dom, tree["seen"], tree["said"]


SCRIPT = """
const $ = id => document.getElementById(id);
const cards = () => [...document.querySelectorAll(".card")];
const set = (id, v) => { $(id).value = v; $(id).dispatchEvent(new Event("input", {bubbles: true})); };
seen.broken = document.body.id; seen.title = document.title;
seen.all = cards().length; seen.status = $("status").textContent;
seen.order = cards().map(c => c.dataset.name);
const one = cards()[0], ticks = () => [...one.querySelectorAll(".tick")].map(t => t.textContent);
seen.before = ticks(); seen.svgs = one.querySelectorAll(".tools + div svg").length;
one.querySelector(".tools button").click();
seen.after = ticks(); seen.range = [+one.dataset.from, +one.dataset.to];
const box = one.querySelector("svg").parentNode, r = one.querySelector("svg").getBoundingClientRect();
const at = (type, x) => box.dispatchEvent(new PointerEvent(type, {clientX: r.left + x * r.width, bubbles: true}));
at("pointerdown", 0.4); at("pointerup", 0.6);
seen.dragged = [+one.dataset.from, +one.dataset.to];
box.dispatchEvent(new MouseEvent("dblclick"));
seen.reset = [+one.dataset.from, +one.dataset.to];
set("class", "0"); seen.byClass = [$("status").textContent, cards().map(c => c.dataset.name)];
seen.lanes = [...new Set([...document.querySelectorAll(".bar title")].map(t => t.textContent.split(": ")[0]))];
set("class", ""); seen.kind = {};
for (const o of [...$("kind").options]) {
  set("kind", o.value);
  seen.kind[o.text] = [$("status").textContent, cards().map(c => c.dataset.name)];
}
set("kind", ""); set("least", "1e9"); set("class", "0"); seen.none = $("status").textContent;
"""


@needs_browser
def test_browser_opens_zooms_and_filters(page, tmp_path):
    _, seen, said = opened(page, tmp_path, SCRIPT)
    assert said == [] and seen["broken"] == "" and seen["title"] == EVIL
    tree = content(page)
    videos = {v["name"]: v for v in tree["videos"]}
    assert seen["all"] == min(20, len(videos)) and seen["status"] == f"{len(videos)} of {len(videos)} videos"
    quality = [np.mean([r["ap"] for r in videos[n]["runs"]]) for n in seen["order"]]
    assert quality == sorted(quality)  # worst first
    first = videos[seen["order"][0]]
    assert seen["range"] == pytest.approx([first["duration"] / 4, first["duration"] * 3 / 4])
    assert seen["before"] != seen["after"] and seen["svgs"] == 1
    assert seen["range"][0] < seen["dragged"][0] < seen["dragged"][1] < seen["range"][1]
    assert seen["reset"] == [0, first["duration"]]

    def holds(v, c):
        return any(t[0] == c for t in v["truth"]) or any(d[0] == c for r in v["runs"] for d in r["found"])

    def shows(found, wanted):
        """The status counts all, the first 20 are there."""
        status, names = found
        assert status == f"{len(wanted)} of {len(videos)} videos"
        assert set(names) <= wanted and len(names) == min(20, len(wanted))

    shows(seen["byClass"], {n for n, v in videos.items() if holds(v, 0)})
    assert set(seen["lanes"]) == {tree["classes"][0]}
    for k, kind in enumerate(KINDS):
        wanted = {n for n, v in videos.items() if any(r["kinds"][k] for r in v["runs"])}
        shows(seen["kind"][kind], wanted)
    lost = {n for n, v in videos.items() if any(any(r["missed"]) for r in v["runs"])}
    shows(seen["kind"]["missed instance"], lost)
    labelled = sum(any(t[0] == 0 for t in v["truth"]) or 0 in v["labels"] for v in videos.values())
    assert seen["none"].startswith(f"{labelled} of")


@needs_browser
def test_browser_opens_a_page_without_data(data, tmp_path):
    folder, *_ = data
    write_report(tmp_path / "r.html", collect([folder / "run0"]))
    dom, _, said = opened(tmp_path / "r.html", tmp_path)
    assert said == [] and "no metrics, no videos" in dom and "<svg" in dom
