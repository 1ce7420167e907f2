"""Checks the files that others' programs read against their published schemas: workflows, issue forms, the citation.

The schemas are those that check-jsonschema brings along: no network is needed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "github-workflows": sorted(ROOT.glob(".github/workflows/*.yml")),
    "github-issue-forms": [p for p in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")) if p.name != "config.yml"],
    "github-issue-config": [ROOT / ".github/ISSUE_TEMPLATE/config.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


def main() -> int:
    if importlib.util.find_spec("check_jsonschema") is None:
        raise SystemExit("schemas: check-jsonschema is not installed; pip install -c constraints.txt '.[dev]'")
    failed = 0
    for schema, files in FILES.items():
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
        failed |= subprocess.run(command).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
