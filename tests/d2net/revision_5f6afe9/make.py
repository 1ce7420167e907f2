"""Run once with revision 5f6afe9's code: python make.py FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

import d2net
from d2net.config import make_config
from d2net.data.annotations import load_annotations

out = Path(sys.argv[1])
rng = np.random.default_rng(0)
features, database = {}, {}
for i in range(9):
    s = int(rng.integers(12, 31))
    x = rng.standard_normal((s, 8)) * 0.4
    c, a = i % 3, int(rng.integers(1, s - 8))
    x[a : a + 6, c] += 2
    x[a : a + 6, 4 + c] += 2
    features[f"v{i}"] = x.astype(np.float16)
    database[f"v{i}"] = {
        "subset": "train" if i < 6 else "test",
        "duration_second": round(s * 0.5, 2),
        "user": i // 2,
        "annotations": [{"label": "abc"[c], "segment": [a * 0.5, (a + 6) * 0.5]}],
    }
np.savez(out / "features.npz", **features)
tree = {"classes": ["a", "b", "c"], "streams": [[0, 4, "x"], [4, 8, "y"]], "database": database}
(out / "annotations.json").write_text(json.dumps(tree))
SETTINGS = {
    "train.subsets": ["train"],
    "train.learning_rate": 0.01,
    "train.batch_size": 4,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.max_snippets": 20,
    "loss.denoising_start": 2,
    "model.init_std": 0.3,
    "timing.snippet_seconds": 0.5,
    "train.evaluate_every": 4,
    "localize.keep_ratio": 1.0,
}
CASES = {
    "release": ("release", {}),
    "paper": ("paper", {}),
    "held_out": (
        "release",
        {
            "train.seed": 3,
            "train.holdout": 0.4,
            "train.holdout_by": "user",
            "train.selection": "cls_mAP",
            "model.dropout": 0.0,
        },
    ),
}
annotations = load_annotations(out / "annotations.json")
expected = {}
for name, (recipe, more) in CASES.items():

    def config(n, recipe=recipe, more=more):
        return make_config(recipe=recipe, overrides={**SETTINGS, **more, "train.iterations": n})

    run = out / name
    model = d2net.train(out / "features.npz", annotations, run, config(8), device="cpu", progress=False)
    for k, v in model.network.state_dict().items():
        expected[f"{name}.selected.{k}"] = v.numpy()
    found = d2net.localize(model, out / "features.npz", annotations=annotations, keep_activations=True)
    d = found.detections
    expected |= {f"{name}.found.{k}": np.asarray(getattr(d, k)) for k in ("video", "label", "start", "end", "score")}
    expected[f"{name}.p"] = found.p
    expected[f"{name}.T"] = np.concatenate([found.activations[v].classes for v in features])
    import shutil

    shutil.copytree(run, out / "again")
    d2net.train(out / "features.npz", annotations, out / "again", config(12), resume=True, device="cpu", progress=False)
    saved = torch.load(out / "again" / "checkpoint.pt", weights_only=True)
    for k, v in saved["model"].items():
        expected[f"{name}.resumed.{k}"] = v.numpy()
    shutil.rmtree(out / "again")
np.savez_compressed(out / "expected.npz", **expected)
for preset in ("thumos14", "activitynet12", "hapt"):
    make_config(preset).save(out / f"{preset}.yaml")
make_config("thumos14", "paper").save(out / "thumos14_paper.toml")
