"""Training from files, and a trained model that localizes: what the command line and scripts call."""

from d2net.api.inputs import Features
from d2net.api.localizing import Localized, localize
from d2net.api.localizing_to import Written, localize_to
from d2net.api.model import Model, ScoredVideo, load, pick_device
from d2net.api.single import stream_count, training_timing, training_videos
from d2net.api.training import train
from d2net.api.tuning import tune

__all__ = [
    "Features",
    "Localized",
    "Model",
    "ScoredVideo",
    "Written",
    "load",
    "localize",
    "localize_to",
    "pick_device",
    "stream_count",
    "train",
    "training_timing",
    "training_videos",
    "tune",
]
