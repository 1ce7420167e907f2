#!/usr/bin/env bash
# gpu_check.sh OUT: builds, tests and measures on a machine with a GPU, inside 8 minutes; writes OUT/gpu_check.json.
# PYTHON: the interpreter whose environment has torch, Triton, pybind11, pytest and pytest-benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" scripts/gpu_check.py "$@"
