"""d2net export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Option(help="A run's folder or a checkpoint file.")],
    out: Annotated[Path, typer.Option(help="The .onnx file.")],
) -> None:
    """Write a trained network as ONNX, to run without this package.

    Input `features` (snippets, width) of one video; outputs `activations` (snippets, classes) and `foreground`
    (snippets,). Needs the packages onnx and onnxscript.

    Example: d2net export --checkpoint run --out model.onnx
    """
    from d2net import api
    from d2net.data.files import check_outputs
    from d2net.export import export_onnx
    from d2net.training.folder import run_files

    check_outputs([out], run_files(checkpoint))
    print(f"written: {export_onnx(api.load(checkpoint, 'cpu'), out)}")
