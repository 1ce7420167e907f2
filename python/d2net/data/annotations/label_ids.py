"""The class list that ActionFormer's and OpenTAD's `label_id` state."""

from __future__ import annotations

from typing import Any

from d2net.data.files import DataError, shown


def classes_by_id(database: dict[str, Any]) -> list[str] | None:
    """Labels in the order of their `label_id`, by which models and results number them; None where some state none.

    Raises:
        DataError: a label has two numbers, or two labels have one.
    """
    ids: dict[str, int] = {}
    labels: dict[int, str] = {}
    for name, entry in database.items():
        segments = entry.get("annotations") if isinstance(entry, dict) else None
        for segment in segments if isinstance(segments, list) else []:
            number = segment.get("label_id") if isinstance(segment, dict) else None
            if isinstance(number, bool) or not isinstance(number, int):
                return None
            label = str(segment.get("label", number))
            if ids.setdefault(label, number) != number:
                raise DataError(
                    f"video {name!r}: label_id of {shown(label)} is {number} here, {ids[label]} elsewhere; correct it"
                )
            if labels.setdefault(number, label) != label:
                raise DataError(
                    f"video {name!r}: label_id {number} is {shown(label)} here and {shown(labels[number])} elsewhere; "
                    "correct it"
                )
    return [labels[number] for number in sorted(labels)] or None
