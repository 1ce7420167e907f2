#!/usr/bin/env bash
# gpu_wheels.sh [PYTHON_VERSION]: fetches pydantic's wheels into .whl/, for a GPU machine without a network (default 3.12).
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-3.12}
rm -rf .whl
platforms=()
for platform in manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${platform}_x86_64"); done
# pydantic names the one pydantic-core that fits it, so both come of one resolution.
"${PYTHON:-python3}" -m pip download -q --only-binary=:all: --python-version "$version" --implementation cp \
  "${platforms[@]}" -d .whl 'pydantic>=2'
ls .whl
