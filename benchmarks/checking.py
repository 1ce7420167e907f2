"""Whether an output is right, as `d2kernels.verify.compare` says it, whichever revision of d2kernels is timed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).resolve().parents[1] / "d2kernels/verify/compare.py"
_SPEC = importlib.util.spec_from_file_location("d2kernels_verify_compare", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
_compare = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_compare)
BANDS, bound, error, tensors = _compare.BANDS, _compare.bound, _compare.error, _compare.tensors
