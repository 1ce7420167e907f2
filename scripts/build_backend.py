"""setuptools' build backend, plus cmake and ninja from PyPI where something is to be compiled and they are missing."""

from __future__ import annotations

import os
import shutil
from typing import Any

import build_plan
from setuptools.build_meta import *  # noqa: F403


def _tools() -> list[str]:
    if os.environ.get("D2K_BUILD") == "none" or not build_plan.has_cxx():
        return []
    missing = [] if shutil.which("cmake") else ["cmake>=3.20"]
    if build_plan.builder(dict(os.environ)) is None:
        missing.append("ninja")
    return missing


# Not setuptools' own answer as well: it runs setup.py, which wants the tools that are still to be installed.
def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _tools()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _tools()
