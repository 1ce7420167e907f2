"""What the studies of training on annotated videos ask for on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(text: str | None) -> argparse.ArgumentParser:
    """A parser of `text`'s study: features, annotations, preset, folder and fields; the study adds its own."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True)
    parser.add_argument("--annotations", required=True)
    parser.add_argument("--preset", help="as for d2net train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], help="as for d2net train")
    return parser
