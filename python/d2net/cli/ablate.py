"""d2net ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from d2net.cli.options import Device, Features, Quiet, Set, say, stoppable
from d2net.cli.reading import Data, Layout


def ablate(
    features: Features,
    annotations: Annotated[Path, typer.Option(help="ActivityNet-style JSON with the segments of the test subset.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, table.json and table.md.")],
    preset: Annotated[str | None, typer.Option(help="As for train.")] = None,
    recipe: Annotated[str | None, typer.Option(help="As for train.")] = None,
    rows: Annotated[str, typer.Option(help="Losses to compare, comma-separated.")] = "CE,F,Dis,Dis+D",
    methods: Annotated[
        str, typer.Option(help="Other methods to list beside them, comma-separated: wtalc, 3cnet, basnet.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. N-1.", min=1)] = 3,
    assignments: Set = None,
    device: Device = "auto",
    layout: Layout = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the folder's runs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder's runs.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train and score the rows of the paper's Table 3, over seeds, with the preset's and the recipe's decoder."""
    from d2net.auto import auto_config, wants_auto
    from d2net.config import make_config, parse_assignments
    from d2net.methods import METHODS
    from d2net.training.ablation import run_ablation

    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    given = parse_assignments(assignments or [])
    others = _others(methods, given)
    overrides = {k: v for k, v in given.items() if k.partition(".")[0] not in METHODS.values()}
    auto = wants_auto(preset, overrides, None)
    config = None if auto else make_config(preset, recipe, overrides)
    data = Data(layout, ("features", "annotations"), quiet)
    store, known = data.features(features), data.annotations(annotations)
    if config is None:
        config, said = auto_config(store, known, recipe, overrides)
        say("\n".join(f"auto: {choice}" for choice in said))
        of_methods = {m: auto_config(store, known, None, of).config for m, of in others.items()}
    else:
        of_methods = {m: make_config(preset, None, of) for m, of in others.items()}
    names = [row.strip() for row in rows.split(",")]
    with stoppable():
        print(run_ablation(store, known, out, config, names, seeds, device, resume, overwrite, not quiet, of_methods))


def _others(methods: str, overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The overrides of each method that was asked for, without those of losses that only d2net has.

    Raises:
        ValueError: an unknown method, or one twice.
    """
    from d2net.config import POOLING
    from d2net.methods import METHODS

    names = [name.strip() for name in methods.split(",") if name.strip()]
    there = [name for name in METHODS if name != "d2net"]
    if wrong := [name for name in names if name not in there or names.count(name) > 1]:
        raise ValueError(f"methods: {wrong[0]!r} is given twice, or is none of {', '.join(there)}")

    def used(field: str, folder: str) -> bool:
        section, _, name = field.partition(".")
        return (section != "loss" or name in POOLING) and (section == folder or section not in METHODS.values())

    return {
        name: {k: v for k, v in overrides.items() if used(k, METHODS[name])} | {"method": name, "recipe": "release"}
        for name in names
    }
