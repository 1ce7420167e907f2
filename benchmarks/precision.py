"""mAP of training in float32 and in bf16, by seed: python benchmarks/precision.py FEATURES ANNOTATIONS --preset hapt.

Each seed is trained in both precisions in turn, localized in float32 and scored on the test subset by the preset's
protocol and IoUs; a line as each run ends, then mean and deviation over the seeds, and of the paired difference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path

from d2net import api
from d2net.config import make_config, parse_assignments
from d2net.data.annotations import load_annotations
from d2net.data.features import open_features
from d2net.evaluation import evaluate

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="field=value")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    store, known = open_features(given.features), load_annotations(given.annotations)
    scores: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for seed in range(given.seeds):
        for precision in PRECISIONS:
            fields = parse_assignments(given.set) | {"train.seed": seed, "train.precision": precision}
            config = make_config(given.preset, overrides=fields)
            truth = known.subset(config.localize.subsets)
            with tempfile.TemporaryDirectory() as folder:
                model = api.train(store, known, Path(folder) / "run", config, device=given.device, progress=False)
                found = api.localize(model, store, annotations=truth, names=list(truth.videos), config=config.localize)
                report = evaluate(
                    found.detections, truth, protocol=config.evaluate.protocol, iou=config.evaluate.iou,
                    timing=model.timing,
                )  # fmt: skip
            scores[precision].append(100 * float(report.average_mAP))
            print(f"seed {seed}, {precision}: average mAP {scores[precision][-1]:.2f}", flush=True)
    for precision, values in scores.items():
        print(f"{precision}: {statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f}")
    apart = [b - a for a, b in zip(*scores.values(), strict=True)]
    print(f"bf16 - fp32, paired: {statistics.mean(apart):+.2f} ± {statistics.pstdev(apart):.2f}")


if __name__ == "__main__":
    main()
