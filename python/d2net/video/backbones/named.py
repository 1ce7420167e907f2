"""Networks of torchvision, timm and transformers by name, with the user's weights."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from d2net.data.files import read_json
from d2net.video.backbones.base import Spec, changed
from d2net.video.backbones.network import NetworkBackbone, load_into

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
VIDEO_TYPES = ("videomae", "vivit", "timesformer", "vjepa2")


class Named(NetworkBackbone):
    """A network without its classifier. Networks of pictures see every frame, and their features are averaged.

    Weights are files that the user has; nothing is downloaded. transformers' models are folders, with their weights.

    Raises:
        ValueError: no such model, or no weights. ImportError: the library is missing.
    """

    def __init__(self, library: str, model: str, weights: Sequence[Path], device: str = "auto", **changes: Any):
        super().__init__(device)
        self.name = f"{library}:{model}"
        wanted = 0 if library == "transformers" else 1
        if len(weights) != wanted:
            how = "the folder holds its weights; leave --weights out" if not wanted else "give its --weights, one file"
            raise ValueError(f"backbone {self.name}: {how}")
        made = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[library]
        network, settings, self.kind, found = made(self.name, model, list(weights))
        self.network = network.to(self.device).eval()
        self.weights = tuple(found)
        self.spec = changed(Spec(), settings | changes)
        if self.spec.flow is not None:
            raise ValueError(f"backbone {self.name} reads no flow; leave --flow out")
        side = self.spec.size.crop or self.spec.size.short
        empty = np.zeros((1, 3, self.spec.snippet_frames, side, side), np.uint8)
        self.streams = (("rgb", self(empty, None).shape[1]),)

    def forward(self, frames: torch.Tensor, flow: torch.Tensor | None) -> torch.Tensor:
        if self.kind == "video":
            return _flat(self.network(frames))
        if self.kind == "video, time first":
            return _flat(self.network(frames.transpose(1, 2)))
        n, _, length = frames.shape[:3]
        each = _flat(self.network(frames.transpose(1, 2).flatten(0, 1)))
        return each.view(n, length, -1).mean(1)


def _flat(found: Any) -> torch.Tensor:
    """(n, d) of a network's output: pooled where it says so, else averaged over what is between."""
    if isinstance(found, torch.Tensor):
        return found.flatten(2).mean(2) if found.ndim > 2 else found
    if (pooled := getattr(found, "pooler_output", None)) is not None:
        return pooled.flatten(1)
    last = found.last_hidden_state
    return last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2)  # tokens, or a map


Made = tuple[nn.Module, dict[str, Any], str, list[str]]


def _torchvision(name: str, model: str, weights: list[Path]) -> Made:
    models = needed_library("torchvision").models
    if model not in models.list_models():
        raise ValueError(f"backbone {name}: torchvision has no model of that name")
    network = models.get_model(model, weights=None)
    found = load_into(network, weights[0], lambda key: False)
    for head in ("fc", "classifier", "head", "heads"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
    settings: dict[str, Any] = dict(IMAGENET)
    preset = models.get_model_weights(model).DEFAULT.transforms()  # of their own training; no weights are fetched
    size = [np.ravel(getattr(preset, k))[-1] if getattr(preset, k, None) else 224 for k in ("resize_size", "crop_size")]
    settings |= {"short": int(max(size)), "crop": int(size[1])}
    settings |= {k: tuple(getattr(preset, k)) for k in ("mean", "std") if getattr(preset, k, None) is not None}
    return network, settings, "video" if ".video." in type(network).__module__ else "pictures", [found]


def _timm(name: str, model: str, weights: list[Path]) -> Made:
    timm = needed_library("timm")
    if not timm.is_model(model):
        raise ValueError(f"backbone {name}: timm has no model of that name")
    network = timm.create_model(model, pretrained=False, num_classes=0)
    config = timm.data.resolve_model_data_config(network)
    heads = network.default_cfg.get("classifier", "head")
    heads = tuple(f"{h}." for h in ([heads] if isinstance(heads, str) else heads))
    found = load_into(network, weights[0], lambda key: key.startswith(heads))
    crop = config["input_size"][-1]
    short = round(crop / config["crop_pct"])
    settings = {"short": short, "crop": crop, "mean": tuple(config["mean"]), "std": tuple(config["std"])}
    return network, settings, "pictures", [found]


def _transformers(name: str, model: str, weights: list[Path]) -> Made:
    library = needed_library("transformers")
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"backbone {name}: there is no {folder / 'config.json'}; download the model and give its folder"
        )
    network = library.AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    settings: dict[str, Any] = dict(IMAGENET)
    if (processor := folder / "preprocessor_config.json").is_file():
        said = read_json(processor)
        settings |= {k: tuple(said[f"image_{k}"]) for k in ("mean", "std") if said.get(f"image_{k}")}
    side = getattr(network.config, "image_size", 224)
    side = int(side if isinstance(side, int) else side[-1])
    settings |= {"short": side, "crop": side}
    video = network.config.model_type in VIDEO_TYPES
    if video and isinstance(length := getattr(network.config, "num_frames", None), int):
        settings |= {"snippet_frames": length, "stride": length}
    return network, settings, "video, time first" if video else "pictures", [state_digest(network)]


def state_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights in the order of their names."""
    total = hashlib.sha256()
    for key, x in sorted(network.state_dict().items()):
        total.update(f"{key} {x.dtype} {tuple(x.shape)}".encode())
        total.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.ndim else str(x).encode())
    return total.hexdigest()


def needed_library(library: str) -> Any:
    """An installed library that backbones come from."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ImportError(f"backbone: the package {error.name} is missing; pip install {error.name}") from error
    except Exception as error:  # as of a torchvision that was built for another torch
        reason = " ".join(str(error).split())[:200]
        raise ImportError(
            f"backbone: {library} is installed but does not load ({reason}); install one that fits"
        ) from error
