"""What all pictures share: colours, names, and how they are saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2net.data.files import write_atomically
from d2net.terminal import printable

# Okabe and Ito's, which people who do not tell red from green tell apart; without yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# As many as make 24 pairs with the colours before one comes again, so that a print in grey is legible too.
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
HATCHES = ("", "////", "....", "xxxx", "----")
MARKERS = "o^sDvP"
FORMATS = (".png", ".svg", ".pdf")
MOST_INCHES = 300  # of a picture's height: a PNG may have 65 535 rows

_RC = {
    "text.parse_math": False,  # a dollar sign in a name begins no formula
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "d2net",  # the same bytes on every run
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.2,
}


def color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def line(i: int) -> dict[str, Any]:
    """Colour and line style of the i-th of several curves."""
    # Shifted each time the colours come round: 6 and 4 have a common factor.
    return {"color": color(i), "linestyle": LINES[(i + i // 12) % len(LINES)]}


def hatch(i: int) -> str:
    return HATCHES[i % len(HATCHES)]


def is_picture(path: str | os.PathLike) -> bool:
    """Whether the name's ending is that of a picture."""
    return Path(path).suffix.lower() in FORMATS


def check_picture(path: str | os.PathLike) -> None:
    """Raises ValueError for another ending, ImportError where matplotlib is absent."""
    if not is_picture(path):
        raise ValueError(f"--out {path}: a picture's name ends in {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'd2kernels[plot]'") from error


@contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure of so many inches, drawn and to be saved within this context.

    Raises:
        ValueError: too high.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if height > MOST_INCHES:
        raise ValueError(f"the picture would be {height:.0f} inches high, of at most {MOST_INCHES}; give fewer videos")
    with matplotlib.rc_context(_RC):  # type: ignore[arg-type]
        yield Figure(figsize=(width, height), layout="constrained")


def save(path: str | os.PathLike, drawn: Any, dpi: int = 130) -> None:
    """Writes the figure in one step, the same bytes for the same picture; what a font lacks is said once."""
    kind = Path(path).suffix.lower()[1:]
    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_atomically(path, lambda file: drawn.savefig(file, format=kind, dpi=dpi, metadata=nothing[kind]))
    lacking = [w for w in caught if "missing from" in str(w.message)]
    for other in (w for w in caught if w not in lacking):
        warnings.warn(str(other.message), other.category, stacklevel=2)
    if lacking and kind != "svg":
        warnings.warn(
            "names have characters that the fonts here lack, shown as boxes; an .svg has them as text", stacklevel=2
        )


def shown(name: object, most: int = 40) -> str:
    """A name for a picture: on one line, and cut in the middle where it is long."""
    text = printable(str(name))
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"


def short_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """The last parts of each path that tell it from the others."""
    parts = [Path(p).resolve().parts for p in paths]
    depth = 1
    while depth < max(map(len, parts)) and len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return [shown(os.path.join(*p[-depth:])) for p in parts]


def left_out(count: int, what: str, more: str = "") -> str:
    """As "94 more classes are not shown"; empty where none is."""
    return f"{count} more {what} not shown{more}" if count else ""
