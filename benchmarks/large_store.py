"""Peak memory and time of train, inspect, localize and evaluate on many made-up videos, in sparse files.

    python benchmarks/large_store.py [--videos 50000] [--snippets 500] [--width 2048] [--narrow 64] [--most 20]
    python benchmarks/large_store.py --files 1000000 [--most 0.5]

Training takes its first steps on files of `--width` (100 GB by default, a few hundred MB of it on the disk); what
reads everything does so on files of `--narrow`. Each command is a process of its own, once on a tenth of the videos and
once on all. Exits 1 where a command takes more than `--most` KiB for each video more: names, shapes and what is
written of a video are kept, its snippets are not.

With `--files` it is opening a folder of as many small .npy instead, links to a few, once without an index of it and
once with: seconds, processor seconds, and memory above what importing takes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = 20

TRAIN = """
import d2net
from d2net.config import make_config
from d2net.data.dataset import TrainingBatches
config = make_config(overrides={"train.subsets": ["train"], "train.iterations": 1, "train.cache_gigabytes": 0.25})
began = time.perf_counter()
store = d2net.open_features(folder + "/wide")
opened = time.perf_counter() - began
known = d2net.load_annotations(folder + "/annotations.json")
d2net.train(store, known, folder + "/run", config, progress=False, overwrite=True)
first = time.perf_counter() - began
names = list(known.subset(["train"]).videos)
batches = TrainingBatches(store, names, known.label_matrix(names), config.train, config.model.gap)
began, rows = time.perf_counter(), 0
for batch in batches.loader(0, 20, pin=False):
    rows += int(batch.lengths.sum())
read = rows / (time.perf_counter() - began)
config = config.model_copy(update={"train": config.train.model_copy(update={"iterations": 3})})
began = time.perf_counter()
d2net.train(store, known, folder + "/run", config, progress=False, resume=True)
step = (time.perf_counter() - began) / 2
done = f"opened in {opened:.1f} s, first step after {first:.1f} s; {read:,.0f} snippets/s are read, "
done += f"at most {rows / 20 / step:,.0f} snippets/s are trained on"
"""
INSPECT = """
from d2net.data.inspect import inspect_data
found = inspect_data(folder + "/narrow", folder + "/annotations.json")
done = f"{found.features['snippets']} snippets"
"""
LOCALIZE = """
import torch
import d2net
from d2net import api
from d2net.config import make_config
from d2net.methods.d2net.network import D2Net
config = make_config(overrides={"model.init_std": 0.2})
torch.manual_seed(0)
store = d2net.open_features(folder + "/narrow")
known = d2net.load_annotations(folder + "/annotations.json")
network = D2Net(store.width, len(known.classes), 1, config.model).eval()
network.reference.normal_()
model = api.Model(network, config, known.classes, d2net.Timing(snippet_seconds=0.64))
done = f"{d2net.localize_to(folder + '/found.json', model, store, top=5).detections} detections"
"""
CONVERT = """
from d2net.data.convert import convert
convert(folder + "/found.json", folder + "/found.npz", overwrite=True)
done = ""
"""
EVALUATE = """
import d2net
from d2net.evaluation import evaluate
found = d2net.load_detections(folder + "/found.{kind}")
read = time.perf_counter() - start
report = evaluate(found, d2net.load_annotations(folder + "/annotations.json"))
done = f"read in {read:.1f} s; {report.n_detections} detections, {report.n_instances} instances"
"""
COMMANDS = {
    "train": TRAIN,
    "inspect": INSPECT,
    "localize": LOCALIZE,
    "convert .json to .npz": CONVERT,
    "evaluate .json": EVALUATE.replace("{kind}", "json"),
    "evaluate .npz": EVALUATE.replace("{kind}", "npz"),
}
OPEN = """
import d2net
from d2net.data.features import folder as _, open_features
before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
store = open_features(folder + "/many")
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
done = f"{len(store)} videos, {cpu:.1f} s of the processor, {(after.ru_maxrss - before.ru_maxrss) / 1024:.0f} MiB more"
"""
MEASURED = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
folder, start = sys.argv[1], time.perf_counter()
{code}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start, done, sep="\\t")
"""


