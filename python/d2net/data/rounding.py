"""Numbers of rows that batches are rounded up to on a GPU, so that few sizes occur."""

from __future__ import annotations

_LEAST = 64


def rounded(rows: int) -> int:
    """The next of sixteen steps between powers of two, at least 64 apart: less than a sixteenth beyond 1 024 rows."""
    step = max(_LEAST, 1 << max(0, (rows - 1).bit_length() - 5))
    return -(-rows // step) * step
