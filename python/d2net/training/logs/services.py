"""Trackers that keep runs of their own: trackio's local store and Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

PROJECT = "d2net"


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"--log {name}: the package {name} is not installed; pip install {name}") from error


def load_trackio() -> Any:
    return _load("trackio")


def load_wandb() -> Any:
    return _load("wandb")


class Trackio:
    """A run of trackio's project d2net, or of TRACKIO_PROJECT's, named as the folder is."""

    def __init__(self, out: Path, identity: str | None, config: Mapping[str, Any]):
        self.identity = identity or f"{out.resolve().name}-{uuid.uuid4().hex[:8]}"
        self.run = load_trackio().init(
            project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
            name=self.identity,
            config=dict(config),
            resume="allow",
            embed=False,
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self) -> None:
        self.run.finish()


class WandB:
    """A run of W&B's project d2net, or of WANDB_PROJECT's; WANDB_MODE=offline keeps it in the folder."""

    def __init__(self, out: Path, identity: str | None, config: Mapping[str, Any]):
        wandb = load_wandb()
        self.identity = identity or uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self.identity,
            name=out.resolve().name,
            dir=str(out),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(console="off"),
        )

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=iteration)

    def close(self) -> None:
        self.run.finish()
