"""A trained model: read from a checkpoint, asked for activations."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import d2kernels as d2k
from d2net.config import Config, decoder_from, from_dict
from d2net.localization.activations import network_activations
from d2net.methods.base import Network, method_named
from d2net.methods.ensemble import Ensemble
from d2net.timing import Timing
from d2net.training.checkpoint import CheckpointError, read_checkpoint, usable
from d2net.training.restarts import read_restarts


class ScoredVideo(NamedTuple):
    """One video's T (s, C), λ' (s,) and p (C,), float32."""

    classes: np.ndarray
    foreground: np.ndarray
    p: np.ndarray


@dataclass
class Model:
    """A trained network with what is needed to localize.

    Args:
        network: in evaluation mode; `network.width` is the features' width d.
        config: what it was trained with, and the decoder.
        classes: names of the C classes, in the order of activations.
        timing: when a snippet is; None where nothing said so.
        explicit_timing: the user stated the timing, so that it comes before what data say of themselves.
        extraction: the backbone and settings of the features that it was trained on, where those say so.
        held_out: videos of the training subsets that were not trained on.
        trained: those that were, where it is known.
    """

    network: Network | Ensemble
    config: Config
    classes: tuple[str, ...]
    timing: Timing | None
    explicit_timing: bool = True
    extraction: dict[str, Any] | None = None
    held_out: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def activations(self, features: np.ndarray) -> ScoredVideo:
        """T, λ' and p of one video; features: (s, d)."""
        features = np.asarray(features)
        check_array("features", features, self.network.width)
        a = network_activations(self.network, [features], self.config.train.precision)
        loss = self.config.loss
        p = d2k.topk_pool(a.classes, divisor=loss.pool_divisor, rounding=loss.pool_rounding)
        return ScoredVideo(a.classes.values.cpu().numpy(), a.foreground.cpu().numpy(), p[0].cpu().numpy())


def check_array(name: str, array: np.ndarray, width: int) -> None:
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0:
        raise ValueError(f"{name}: expected (s, {width}) with s of at least 1, got {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.nonzero(~np.isfinite(array).all(1))[0][0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity; extract it again or drop the video")


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" takes the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch sees no GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} was asked for, but torch sees {torch.cuda.device_count()} GPUs, from cuda:0")
    return device


def load(path: str | os.PathLike, device: str = "auto", *, config: str | os.PathLike | None = None) -> Model:
    """Reads a checkpoint file or a run's folder; nothing in it is executed.

    Of a folder: the checkpoint that train.selection chose, the last one by default; of restarts, the run that was
    chosen, or an average of all.

    Args:
        path: the file or folder.
        device: auto, cpu, cuda or cuda:N.
        config: a file whose fields of localize and evaluate come before the run's, as `tune` writes it.

    Raises:
        CheckpointError: missing, truncated, not a d2net checkpoint or not a whole one.
    """
    if (of := read_restarts(Path(path))) is not None:
        models = [load(folder, device, config=config) for folder in of.folders(Path(path))]
        networks = [m.network for m in models if not isinstance(m.network, Ensemble)]
        return models[0] if len(models) == 1 else replace(models[0], network=Ensemble(networks))
    saved = read_checkpoint(path, "cpu")
    with usable(path):
        settings = from_dict(saved["config"])
    if settings.train.selection != "last" and (best := Path(path) / "best.pt").exists():
        return load(best, device, config=config)
    with usable(path):
        if saved.get("iteration") == 0:
            raise CheckpointError(f"{path} holds a run that has not made a step; go on with --resume")
        settings = from_dict(saved["config"])
        classes = tuple(saved["classes"])
        network = method_named(settings.method).network(saved["width"], len(classes), saved["streams"], settings)
        network.load_state_dict(saved["model"])
        if wrong := [name for name, x in network.state_dict().items() if not x.isfinite().all()]:
            raise CheckpointError(f"{path} holds weights that are not finite ({wrong[0]}); train again")
        timing = Timing.from_dict(saved["timing"]) if saved["timing"] else None
        # Earlier revisions did not say.
        explicit = saved.get("timing_explicit", True)
        extraction = saved.get("extraction")
    own = decoder_from(config, settings) if config is not None else settings
    held_out = tuple(saved.get("held_out") or ())
    trained = tuple(saved["features"]["lengths"]) if "features" in saved else ()
    where = pick_device(device)
    return Model(network.to(where).eval(), own, classes, timing, explicit, extraction, held_out, trained)
