#!/usr/bin/env bash
# gpu_check.sh OUT [--part N] [--dry-run]: builds, tests and measures on a machine with a GPU; see gpu_check.py.
#
# A part takes under 9 minutes; the first is useful alone. PYTHON: the interpreter whose environment has torch, Triton,
# pybind11, pytest and pytest-benchmark. Wheels in .whl/ are used beside it: what d2net needs and the machine lacks
# (scripts/gpu_wheels.sh fetches them elsewhere). Without them, what imports d2net is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

[[ -d /usr/local/cuda/bin ]] && ! command -v nvcc >/dev/null && export PATH=$PATH:/usr/local/cuda/bin

shopt -s nullglob
wheels=(.whl/*.whl)
if ((${#wheels[@]})); then
  site=$PWD/build/gpu_check/site
  mkdir -p "$site"
  if "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "${wheels[@]}" &&
    PYTHONPATH=$site "$python" -c 'import pydantic'; then
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  else
    echo "gpu_check: the wheels in .whl/ do not serve this Python; going on without d2net" >&2
  fi
fi
exec "$python" scripts/gpu_check.py "$@"
