"""Annotations out of lists of events: DCASE's and sed_eval's tables, Audacity's label tracks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from d2net.data.events import NUMBERS, Event
from d2net.data.files import DataError

_KEYS = {"subset": "subset", "duration": "duration_second", "fps": "fps"}


def events_tree(path: str | os.PathLike, events: Iterable[Event]) -> dict[str, Any]:
    """Events as ActivityNet's annotation tree; columns subset, duration (seconds) and fps are the videos'.

    Scores are left aside. Other columns become the videos' other fields, as text.

    Raises:
        DataError: a video has two values of a field; names both.
    """
    database: dict[str, dict[str, Any]] = {}
    for event in events:
        entry = database.setdefault(event.video, {"annotations": [], "video_labels": []})
        if event.start is not None:
            entry["annotations"].append({"label": event.label, "segment": [event.start, event.end]})
        elif event.label is not None:
            entry["video_labels"].append(event.label)
        for name, text in event.others.items():
            key = _KEYS.get(name, name)
            value: str | float = float(text) if name in NUMBERS else text
            if key in ("annotations", "video_labels", "duration_second") and key == name:
                raise DataError(f"{event.where}: a column cannot be called {name!r} here; rename it")
            if entry.setdefault(key, value) != value:
                raise DataError(
                    f"{event.where}: {name} of video {event.video!r} is {value} here and {entry[key]} above"
                )
    if not database:
        raise DataError(f"{path}: no events in it")
    return {"database": database}
