"""Preset auto: a configuration from what the training videos are like, without a look at their segments."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from d2net.config import AUTO, Config, given_fields, make_config
from d2net.data.annotations import Annotations
from d2net.data.features import FeatureStore
from d2net.data.inspect.facts import gather
from d2net.data.inspect.recommend import Choice, recommend
from d2net.methods import settings_of
from d2net.timing import Timing


class Auto(NamedTuple):
    """The configuration, and which of its fields were chosen, with reasons."""

    config: Config
    choices: list[Choice]


def wants_auto(preset: str | None, overrides: dict[str, Any] | None, file: str | os.PathLike | None) -> bool:
    """Whether the preset that `make_config` would take of these is `auto`."""
    return (preset or given_fields(overrides, file).get("preset")) == AUTO


def auto_config(
    store: FeatureStore,
    annotations: Annotations,
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    file: str | os.PathLike | None = None,
) -> Auto:
    """`make_config` with the data in the preset's place: what the file and the overrides say comes before them.

    Reads a sample of the training videos' features, and of the annotations labels, durations and subsets alone. The
    configuration names no preset: it holds the fields, so that it can be trained with again as it is.

    Args:
        store: features, as `open_features` gives them.
        annotations: as `load_annotations` gives them.
        recipe, overrides, file: as `make_config` takes them; what they set is not chosen.

    Returns:
        config, the configuration; choices, each with its field, value and reason.

    Raises:
        ConfigError: as make_config.
        ValueError: no video of the training subset has features.
    """
    given = given_fields(overrides, file)
    stated = make_config(None, recipe, overrides, file, chosen={})
    timing = {k: v for k, v in stated.timing.model_dump().items() if v is not None and v is not False}
    facts = gather(
        store,
        annotations,
        subsets=stated.train.subsets if "train.subsets" in given else None,
        timing=Timing(**timing) if timing else None,
    )
    if not facts.videos:
        raise ValueError(
            f"preset auto: no video of subset {facts.training} of {annotations.source} has features in {store.source}; "
            "name the subset with --set train.subsets=[NAME], or look the data over with d2net inspect"
        )
    choices = [c for c in recommend(facts) if c.field not in given]
    config = make_config(None, recipe, overrides, file, chosen={c.field: c.value for c in choices})
    # What the method has in place of the data's choice is not said.
    return Auto(config, [c for c in choices if c.field not in settings_of(config.method, None)])
