"""The network on regenerated weights and input (forward_*.npz)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import d2kernels as d2k
from d2net.config import make_config
from d2net.data.files import DataError
from d2net.localization.activations import Activations, network_activations
from d2net.localization.decoding import reweighted
from d2net.methods.d2net.network import D2Net
from d2net.parity.checks import Case, Check, Golden, preset_of

CPU_TOLERANCE, GPU_TOLERANCE = 2e-5, 1e-4


def _arrays(meta: dict) -> dict[str, np.ndarray]:
    """Weights, input F and x_ref's noise, drawn in the golden files' order."""
    n, c, k, kc, s = (int(meta[key]) for key in ("n_feature", "C", "k", "classifier_k", "s"))
    conv, classifier = meta["conv_scale"], meta["cls_scale"]
    drawn = {
        "conv_weight": ((n, n // 2, k), conv),
        "conv_bias": ((n,), 0.2),
        "conv1_weight": ((n, n // 2, k), conv),
        "conv1_bias": ((n,), 0.2),
        "classifier_weight": ((2 * c, n // 2, kc), classifier),
        "classifier_bias": ((2 * c,), 0.5),
        "u": ((n,), 1.0),
        "noise": ((s, n), 0.5),
        "xref_noise": ((1, n // 2), 0.3),
    }
    random = np.random.RandomState(int(meta["seed"]))
    arrays = {
        name: random.standard_normal(shape).astype(np.float32) * np.float32(scale)
        for name, (shape, scale) in drawn.items()
    }
    wave = np.sin(2 * np.pi * np.arange(s) / meta["period"]).astype(np.float32)
    arrays["F"] = arrays["noise"] + wave[:, None] * arrays["u"]
    return arrays


def _digest(array: np.ndarray) -> np.ndarray:
    """[sum, sum of absolute values, first five values], float64."""
    wide = array.astype(np.float64)
    return np.concatenate([[wide.sum(), np.abs(wide).sum()], wide.ravel()[:5]])


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def check_forward(name: str, golden: Golden, device: torch.device) -> list[Check]:
    """tcam, embeddings, logits, λ' and R of one video in evaluation mode, float32."""
    case = Case(name)
    try:
        meta = json.loads(str(golden["meta"]))
        arrays = _arrays(meta)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{golden.path}: meta must be JSON text with the sizes and scales: {error!r}") from error
    for key, array in arrays.items():
        stored = golden[f"check_{key}"]
        # The order of summation may differ.
        scale = np.array([stored[1], stored[1], *np.ones(5)])
        case.compare(f"check_{key}", _digest(array) / scale, stored / scale, 1e-6, note="regenerated input")

    classes, width = int(meta["C"]), int(meta["n_feature"])
    config = make_config(preset_of(classes))
    network = D2Net(width, classes, 2, config.model).eval()
    x_ref = arrays["xref_noise"] - np.float32(0.5) * (arrays["u"][: width // 2] + arrays["u"][width // 2 :])
    case.compare("x_ref", x_ref, golden["x_ref"], 1e-6)
    state = {"reference": torch.from_numpy(x_ref[0])}
    for ours, theirs in {"conv1": "conv", "conv2": "conv1", "classifier": "classifier"}.items():
        state |= {f"{ours}.{p}": torch.from_numpy(arrays[f"{theirs}_{p}"]) for p in ("weight", "bias")}
    network.load_state_dict(state)
    network.to(device)

    tolerance = CPU_TOLERANCE if device.type == "cpu" else GPU_TOLERANCE
    with torch.no_grad(), _without_tf32():
        out = network(d2k.Ragged.pack([torch.from_numpy(arrays["F"]).to(device)]))
        found = network_activations(network, [arrays["F"]])
        refined = reweighted(Activations(found.classes, found.foreground), config.localize)
    logits = out.logits.values
    case.compare("logits_stream_first1024", logits[:, 0], golden["logits_stream_first1024"], tolerance)
    case.compare("logits_stream_last1024", logits[:, 1], golden["logits_stream_last1024"], tolerance)
    case.compare("embedding_mean", out.embeddings.values, golden["embedding_mean"], tolerance)
    case.compare("tcam", found.classes.values, golden["tcam"], tolerance)
    case.compare("lambda_prime", found.foreground, golden["lambda_prime"], tolerance)
    case.compare("R", refined.values, golden["R"], tolerance)
    return case.checks
