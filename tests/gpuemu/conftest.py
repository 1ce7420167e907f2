"""Its tests are of compiled kernels: they are collected only where the plugin is loaded (README.md)."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("GPUEMU_TRITON") else ["launch_tests", "library_tests", "selftest"]