def make(folder: Path, videos: int, snippets: int, widths: dict[str, int]) -> None:
    """Arrays whose first row alone is not zero, and annotations."""
    rng = np.random.default_rng(0)
    database = {}
    for i in range(videos):
        rows, name = snippets + i % 7, f"video_{i:07}"
        segments = [{"segment": [a, a + 9.0], "label": f"c{(i + a) % CLASSES}"} for a in range(0, 60, 20)]
        database[name] = {"subset": "train", "duration_second": rows * 0.64, "annotations": segments}
        for kind, width in widths.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            head = io.BytesIO()
            described = {"descr": "<f2", "fortran_order": False, "shape": (rows, width)}
            np.lib.format.write_array_header_1_0(head, described)
            with open(folder / kind / f"{name}.npy", "wb") as file:
                file.write(head.getvalue() + rng.standard_normal(width).astype(np.float16).tobytes())
                file.truncate(len(head.getvalue()) + rows * width * 2)
    tree = {"classes": [f"c{c}" for c in range(CLASSES)], "snippet_seconds": 0.64, "database": database}
    (folder / "annotations.json").write_text(json.dumps(tree))


def link(folder: Path, files: int, kinds: int = 20) -> None:
    """Files of a folder `many`, links to arrays of a few lengths."""
    (folder / "many").mkdir(parents=True)
    for k in range(kinds):
        np.save(folder / f"{k}.npy", np.ones((3 + k, 16), np.float16))
    for i in range(files):
        os.link(folder / f"{i % kinds}.npy", folder / "many" / f"video_{i:07}.npy")


def measure(code: str, folder: Path) -> tuple[int, float, str]:
    """(peak KiB, seconds, what was done)."""
    command = [sys.executable, "-c", MEASURED.replace("{code}", code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    peak, seconds, said = done.stdout.rstrip("\n").split("\n")[-1].split("\t")
    return int(peak), float(seconds), said


def compare(name: str, code: str, folders: Sequence[tuple[int, Path]]) -> float:
    """Prints what a command takes on few and on many videos, and returns KiB for each video more."""
    (few, folder), (many, larger) = folders
    before, _, _ = measure(code, folder)
    peak, seconds, said = measure(code, larger)
    each = (peak - before) / (many - few)
    print(
        f"{name:22} {peak / 1024:6.0f} MiB, of {few} videos {before / 1024:.0f} MiB: {each:.2f} KiB a video; "
        f"{seconds:.1f} s; {said}",
        flush=True,
    )
    return each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=50_000)
    parser.add_argument("--snippets", type=int, default=500)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--narrow", type=int, default=64)
    parser.add_argument("--most", type=float, default=20.0, help="KiB a video")
    parser.add_argument("--files", type=int, help="of a folder to open, in place of the rest")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder by default")
    asked = parser.parse_args()
    base, worst = Path(tempfile.mkdtemp(dir=asked.folder)), 0.0
    widths = {"wide": asked.width, "narrow": asked.narrow}
    try:
        if asked.files:
            folders = [(count, base / str(count)) for count in (asked.files // 10, asked.files)]
            for count, folder in folders:
                link(folder, count)
            time.sleep(3)  # what has just changed is not indexed
            worst = max(compare(name, OPEN, folders) for name in ("open a folder", "open it again"))
            return int(worst > asked.most)
        counts = (asked.videos // 10, asked.videos)
        for count in counts:
            make(base / str(count), count, asked.snippets, widths)
        size = asked.videos * asked.snippets * 2 / 1e9
        held = ", ".join(f"{size * width:.1f} GB of width {width}" for width in widths.values())
        print(f"{asked.videos} videos of about {asked.snippets} snippets, float16: {held}", flush=True)
        for name in asked.commands:
            worst = max(worst, compare(name, COMMANDS[name], [(count, base / str(count)) for count in counts]))
    finally:
        shutil.rmtree(base)
    if worst > asked.most:
        print(f"more than {asked.most:g} KiB a video")
    return int(worst > asked.most)


if __name__ == "__main__":
    sys.exit(main())
