"""Ragged batches: sequences of different lengths packed along one row axis."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from d2kernels._arguments import FEW, listed, whole
from d2kernels._elementwise import Arithmetic
from d2kernels.ops._library import watched
from d2kernels.ops._rows import rows


def _values_can_be_checked(*tensors: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    for t in tensors:
        if t is None:
            continue
        if t.__class__ is not Tensor and isinstance(t, FakeTensor):
            return False
        if not t.is_cpu:
            return not t.is_meta and os.environ.get("D2K_CHECK") == "1"
    return True


def _index_vector(op: str, name: str, value: Any, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, device=device)
        value = value if value.numel() else value.long()
    if value.dtype not in (torch.int64, torch.int32) or value.dim() != 1:
        raise TypeError(f"{op}: {name} must be a 1-D int64 tensor, got {value.dtype} with shape {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{op}: {name} is on {value.device} but the values are on {device}; move it there")
    return (value if value.dtype == torch.int64 else value.long()).contiguous()


def _fits(total: int, offsets: Tensor, lengths: Tensor) -> bool:
    """Whether a few sequences lie one after the other within the rows; NumPy's first call takes longer than that."""
    at = listed(offsets)
    if at[0] < 0 or at[-1] > total:
        return False
    return all(0 <= size <= end - first for first, size, end in zip(at, listed(lengths), at[1:], strict=False))


def _check_layout(op: str, total: int, offsets: Tensor, lengths: Tensor) -> None:
    if len(lengths) <= FEW and _fits(total, offsets, lengths):
        return
    # NumPy: each of these costs a tenth of the torch op, and every batch comes through here.
    at, size = offsets.numpy(force=True), lengths.numpy(force=True)
    # Compared before they are subtracted: differences of numbers from anywhere wrap.
    if at[0] < 0 or at[-1] > total or (at[1:] < at[:-1]).any():
        few = len(at) <= 16
        got = at.tolist() if few else f"{len(at)} of them, {at[0]}..{at[-1]}"
        raise ValueError(
            f"{op}: offsets must rise from at least 0 to at most the {total} rows of the values, got {got}"
        )
    room = at[1:] - at[:-1]
    wrong = (size < 0) | (size > room)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"{op}: lengths[{i}] = {size[i]} does not fit the {room[i]} rows "
            f"between offsets[{i}] and offsets[{i + 1}]"
        )


def _check_gap(values: Tensor, offsets: Tensor, lengths: Tensor, gap: int) -> None:
    if gap == 0:
        return
    at, size = offsets.numpy(force=True)[:-1], lengths.numpy(force=True)
    first = np.append(at, values.shape[0])
    last = np.append(0, at + size)
    room = first - last
    if room.min() < gap:
        i = int(room.argmin())
        where = "before the first" if i == 0 else f"after sequence {i - 1}" if len(at) else "of an empty batch"
        raise ValueError(f"Ragged: gap is {gap}, but there are {room[i]} rows {where}; pack with gap={gap}")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(last, first, strict=True)])
    if values.index_select(0, torch.from_numpy(rows).to(values.device)).count_nonzero():
        raise ValueError(f"Ragged: gap is {gap}, but rows around the sequences are not zero; zero_gaps() makes them so")


def _check_max_length(what: str, max_length: int | None, lengths: Tensor) -> None:
    if max_length is not None and len(lengths) and max_length < int(lengths.max()):
        raise ValueError(f"{what} is {max_length}, but the longest sequence has {int(lengths.max())} rows")


