"""When a snippet is, as files of features say it: HDF5's attributes, safetensors' metadata, a timing.json elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from d2net.data.features.store import FeatureError
from d2net.data.files import shown
from d2net.ranges import LONGEST

FIELDS = ("fps", "stride", "snippet_frames", "snippet_seconds")
FILE = "timing.json"  # in a folder of arrays, and in an .npz


def timing_fields(path: str | os.PathLike, fields: Any) -> dict[str, float]:
    """The fields of a timing among others; numbers may be text, which is all that safetensors' metadata hold.

    Raises:
        FeatureError: a value that is no positive number; names the field.
    """
    if not isinstance(fields, Mapping):
        raise FeatureError(f"{path}: a timing is an object of {', '.join(FIELDS)}, got {shown(fields)}")
    found = {}
    for name in FIELDS:
        if (value := fields.get(name)) is None:
            continue
        try:
            number = 0.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = 0.0
        if not 0 < number <= LONGEST:
            raise FeatureError(f"{path}: {name} must be a positive number, got {shown(value)}; correct or remove it")
        found[name] = number
    return found


def timing_of_file(path: str | os.PathLike, tree: Any) -> dict[str, float]:
    """As timing_fields, of a timing.json, which states at least one.

    Raises:
        FeatureError: likewise, or it states none.
    """
    if not (found := timing_fields(path, tree)):
        raise FeatureError(f"{path}: it states none of {', '.join(FIELDS)}; state the timing, or remove the file")
    return found
