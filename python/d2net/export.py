"""A trained network as an ONNX file that runs without this package."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

import d2kernels as d2k
from d2kernels.export import decompositions
from d2net.api import Model
from d2net.data.files import replacing
from d2net.methods.base import Network, foreground_of
from d2net.methods.ensemble import Ensemble


class _OneVideo(nn.Module):
    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.ones_like(features[:, 0], dtype=torch.int64).sum()
        out = self.network(d2k.Ragged(features, torch.stack([torch.zeros_like(length), length])))
        return out.activations.values, foreground_of(self.network, out)


def export_onnx(model: Model, path: str | os.PathLike) -> Path:
    """Writes the network as ONNX: input features (s, d) float32 of one video, any s of at least 1.

    Outputs `activations` (s, C), T of Sec. 3, and `foreground` (s,), λ' of Eq. 8. The file's metadata hold the classes
    and the timing as JSON.

    Args:
        model: as `load` gives it.
        path: the .onnx file to write.

    Returns:
        the path.

    Raises:
        ImportError: the packages onnx and onnxscript are missing.
        ValueError: the model is an average of several networks.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"export: the package {package} is missing; pip install 'd2kernels[onnx]'")
    if isinstance(model.network, Ensemble):
        raise ValueError("export: this is an average of several networks; export one of its runs, as RUN/seed-0")
    network = _OneVideo(copy.deepcopy(model.network).cpu().float()).eval()
    example = torch.zeros(16, model.network.width, dtype=torch.float32)
    # The reference is what is exported: no compiled kernel exists where the file will run.
    with torch.no_grad(), warnings.catch_warnings(), d2k.backends.use("reference"):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        snippets = torch.export.Dim("snippets", min=1)
        program = torch.export.export(network, (example,), dynamic_shapes={"features": {0: snippets}})
        made = torch.onnx.export(
            program.run_decompositions(decompositions()),
            input_names=["features"],
            output_names=["activations", "foreground"],
            verbose=False,
        )
    assert made is not None
    timing = asdict(model.timing) if model.timing else None
    made.model.metadata_props.update(classes=json.dumps(list(model.classes)), timing=json.dumps(timing))
    with replacing(path) as temporary:
        made.save(temporary)
    return Path(path)
