"""d2net parity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2net.cli.options import Device


def parity(
    folder: Annotated[Path, typer.Argument(help="Folder of golden files (forward_*, losses_*, localize_*.npz).")],
    data: Annotated[Path | None, typer.Option(help="Annotation data; FOLDER/../data by default.")] = None,
    device: Device = "cpu",
) -> None:
    """Check this installation against stored outputs of the authors' code; exits 1 where one does not match."""
    from d2net.parity import main as check

    raise typer.Exit(check(folder, data=data, device=device))
