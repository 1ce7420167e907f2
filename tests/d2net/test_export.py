"""export_onnx: the file computes what the network does, on any length, and says what its columns are."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import d2kernels as d2k
import d2net
from d2kernels.export import decompositions
from d2net.config import make_config
from d2net.methods.d2net.network import D2Net
from d2net.timing import Timing

CLASSES = ("run", "jump", "sit")


def trained(**model):
    torch.manual_seed(0)
    config = make_config("thumos14", overrides={f"model.{name}": value for name, value in model.items()})
    network = D2Net(12, len(CLASSES), 2, config.model).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    network.reference.copy_(torch.randn(6))
    return d2net.Model(network, config, CLASSES, Timing(fps=25, stride=16, snippet_frames=16))


def test_the_file_computes_what_the_network_does(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = trained(kernel_size=5, dilation=2, residual=True)
    path = d2net.export_onnx(made, tmp_path / "deep/model.onnx")
    session = onnxruntime.InferenceSession(str(path))
    for s in (1, 2, 7, 300):
        features = np.random.default_rng(s).standard_normal((s, 12), dtype=np.float32)
        activations, foreground = session.run(["activations", "foreground"], {"features": features})
        want = made.activations(features)
        np.testing.assert_allclose(activations, want.classes, atol=2e-6)
        np.testing.assert_allclose(foreground, want.foreground, atol=2e-6)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CLASSES)
    assert Timing(**json.loads(about["timing"])) == made.timing


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript is missing; pip install 'd2kernels\[onnx\]'"):
        d2net.export_onnx(trained(), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_ragged_batches_decompose_to_torch_alone():
    conv = d2k.nn.TemporalConv1d(4, 4, 3, negative_slope=0.2, residual=True)
    reference = torch.randn(4)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x, offsets):
            y = self.conv(x, offsets=offsets)
            return y, d2k.foreground_score(y, reference, offsets=offsets)

    def batch(*lengths):
        return torch.randn(sum(lengths), 4), torch.tensor([0, *np.cumsum(lengths)])

    shapes = {"x": {0: torch.export.Dim("total", min=2)}, "offsets": {0: torch.export.Dim("boundaries", min=3)}}
    program = torch.export.export(Network(), batch(3, 5), dynamic_shapes=shapes).run_decompositions(decompositions())
    assert not [n for n in program.graph.nodes if str(n.target).startswith("d2k")]
    for inputs in (batch(3, 5), batch(1, 40, 2)):
        torch.testing.assert_close(program.module()(*inputs), Network()(*inputs))
