"""TensorBoard's event files, in the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2net.training.folder import EVENTS


def load() -> Any:
    """torch.utils.tensorboard; raises ImportError in one line."""
    try:
        from torch.utils import tensorboard
    except ImportError as error:
        raise ImportError(
            "--log tensorboard: the package tensorboard is not installed; pip install 'd2kernels[train]'"
        ) from error
    return tensorboard


class TensorBoard:
    """Event files are made anew from log.jsonl by each process: so a resumed run has no step twice, and none is
    missing that a killed process had not written out."""

    identity = ""

    def __init__(self, out: Path, _: str | None, config: Mapping[str, Any]):
        self.folder, self.config = out / EVENTS, config
        self.writer: Any = None

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        if self.writer is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.writer = load().SummaryWriter(str(self.folder), flush_secs=10)
            text = "\n".join(f"    {name}: {value}" for name, value in self.config.items())  # Markdown: as it is
            self.writer.add_text("configuration", text)
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, iteration)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
