"""Names of videos across files: which match, which nearly do, and which do not."""

from __future__ import annotations

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from d2net.data.files import DataError, some

T = TypeVar("T")

_MEDIA = r"mp4|avi|mkv|webm|mov|m4v|mpg|mpeg|flv|wmv|wav|flac|mp3|ogg|npy|npz|pt|pth|csv|h5|hdf5|pkl|json|txt"
_SUFFIX = re.compile(rf"\.(?:{_MEDIA})$")
_KIND = re.compile(r"[-_](?:i3d|c3d|tsn|tsp|slowfast|resnet|rgb|flow|joint|jointfeatures|features?|feats?)$")


def names_a_kind(name: str) -> bool:
    """Whether a name is that of a kind of feature, as `c3d` or `i3d_features`, and not a video's."""
    return _KIND.search(f"-{name.lower()}") is not None or name.lower() in ("data", "x", "array")


class NameWarning(UserWarning):
    """Names in one file that another does not have."""


def normalized(name: str) -> str:
    """Without folder, extension, `v_` prefix, kind of feature (`-I3D`, `_rgb`) and capitals."""
    name = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    before = None
    while name != before:
        before, name = name, _KIND.sub("", _SUFFIX.sub("", name)) or name
    return name.removeprefix("v_") or name


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that this one probably means."""
    wanted = normalized(name)
    for other in known:
        if normalized(other) == wanted:
            return other
    pool = known if len(known) <= 5000 else [k for k in known if k[:1] == name[:1]][:5000]
    close = difflib.get_close_matches(name, pool, n=1, cutoff=0.75)
    return close[0] if close else None


def hint(names: Iterable[str], known: Collection[str]) -> str:
    """`; nearest: 'v1.mp4' is like 'v1'`, or nothing."""
    pairs = [(name, near) for name in list(names)[:3] if (near := nearest(name, known)) is not None]
    return "; nearest: " + ", ".join(f"{a!r} is like {b!r}" for a, b in pairs) if pairs else ""


def aliases(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """{name: known name} of the names that are not known but match one to one once normalized."""
    names, known = dict.fromkeys(names), dict.fromkeys(known)
    strangers = [n for n in names if n not in known]
    if not strangers:
        return {}
    wanted = Counter(normalized(n) for n in names)
    there: dict[str, str] = {}
    for k in known:
        # Two known names that become one: no guess is made.
        key = normalized(k)
        there[key] = "" if key in there else k
    found = {n: there.get(normalized(n), "") for n in strangers if wanted[normalized(n)] == 1}
    return {n: k for n, k in found.items() if k and k not in names}


def matched(what: str, alias: Mapping[str, str], where: str = "") -> str:
    """That names were matched, with the first pair."""
    first = next(iter(alias))
    count = "1 name was" if len(alias) == 1 else f"{len(alias)} names were"
    example = ":" if len(alias) == 1 else ", such as"
    return f"{what}: {count} matched{f' to {where}' if where else ''}{example} {first!r} to {alias[first]!r}"


class Matched(NamedTuple, Generic[T]):
    """What was given by the names that are known, and what is to be said of the names."""

    values: dict[str, T]
    notes: list[str]


def match(given: Mapping[str, T], known: Collection[str], what: str, where: str) -> Matched[T]:
    """`given` keyed as in `known`; what does not match is counted and named in the notes.

    Names match exactly, or normalized where that is one to one.

    Args:
        what: what `given` holds, as "durations"; where: what `known` is, as "the features".

    Raises:
        DataError: not one name matches.
    """
    if not given or not known:
        return Matched(dict(given), [])
    notes = []
    alias = aliases(given, known)
    out = {alias.get(name, name): value for name, value in given.items()}
    lost = [name for name in given if alias.get(name, name) not in known]
    if len(lost) == len(given):
        raise DataError(
            f"{what}: none of its {len(lost)} names is among the {len(known)} of {where}: {some(lost)}, against "
            f"{some(list(known))}; use the same names{hint(lost, known)}"
        )
    if alias:
        notes.append(matched(what, alias, where))
    if lost:
        of = f"{len(lost)} of {len(given)} names are not in {where}"
        notes.append(f"{what}: {of} ({some(lost)}){hint(lost, known)}")
    return Matched(out, notes)


def warn(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note, NameWarning, stacklevel=3)
