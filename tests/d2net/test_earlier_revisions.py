"""Checkpoints and configurations of revision 5f6afe9 load, localize as they did there, and resume."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

from d2net import api
from d2net.config import load_config
from d2net.data.annotations import load_annotations
from d2net.training.checkpoint import read_checkpoint
from d2net.training.errors import TrainingWarning

OLD = Path(__file__).parent / "revision_5f6afe9"
NUMBERS = ("ds_floor", "dv_atol", "ds_rtol", "learning_rate")
RUNS = ("release", "paper", "held_out")


@pytest.fixture(scope="module")
def expected():
    with np.load(OLD / "expected.npz") as z:
        return {k: z[k] for k in z.files}


def part(expected, prefix):
    return {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}


@pytest.mark.parametrize("run", RUNS)
def test_they_load_and_localize_identically(expected, run):
    model = api.load(OLD / run, "cpu")
    weights = model.network.state_dict()
    for name, value in part(expected, f"{run}.selected.").items():
        assert np.array_equal(weights[name].numpy(), value), name
    annotations = load_annotations(OLD / "annotations.json")
    found = api.localize(model, OLD / "features.npz", annotations=annotations, keep_activations=True)
    got = found.detections
    for name, value in part(expected, f"{run}.found.").items():
        assert np.allclose(getattr(got, name), value, rtol=1e-5, atol=1e-6), name
    assert np.allclose(found.p, expected[f"{run}.p"], rtol=1e-5)
    activations = np.concatenate([found.activations[v].classes for v in got.videos])
    assert np.allclose(activations, expected[f"{run}.T"], rtol=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_they_resume(expected, run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(OLD / run, out)
    config = load_config(out / "config.yaml")
    config.train.iterations = 12
    files = OLD / "features.npz", OLD / "annotations.json"
    with pytest.warns(TrainingWarning, match="of an earlier revision and tells nothing of the features' values"):
        api.train(*files, out, config, resume=True, device="cpu", progress=False)
    saved = read_checkpoint(out)
    assert saved["iteration"] == 12
    for name, value in part(expected, f"{run}.resumed.").items():
        difference = saved["model"][name].numpy() - value
        if config.model.dropout:  # its masks follow the layout of a batch; a step of Adam moves a weight by about lr
            assert name == "reference" or np.abs(difference).max() <= 4 * 2 * config.train.learning_rate, name
        else:
            assert np.linalg.norm(difference) <= 1e-4 * np.linalg.norm(value) + 1e-12, name


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("thumos14.yaml", "release"), ("activitynet12.yaml", "release"), ("hapt.yaml", "release"),
     ("thumos14_paper.toml", "paper")],
)  # fmt: skip
def test_configurations_load(name, recipe):
    config = load_config(OLD / name).model_dump()
    assert (config["preset"], config["recipe"]) == (name.split(".")[0].removesuffix("_paper"), recipe)
    text = (OLD / name).read_text()
    written = tomllib.loads(text) if name.endswith("toml") else yaml.safe_load(text)
    for section in ("model", "loss", "train", "localize", "evaluate", "timing"):
        for field, value in written[section].items():
            # YAML 1.1 reads 1e-05 as text; TOML has no null.
            value = None if value == "" else float(value) if field in NUMBERS and value is not None else value
            assert config[section][field] == value, field