class Ragged(Arithmetic):
    """n sequences in one tensor, mirroring torch's jagged layout.

    Sequence i is ``values[offsets[i] : offsets[i] + lengths[i]]``. Rows outside every sequence are gap rows;
    they are zero, so that a convolution's zero rows travel with the batch.

    Args:
        values: (total, ...), any dtype.
        offsets: (n + 1,) int64, non-decreasing, within [0, total].
        lengths: (n,) int64, at most ``offsets.diff()``, which is the default.
        max_length: an upper bound of the lengths known on the host, or None.
        gap: how many zero rows there are at least before, between and after the sequences; known on the host. A
            convolution whose taps reach no farther needs no mask and no copy.

    torch's elementwise functions (`torch.sigmoid`, `F.dropout`, …) and `+ - * / **` take it and give a Ragged of the
    same sequences, whose gap rows are zero again; other tensors broadcast within rows.

    All five are attributes that are read only, since they were checked together: `with_values` and a new Ragged give
    others.

    Raises:
        TypeError, ValueError: on shapes and dtypes always; on the values of offsets, lengths, max_length and gap
            where they are on the CPU or D2K_CHECK=1.
    """

    __slots__ = ("_gap", "_lengths", "_max_length", "_offsets", "_room", "_values")

    def __init__(
        self,
        values: Tensor,
        offsets: Tensor,
        lengths: Tensor | None = None,
        max_length: int | None = None,
        gap: int = 0,
    ):
        if not isinstance(values, Tensor) or values.dim() == 0:
            raise TypeError(f"Ragged: values must be a tensor of rows, got {type(values).__name__}")
        offsets = _index_vector("Ragged", "offsets", offsets, values.device)
        if offsets.numel() == 0:
            raise ValueError("Ragged: offsets must hold n + 1 entries, got none; an empty batch has offsets [0]")
        if lengths is None:
            lengths = offsets.diff()
        else:
            lengths = _index_vector("Ragged", "lengths", lengths, values.device)
            if lengths.numel() != offsets.numel() - 1:
                raise ValueError(
                    f"Ragged: {offsets.numel()} offsets make {offsets.numel() - 1} sequences, "
                    f"but lengths has {lengths.numel()} entries"
                )
        if max_length is not None:
            max_length = whole("Ragged", "max_length", max_length, 0)
        gap = whole("Ragged", "gap", gap, 0)
        if _values_can_be_checked(offsets, lengths):
            _check_layout("Ragged", values.shape[0], offsets, lengths)
            _check_max_length("Ragged: max_length", max_length, lengths)
            _check_gap(values, offsets, lengths, gap)
        self._values, self._offsets, self._lengths, self._max_length = values, offsets, lengths, max_length
        self._gap = self._room = gap

    @classmethod
    def _trusted(
        cls,
        values: Tensor,
        offsets: Tensor,
        lengths: Tensor,
        max_length: int | None = None,
        gap: int = 0,
        room: int | None = None,
    ) -> Ragged:
        """`room`: rows there are around sequences, whatever they hold; `gap` of them are zero."""
        self = object.__new__(cls)
        self._values, self._offsets, self._lengths, self._max_length = values, offsets, lengths, max_length
        self._gap, self._room = gap, gap if room is None else room
        return self

    @property
    def values(self) -> Tensor:
        return self._values

    @property
    def offsets(self) -> Tensor:
        return self._offsets

    @property
    def lengths(self) -> Tensor:
        return self._lengths

    @property
    def max_length(self) -> int | None:
        return self._max_length

    @property
    def gap(self) -> int:
        return self._gap

    def __len__(self) -> int:
        return self.lengths.shape[0]

    def __repr__(self) -> str:
        return (
            f"Ragged({len(self)} sequences, values {tuple(self.values.shape)} "
            f"{str(self.values.dtype).removeprefix('torch.')} on {self.values.device})"
        )

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def shape(self) -> torch.Size:
        """Shape of the packed values, (total, ...)."""
        return self.values.shape

    def with_values(self, values: Tensor) -> Ragged:
        """The same sequences around other rows; values: (total, ...). What lies in gap rows is not known: gap is 0."""
        if values.dim() == 0 or values.shape[0] != self.values.shape[0]:
            raise ValueError(
                f"Ragged.with_values: values must have {self.values.shape[0]} rows, got {tuple(values.shape)}"
            )
        return Ragged._trusted(values, self.offsets, self.lengths, self.max_length, room=self._room)

    def _aligned(self, op: str, other: Ragged) -> Tensor:
        """Another batch's rows, which must be of the same sequences."""
        return take(op, self).align("an argument", other)

    def sequence_index(self) -> Tensor:
        """(total,) int64: the sequence of each row; a gap row has that of a neighbour."""
        return rows(self.offsets, self.lengths, self.values.shape[0]).sequence

    def row_mask(self) -> Tensor:
        """(total,) bool: False on gap rows."""
        return rows(self.offsets, self.lengths, self.values.shape[0]).valid

    def zero_gaps(self) -> Ragged:
        """The same batch with its gap rows set to zero, whatever they hold."""
        keep = self.row_mask().view(-1, *[1] * (self.values.dim() - 1))
        values = self.values.masked_fill(~keep, 0)
        return Ragged._trusted(values, self.offsets, self.lengths, self.max_length, self._room)

    def to(self, *args, **kwargs) -> Ragged:
        """The batch on another device, or its values in another dtype, as ``Tensor.to``."""
        values = self.values.to(*args, **kwargs)
        offsets, lengths = self.offsets.to(values.device), self.lengths.to(values.device)
        return Ragged._trusted(values, offsets, lengths, self.max_length, self.gap, self._room)

    @staticmethod
    def pack(sequences: Sequence[Tensor], *, gap: int = 0) -> Ragged:
        """Packs a list of (s_i, ...) tensors, with `gap` zero rows before, between and after them."""
        gap = whole("Ragged.pack", "gap", gap, 0)
        if len(sequences) == 0:
            raise ValueError("Ragged.pack: got no sequences; for an empty batch use Ragged(values, offsets=[0])")
        first = sequences[0]
        for i, x in enumerate(sequences):
            if not isinstance(x, Tensor):
                raise TypeError(f"Ragged.pack: sequences[{i}] must be a tensor, got {type(x).__name__}")
            if x.dim() == 0 or x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
                raise ValueError(
                    f"Ragged.pack: sequences[{i}] is {x.dtype} {tuple(x.shape)}, "
                    f"but sequences[0] is {first.dtype} {tuple(first.shape)}; only their lengths may differ"
                )
        longest = max(len(x) for x in sequences)
        lengths = torch.tensor([len(x) for x in sequences], device="cpu")
        parts: list[Tensor] = []
        zeros = first.new_zeros((gap, *first.shape[1:]))
        for x in sequences:
            parts += [zeros, x] if gap else [x]
        values = torch.cat([*parts, zeros] if gap else parts)
        starts = torch.cat([lengths.new_zeros(1), (lengths + gap).cumsum(0)]) + gap
        starts, lengths = starts.to(values.device), lengths.to(values.device)
        return Ragged._trusted(values, starts, lengths, longest, gap)

    @staticmethod
    def from_padded(dense: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None) -> Ragged:
        """Views a dense (n, s, ...) batch as ragged without copying it; its padding becomes zeroed gap rows.

        Give exactly one of lengths (n,) or mask (n, s), True on each sequence's first rows.
        """
        form = take("Ragged.from_padded", dense, None, lengths, mask)
        return Ragged._trusted(form.values, form.offsets.clone(), form.lengths, form.max_length).zero_gaps()

    def padded(self, max_length: int | None = None, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """Dense copy (n, max_length, ...) and its mask (n, max_length); by default as long as the longest."""
        if max_length is not None:
            max_length = whole("Ragged.padded", "max_length", max_length, 0)
            if _values_can_be_checked(self.lengths):
                _check_max_length("Ragged.padded: max_length", max_length, self.lengths)
        if max_length is None:
            max_length = self.max_length
        if max_length is None:
            max_length = int(self.lengths.max()) if len(self) else 0
        column = torch.arange(max_length, device=self.device)
        mask = column < self.lengths[:, None]
        rows = (self.offsets[:-1, None] + column).clamp(max=max(self.values.shape[0] - 1, 0))
        if self.values.shape[0] == 0:
            dense = self.values.new_full((len(self), max_length, *self.values.shape[1:]), fill)
            return dense, mask
        dense = self.values[rows]
        return dense.masked_fill(~mask.view(*mask.shape, *[1] * (dense.dim() - 2)), fill), mask

    def unpack(self) -> list[Tensor]:
        """The sequences as views of the values."""
        starts, lengths = self.offsets.tolist(), self.lengths.tolist()
        return [self.values[a : a + s] for a, s in zip(starts, lengths, strict=False)]

    @staticmethod
    def from_nested(nested: Tensor) -> Ragged:
        """From a torch.nested tensor of layout torch.jagged whose ragged dimension is the first."""
        if not isinstance(nested, Tensor) or not nested.is_nested or nested.layout != torch.jagged:
            raise TypeError(f"Ragged.from_nested: expected a torch.jagged nested tensor, got {type(nested).__name__}")
        ragged_dim = [isinstance(s, int) for s in nested.shape].index(False)
        if ragged_dim != 1:
            raise ValueError(
                f"Ragged.from_nested: dimension 1 must be the ragged one, got {ragged_dim}; transpose first"
            )
        jagged: Any = nested
        ragged = Ragged(jagged.values(), jagged.offsets(), jagged.lengths())
        return ragged if jagged.lengths() is None else ragged.zero_gaps()

    def to_nested(self) -> Tensor:
        """As a torch.nested tensor of layout torch.jagged, sharing the values; waits for the device."""
        # More of torch works on a jagged tensor without lengths: left out where there are no gap rows.
        without_gaps = int(self.lengths.sum()) == self.values.shape[0]
        lengths = None if without_gaps else self.lengths
        return torch.nested.nested_tensor_from_jagged(self.values, self.offsets, lengths)


def _unflatten(children: Iterable[Any], known: Any) -> Ragged:
    values, offsets, lengths = children
    return Ragged._trusted(values, offsets, lengths, *known)


pytree.register_pytree_node(
    Ragged,
    lambda r: ([r.values, r.offsets, r.lengths], (r.max_length, r.gap, r._room)),
    _unflatten,
    serialized_type_name="d2kernels.Ragged",
)


class Form(NamedTuple):
    """An op's row input in packed form, and how to give row outputs back in the caller's form."""

    op: str
    values: Tensor
    offsets: Tensor
    lengths: Tensor
    max_length: int | None
    ragged: Ragged | None
    dense: tuple[int, int] | None

    def restore(self, values: Tensor) -> Tensor | Ragged:
        """Per-row output (total, ...), zero on gap rows, in the input's form: Ragged, packed or dense (n, s, ...)."""
        if self.ragged is not None:
            return Ragged._trusted(values, self.offsets, self.lengths, self.max_length, self.ragged._room)
        if self.dense is not None:
            return values.reshape(*self.dense, *values.shape[1:])
        return values

    def align(self, name: str, x: Tensor | Ragged, dim: int | None = None) -> Tensor:
        """A second per-row input in the same form, as packed rows of `dim` dimensions in all unless None."""
        if isinstance(x, Ragged):
            if x._offsets is self.offsets and x._lengths is self.lengths:
                pass
            elif x.offsets.device != self.offsets.device:
                raise ValueError(
                    f"{self.op}: {name} is on {x.offsets.device} but its other rows are on {self.offsets.device}; "
                    "move it there"
                )
            elif (
                _values_can_be_checked(x.offsets, self.offsets)
                and not (torch.equal(x.offsets, self.offsets) and torch.equal(x.lengths, self.lengths))
            ):
                raise ValueError(f"{self.op}: {name} is a Ragged of other sequences; both must share their offsets")
            x = x._values
        elif not isinstance(x, Tensor):
            raise TypeError(f"{self.op}: {name} must be a Ragged or a tensor, got {type(x).__name__}")
        elif self.dense is not None:
            if x.shape[:2] != self.dense or (dim is not None and x.dim() != dim + 1):
                dimensions = "" if dim is None else f" and {dim + 1} dimensions"
                raise ValueError(
                    f"{self.op}: {name} must be dense with leading shape {self.dense}{dimensions}, got {tuple(x.shape)}"
                )
            x = x.reshape(-1, *x.shape[2:])
        total = self.values.shape[0]
        if x.dim() == 0 or x.shape[0] != total or (dim is not None and x.dim() != dim):
            dimensions = "" if dim is None else f" and {dim} dimensions"
            raise ValueError(f"{self.op}: {name} must have {total} rows{dimensions}, got {tuple(x.shape)}")
        return x


def _offsets(n: int, s: int, device: torch.device | None) -> Tensor:
    """Where n sequences of s rows begin."""
    at_once = s != 0 and not torch.compiler.is_compiling()  # one operation in place of two
    return torch.arange(0, n * s + 1, s, device=device) if at_once else torch.arange(n + 1, device=device) * s


@lru_cache(maxsize=64)
def _kept_offsets(n: int, s: int) -> Tensor:
    """The same on the CPU, in a tensor that every call shares: nobody outside may get it."""
    with torch.inference_mode(False):
        return _offsets(n, s, torch.device("cpu"))


def take(
    op: str,
    x: Tensor | Ragged,
    offsets: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    flat: bool = True,
) -> Form:
    """Reads any of the three input forms: Ragged; packed rows + offsets (+ lengths); dense + lengths or mask.

    Dense x comes as packed rows unless `flat` is False.

    Raises:
        ValueError, TypeError: naming `op` and the argument that does not fit.
    """
    if isinstance(x, Ragged):
        if offsets is not None or lengths is not None or mask is not None:
            raise ValueError(f"{op}: a Ragged brings its own offsets; drop offsets, lengths and mask")
        return Form(op, x._values, x._offsets, x._lengths, x._max_length, x, None)
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: expected a Ragged or a tensor, got {type(x).__name__}")
    if offsets is not None:
        if mask is not None:
            raise ValueError(f"{op}: give offsets (packed rows) or mask (dense), not both")
        if x.dim() == 0:
            raise ValueError(f"{op}: packed rows need at least one dimension, got a scalar")
        offsets = _index_vector(op, "offsets", offsets, x.device)
        if offsets.numel() == 0:
            raise ValueError(f"{op}: offsets must hold n + 1 entries, got none; an empty batch has offsets [0]")
        given = lengths is not None
        lengths = _index_vector(op, "lengths", lengths, x.device) if given else offsets.diff()
        if lengths.numel() != offsets.numel() - 1:
            raise ValueError(
                f"{op}: {offsets.numel()} offsets make {offsets.numel() - 1} sequences, "
                f"but lengths has {lengths.numel()} entries"
            )
        if _values_can_be_checked(offsets, lengths):
            _check_layout(op, x.shape[0], offsets, lengths)
        return Form(op, x, offsets, lengths, None, None, None)
    if (lengths is None) == (mask is None):
        raise ValueError(
            f"{op}: a plain tensor needs offsets (packed rows), or exactly one of lengths and mask "
            f"(dense (n, s, ...)); got {'both' if mask is not None else 'none'}"
        )
    if x.dim() < 2:
        raise ValueError(f"{op}: a dense batch has at least 2 dimensions (n, s, ...), got {tuple(x.shape)}")
    n, s = x.shape[:2]
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"{op}: mask must be a bool tensor, got {type(mask).__name__}")
        if mask.dtype != torch.bool or mask.shape != (n, s):
            raise ValueError(f"{op}: mask must be bool with shape {(n, s)}, got {mask.dtype} {tuple(mask.shape)}")
        if mask.device != x.device:
            raise ValueError(f"{op}: mask is on {mask.device} but the values are on {x.device}; move it there")
        lengths = mask.sum(1)
        if _values_can_be_checked(mask) and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError(f"{op}: mask must be True on each sequence's first rows only; found a gap in it")
    else:
        lengths = _index_vector(op, "lengths", lengths, x.device)
        if lengths.numel() != n:
            raise ValueError(f"{op}: {n} dense sequences need {n} lengths, got {lengths.numel()}")
    few = n <= FEW
    offsets = _kept_offsets(n, s) if few and x.is_cpu and not watched() else _offsets(n, s, x.device)
    if n and _values_can_be_checked(lengths):
        if few:
            size = listed(lengths)
            shortest, longest = min(size), max(size)
        else:
            shortest, longest = (int(x) for x in torch.aminmax(lengths))
        # Only what is wrong is looked at again, to say what.
        if shortest < 0 or longest > s:
            _check_layout(op, n * s, offsets, lengths)
    return Form(op, x.reshape(n * s, *x.shape[2:]) if flat else x, offsets, lengths, s, None, (n, s))
