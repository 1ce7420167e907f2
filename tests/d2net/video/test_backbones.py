"""Backbones of the user's: functions, and networks of other libraries where those are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from videos import clip_of

from d2net.cli import app
from d2net.data.features import open_features
from d2net.video.backbones import make_backbone
from d2net.video.backbones.named import needed_library
from d2net.video.backbones.network import WeightsError
from d2net.video.decode import Size
from d2net.video.extract import extract
from d2net.video.localize import backbone_of

OWN = """
import torch

def means(frames):
    assert frames.shape[1:] == (3, 4, 20, 20) and frames.dtype == torch.float32
    return torch.cat([frames.mean((2, 3, 4)), frames.std((2, 3, 4))], 1)
means.snippet_frames, means.stride, means.short, means.crop, means.fps = 4, 4, 24, 20, 10.0
means.mean, means.std = (0, 0, 0), (1, 1, 1)

def flows(frames, flow):
    assert flow.abs().max() <= 1
    return flow.mean((2, 3, 4)).numpy()
flows.flow, flows.short, flows.crop = "dis", 64, 0

def wrong(frames):
    return frames

network = torch.nn.Sequential(torch.nn.Conv3d(3, 5, 1), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_backbone", raising=False)
    return tmp_path


def test_functions_declare_what_they_read(own):
    made = make_backbone("my_backbone:means", device="cpu")
    assert made.width == 6 and made.spec.size == Size(24, 20) and (made.spec.fps, made.spec.stride) == (10, 4)
    video = clip_of(own / "v.mp4", 50)
    assert extract([video], own / "out", made, progress=False).done == ["v"]
    store = open_features(own / "out")
    assert store.lengths == {"v": 5} and store.stated == {"fps": 10.0, "stride": 4.0, "snippet_frames": 4.0}
    assert 0.3 < store["v"][:, :3].mean() < 0.7
    line = ["extract", "v.mp4", "--backbone", "my_backbone:flows", "--out", "flows", "--quiet", "--device", "cpu"]
    run = CliRunner().invoke(app, line)
    assert run.exit_code == 0, run.output
    flow = open_features("flows")["v"]
    # 2 of 96 pixels a frame to the right are 1.33 of 64, of at most 20.
    assert np.allclose(flow[:, 0], 2 * 64 / 96 / 20, atol=0.01) and np.allclose(flow[:, 1], 0, atol=0.01)
    assert make_backbone("my_backbone:network", device="cpu", short=16, crop=16).width == 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_backbone:none", "has no function none"),
        ("my_backbone:number", "has no function number"),
        ("no_such_module:f", "there is no module no_such_module"),
        ("my_backbone:wrong", r"must return floats \(1, d\) of frames \(1, 3, 16, 224, 224\)"),
        ("resnet50", "is unknown; use motion, i3d"),
        (":f", "is unknown"),
        ("torchvision:resnet18", "give its --weights, one file"),
        ("timm:resnet18", "give its --weights, one file"),
    ],
)
def test_what_is_no_backbone_is_said(own, name, says):
    with pytest.raises(ValueError, match=says):
        make_backbone(name, device="cpu")
    with pytest.raises(ValueError):
        make_backbone("my_backbone:means", weights=["x.pt"])


def test_a_checkpoint_imports_nothing(own):
    (own / "evil.py").write_text("raise SystemExit('imported')")
    identity = make_backbone("motion").identity() | {"backbone": "evil:f"}
    with pytest.raises(ValueError, match="is code or a folder: say --backbone too"):
        backbone_of(identity)
    with pytest.raises(ValueError, match="leave --backbone out"):
        backbone_of(identity, name="motion")
    again = make_backbone("my_backbone:means", device="cpu")
    assert backbone_of(again.identity(), name=again.name, device="cpu").identity() == again.identity()
    with pytest.raises(ValueError, match=r"its streams is .* but was"):
        backbone_of(again.identity() | {"streams": [["features", 7]]}, name=again.name, device="cpu")
    with pytest.raises(ValueError, match="give --backbone"):
        backbone_of(None)


def library(name):
    """It, or a skip with the reason."""
    try:
        return needed_library(name)
    except ImportError as error:
        pytest.skip(str(error))


def rows(made):
    rng = np.random.default_rng(0)
    side = made.spec.size.crop or made.spec.size.short
    frames = rng.integers(256, size=(2, 3, made.spec.snippet_frames, side, side)).astype(np.uint8)
    return frames, made(frames, None)


@pytest.mark.parametrize(("model", "width"), [("resnet18", 512), ("r3d_18", 512)])
def test_torchvision(tmp_path, model, width):
    torchvision = library("torchvision")
    network = torchvision.models.get_model(model, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    small = {"short": 32, "crop": 32, "snippet_frames": 4}
    made = make_backbone(f"torchvision:{model}", weights=[tmp_path / "w.pt"], device="cpu", **small)
    frames, found = rows(made)
    assert made.width == width and found.shape == (2, width)
    mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (made.spec.mean, made.spec.std))
    x = torch.from_numpy((frames[0] / 255 - mean) / std).float()
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network(x[None])[0] if model == "r3d_18" else network(x.transpose(0, 1)).mean(0)
    assert np.allclose(found[0], expected.numpy(), atol=1e-4)
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="lacks"):
        make_backbone(f"torchvision:{model}", weights=[tmp_path / "bad.pt"], device="cpu")


def test_timm(tmp_path):
    timm = library("timm")
    network = timm.create_model("resnet18", pretrained=False, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    made = make_backbone(
        "timm:resnet18", weights=[tmp_path / "w.pt"], device="cpu", short=32, crop=32, snippet_frames=2
    )
    frames, found = rows(made)
    mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (made.spec.mean, made.spec.std))
    x = torch.from_numpy((frames[0] / 255 - mean) / std).float().transpose(0, 1)
    network.reset_classifier(0)
    with torch.no_grad():
        assert np.allclose(found[0], network(x).mean(0).numpy(), atol=1e-4)


def test_transformers(tmp_path):
    transformers = library("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    network = transformers.VideoMAEModel(config).eval()
    network.save_pretrained(tmp_path / "model")
    made = make_backbone(f"transformers:{tmp_path / 'model'}", device="cpu")
    assert made.width == 24 and made.spec.snippet_frames == 4 and made.spec.size == Size(32, 32)
    frames, found = rows(made)
    mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (made.spec.mean, made.spec.std))
    x = torch.from_numpy((frames / 255 - mean) / std).float().transpose(1, 2)
    with torch.no_grad():
        assert np.allclose(found, network(x).last_hidden_state.mean(1).numpy(), atol=1e-4)
    with pytest.raises(ValueError, match=r"there is no .*config.json"):
        make_backbone(f"transformers:{tmp_path}", device="cpu")
