"""I3D: the paper's shapes layer by layer, the public checkpoints' keys, and the numbers of a plain implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from videos import clip_of

from d2net.data.features import open_features
from d2net.video.backbones import make_backbone
from d2net.video.backbones.i3d import InceptionI3d
from d2net.video.backbones.network import WeightsError
from d2net.video.extract import extract

# Channels, and the strides up to there of time and of space: figure 3 of the paper, and the table of GoogLeNet.
SHAPES = {
    "Conv3d_1a_7x7": (64, 2, 2),
    "MaxPool3d_2a_3x3": (64, 2, 4),
    "Conv3d_2b_1x1": (64, 2, 4),
    "Conv3d_2c_3x3": (192, 2, 4),
    "MaxPool3d_3a_3x3": (192, 2, 8),
    "Mixed_3b": (256, 2, 8),
    "Mixed_3c": (480, 2, 8),
    "MaxPool3d_4a_3x3": (480, 4, 16),
    "Mixed_4b": (512, 4, 16),
    "Mixed_4c": (512, 4, 16),
    "Mixed_4d": (512, 4, 16),
    "Mixed_4e": (528, 4, 16),
    "Mixed_4f": (832, 4, 16),
    "MaxPool3d_5a_2x2": (832, 8, 32),
    "Mixed_5b": (832, 8, 32),
    "Mixed_5c": (1024, 8, 32),
}


def random_network(channels: int = 3, seed: int = 0) -> InceptionI3d:
    """Weights that keep the variance, and statistics of batches that are not those of a fresh network."""
    torch.manual_seed(seed)
    network = InceptionI3d(channels).eval()
    with torch.no_grad():
        for name, x in network.named_parameters():
            if name.endswith("conv3d.weight"):
                x.normal_(0, math.sqrt(2 / x[0].numel()))
            else:
                x.uniform_(0.5, 1.5) if name.endswith("weight") else x.normal_(0, 0.2)
        for name, x in network.named_buffers():
            if name.endswith("running_mean"):
                x.normal_(0, 0.2)
            elif name.endswith("running_var"):
                x.uniform_(0.5, 2)
    return network


def public_keys() -> set[str]:
    """The keys of rgb_imagenet.pt, but for `logits` and counters."""
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    modules = ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"]
    units += [f"Mixed_{m}.{branch}" for m in modules for branch in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]
    kinds = ["conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    return {f"{unit}.{kind}" for unit in units for kind in kinds}


def plain(state: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """The same network in float64 NumPy: a window at a time, TensorFlow's SAME padding by its definition."""

    def windows(x, kernel, stride):
        outs = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
        pads = [max((o - 1) * s + k - n, 0) for o, s, k, n in zip(outs, stride, kernel, x.shape[2:], strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *((p // 2, p - p // 2) for p in pads)])
        for a, b, c in np.ndindex(*kernel):
            part = x[:, :, a:, b:, c:][:, :, :: stride[0], :: stride[1], :: stride[2]]
            yield (a, b, c), part[:, :, : outs[0], : outs[1], : outs[2]]

    def unit(name, x, stride=1):
        weight = state[f"{name}.conv3d.weight"]
        total = 0.0
        for (a, b, c), part in windows(x, weight.shape[2:], (stride,) * 3):
            total = total + np.einsum("oi,nithw->nothw", weight[:, :, a, b, c], part, optimize=True)
        mean, var, gain, bias = (
            state[f"{name}.bn.{k}"][None, :, None, None, None]
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((total - mean) / np.sqrt(var + 1e-3) * gain + bias, 0)

    def pool(x, kernel, stride):
        return np.max([part for _, part in windows(x, kernel, stride)], axis=0)

    def mixed(name, x):
        return np.concatenate(
            [
                unit(f"{name}.b0", x),
                unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                unit(f"{name}.b2b", unit(f"{name}.b2a", x)),
                unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            axis=1,
        )

    found = {}
    for name in SHAPES:
        if name.startswith("Mixed"):
            x = mixed(name, x)
        elif name.startswith("Conv"):
            x = unit(name, x, 2 if name == "Conv3d_1a_7x7" else 1)
        else:
            kernel, stride = {
                "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
                "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
                "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
                "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
            }[name]
            x = pool(x, kernel, stride)
        found[name] = x
    return found


@pytest.mark.parametrize("shape", [(64, 224, 224), (16, 224, 224), (9, 33, 50)])
def test_shapes_layer_by_layer(shape):
    """Without computing: on the meta device."""
    with torch.device("meta"):
        network = InceptionI3d()
        found = {name: tuple(x.shape) for name, x in network.layers(torch.empty(1, 3, *shape))}
    assert list(found) == list(SHAPES)
    for name, (channels, time, space) in SHAPES.items():
        expected = [shape[0] / time, shape[1] / space, shape[2] / space]
        assert found[name] == (1, channels, *map(math.ceil, expected)), name


@pytest.mark.parametrize(("channels", "shape"), [(3, (8, 32, 32)), (2, (5, 33, 41))])
def test_numbers_layer_by_layer(channels, shape):
    network = random_network(channels)
    x = torch.rand(1, channels, *shape) * 2 - 1
    state = {k: v.double().numpy() for k, v in network.state_dict().items()}
    expected = plain(state, x.double().numpy())
    with torch.no_grad():
        double = dict(network.double().layers(x.double()))
        single = dict(network.float().layers(x))
    for name, value in expected.items():
        size = np.linalg.norm(value)
        assert size > 0 and np.linalg.norm(double[name].numpy() - value) <= 1e-12 * size, name
        assert np.linalg.norm(single[name].numpy() - value) <= 1e-5 * size, name


def test_keys_are_the_public_checkpoints():
    state = InceptionI3d().state_dict()
    assert {k for k in state if not k.endswith("num_batches_tracked")} == public_keys()
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_5c.b2b.conv3d.weight"].shape == (128, 48, 3, 3, 3)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """As the public ones: with a classifier, the RGB one without counters."""
    folder = tmp_path_factory.mktemp("i3d")
    paths = [folder / "rgb.pt", folder / "flow.pt"]
    for path, channels in zip(paths, (3, 2), strict=True):
        state = random_network(channels).state_dict()
        state |= {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
        if channels == 3:
            state = {k: v for k, v in state.items() if "num_batches" not in k}
        torch.save(state, path)
    return paths


SMALL = {"short": 32, "crop": 32, "snippet_frames": 4, "stride": 4}


def test_two_streams_from_a_video(checkpoints, tmp_path):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "optflow"):
        pytest.skip("this OpenCV has no TV-L1; pip install 'd2kernels[video]'")
    videos = [clip_of(tmp_path / "a.mp4", 11), clip_of(tmp_path / "b.mp4", 6, seed=1)]
    made = make_backbone("i3d", weights=checkpoints, batch=2, device="cpu", **SMALL)
    assert made.streams == (("rgb", 1024), ("flow", 1024)) and made.spec.flow == "tv-l1"
    for out in ("one", "two"):
        assert not extract(videos, tmp_path / out, made, progress=False).failed
    store = open_features(tmp_path / "one")
    assert store.width == 2048 and store.lengths == {"a": 3, "b": 2}
    assert store.identity["weights"] == list(made.weights) and len(made.weights[0]) == 64
    for name in ("a", "b"):
        assert (tmp_path / "one" / f"{name}.npy").read_bytes() == (tmp_path / "two" / f"{name}.npy").read_bytes()
        x = store[name]
        assert x[:, :1024].std() > 0 and x[:, 1024:].std() > 0 and len(np.unique(x, axis=0)) == len(x)


def test_a_row_does_not_depend_on_its_batch(checkpoints):
    made = make_backbone("i3d", weights=checkpoints[:1], batch=3, device="cpu", **SMALL)
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(3, 3, 4, 32, 32)).astype(np.uint8)
    first = made(frames, None)
    again = made(np.stack([frames[2], np.zeros_like(frames[0]), frames[0]]), None)
    assert np.array_equal(first[[2, 0]], again[[0, 2]])
    expected = random_network()(torch.from_numpy(frames[:1]).float() / 127.5 - 1).mean((2, 3, 4))
    assert np.allclose(first[0], expected.detach().numpy()[0], rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_said(checkpoints, tmp_path):
    state = torch.load(checkpoints[0])
    cases = {
        "missing": {k: v for k, v in state.items() if not k.startswith("Mixed_5c.b0")},
        "extra": state | {"Mixed_6a.b0.conv3d.weight": torch.zeros(1)},
        "shape": state | {"Conv3d_2b_1x1.bn.bias": torch.zeros(3)},
        "finite": state | {"Conv3d_2b_1x1.bn.bias": torch.full((64,), float("nan"))},
        "list": [1, 2],
    }
    says = {
        "missing": "lacks 'Mixed_5c.b0.conv3d.weight' and 4 more",
        "extra": "holds 'Mixed_6a.b0.conv3d.weight'",
        "shape": r"Conv3d_2b_1x1.bn.bias is \(3,\), not \(64,\)",
        "finite": "not finite",
        "list": "no state dict",
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(WeightsError, match=says[name]) as error:
            make_backbone("i3d", weights=[tmp_path / f"{name}.pt"])
        assert name + ".pt" in str(error.value)
    with pytest.raises(WeightsError, match="Conv3d_1a_7x7"):
        make_backbone("i3d", weights=checkpoints[::-1])
    for weights in ([], [*checkpoints, checkpoints[0]]):
        with pytest.raises(ValueError, match="give --weights once"):
            make_backbone("i3d", weights=weights)
    with pytest.raises(WeightsError, match="no file"):
        make_backbone("i3d", weights=[tmp_path / "gone.pt"])
