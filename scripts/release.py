"""Says what changed in a version, for its release's page; refuses where its places disagree on it.

python scripts/release.py v0.2.0     exit status 1 and a line for each place that names another version
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_version(root: Path = ROOT) -> str:
    (found,) = re.findall(r'^__version__ = "(.+)"$', (root / "d2kernels/__init__.py").read_text(), re.MULTILINE)
    return found


def sections(changelog: str) -> dict[str, str]:
    """What changed, by version; the newest first, "Unreleased" among them."""
    parts = re.split(r"^## \[([^]]+)\].*\n", changelog, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def disagreements(version: str, root: Path = ROOT) -> list[str]:
    """What stands against releasing this version."""
    found = []
    if (has := package_version(root)) != version:
        found.append(f"d2kernels/__init__.py says {has}, not {version}")
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text():
        found.append(f"CITATION.cff has no line 'version: {version}'")
    changes = sections((root / "CHANGELOG.md").read_text())
    if not changes.get(version):
        found.append(f"CHANGELOG.md has no section [{version}] that says what changed")
    return found


def main() -> int:
    if len(sys.argv) != 2 or not re.fullmatch(r"v\d+\.\d+\.\d+", sys.argv[1]):
        raise SystemExit("release: give the tag, as v0.2.0")
    version = sys.argv[1].removeprefix("v")
    if against := disagreements(version):
        print("\n".join(f"release: {line}" for line in against), file=sys.stderr)
        return 1
    print(sections((ROOT / "CHANGELOG.md").read_text())[version])
    return 0


if __name__ == "__main__":
    sys.exit(main())
