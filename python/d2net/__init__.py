"""D2-Net: weakly-supervised temporal localization from videos or their features."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Config": "d2net.config",
    "make_config": "d2net.config",
    "load_config": "d2net.config",
    "Model": "d2net.api",
    "load": "d2net.api",
    "localize": "d2net.api",
    "localize_to": "d2net.api",
    "train": "d2net.api",
    "auto_config": "d2net.auto",
    "inspect_data": "d2net.data.inspect",
    "evaluate": "d2net.evaluation",
    "export_onnx": "d2net.export",
    "extract": "d2net.video.extract",
    "make_backbone": "d2net.video.backbones",
    "load_annotations": "d2net.data.annotations",
    "load_detections": "d2net.data.detections",
    "save_detections": "d2net.data.detections",
    "open_features": "d2net.data.features",
    "Timing": "d2net.timing",
}
__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    from d2net.api import Model as Model
    from d2net.api import load as load
    from d2net.api import localize as localize
    from d2net.api import localize_to as localize_to
    from d2net.api import train as train
    from d2net.auto import auto_config as auto_config
    from d2net.config import Config as Config
    from d2net.config import load_config as load_config
    from d2net.config import make_config as make_config
    from d2net.data.annotations import load_annotations as load_annotations
    from d2net.data.detections import load_detections as load_detections
    from d2net.data.detections import save_detections as save_detections
    from d2net.data.features import open_features as open_features
    from d2net.data.inspect import inspect_data as inspect_data
    from d2net.evaluation import evaluate as evaluate
    from d2net.export import export_onnx as export_onnx
    from d2net.timing import Timing as Timing
    from d2net.video.backbones import make_backbone as make_backbone
    from d2net.video.extract import extract as extract


def __getattr__(name: str) -> Any:
    # Loaded on first use: evaluation and data formats work without importing torch.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'd2net' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
