"""The class list that ActionFormer's and OpenTAD's `label_id` state."""

from __future__ import annotations

from typing import Any, NamedTuple

from d2net.data.files import shown


class Numbered(NamedTuple):
    """classes: labels in the order of their numbers, None where not all have one; note: a contradiction, in words.

    ids: the classes' numbers.
    """

    classes: list[str] | None
    note: str = ""
    ids: tuple[int, ...] = ()


def classes_by_id(database: dict[str, Any]) -> Numbered:
    """Labels in the order of their `label_id`, by which models and results number them.

    Where a label has two numbers, or two labels have one (as raw narrations of one class do), they say no order.
    """
    ids: dict[str, int] = {}
    labels: dict[int, str] = {}
    for name, entry in database.items():
        segments = entry.get("annotations") if isinstance(entry, dict) else None
        for segment in segments if isinstance(segments, list) else []:
            number = segment.get("label_id") if isinstance(segment, dict) else None
            if isinstance(number, bool) or not isinstance(number, int):
                return Numbered(None)
            label = str(segment.get("label", number))
            at = f"label_id {shown(number)} is {shown(label)} in video {name!r}"
            if ids.setdefault(label, number) != number:
                return Numbered(None, f"{at}, and {shown(label)} is {shown(ids[label])} before; classes go by name")
            if labels.setdefault(number, label) != label:
                return Numbered(None, f"{at}, and {shown(labels[number])} before; classes go by name")
    order = tuple(sorted(labels))
    return Numbered([labels[number] for number in order] or None, ids=order)
