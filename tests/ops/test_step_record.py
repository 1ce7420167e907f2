"""step_record: native against the composition, on numbers that training should never see."""

from __future__ import annotations

import itertools

import pytest
import torch

import d2kernels as d2k
from d2kernels.ops.step_record import schema, step_record

INF, NAN = float("inf"), float("nan")
native_only = pytest.mark.skipif(not d2k.backends.can_run("step_record", "native"), reason="no compiled extension")


def books(backend, total=2.0, norm=3.0, bad=0.0, left_out=2, width=300):
    kept = torch.arange(width, dtype=torch.float32)
    reference = torch.linspace(-1, 1, width)
    reference[width // 2 :: width] += bad
    sums = torch.arange(7, dtype=torch.float32)
    terms = tuple(torch.tensor(x) for x in (total, 0.5, NAN, -INF))
    left_out = None if left_out is None else torch.tensor(left_out)
    with d2k.backends.use(backend, "step_record"):
        found = step_record(terms, torch.tensor(norm), left_out, reference, kept, sums)
    return found, kept, sums


@native_only
def test_native_equals_the_composition():
    for total, norm, bad, left_out in itertools.product((2.0, 0.0, NAN, INF), (3.0, NAN, INF), (0.0, INF), (None, 2)):
        got, want = (books(b, total, norm, bad, left_out) for b in ("native", "reference"))
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("backend", [pytest.param("native", marks=native_only), "reference"])
def test_by_hand(backend):
    found, kept, sums = books(backend)
    assert found == 0 and sums.tolist() == [2, 1.5, 2, 3, 7, 5, 8] and kept[-1] == 1
    for fields in ({"total": 0.0}, {"total": NAN}, {"norm": INF}):
        assert books(backend, **fields)[0] == 1
    assert books(backend, bad=NAN)[1].tolist() == list(range(300))


@native_only
def test_opcheck():
    x = torch.tensor(1.0)
    torch.library.opcheck(schema.step_record.op, (x, x, x, x, x, None, torch.ones(5), torch.zeros(5), torch.zeros(7)))


def test_says_what_is_wrong():
    x = torch.tensor(1.0)
    five, seven = torch.ones(5), torch.ones(7)
    for reference, kept, sums in ((five, five[:4], seven), (five, five, seven[:6]), (five.double(), five, seven)):
        with pytest.raises(ValueError, match=r"step_record: .* must be contiguous float32"):
            step_record((x, x, x, x), x, None, reference, kept, sums)
