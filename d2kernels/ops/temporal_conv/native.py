"""temporal_conv on the CPU: by products of our own (products.py) where they serve, else by the library's convolution.

For the library all sequences lie in one buffer with dilation · (k - 1) / 2 zero rows after each, so that one
convolution over the buffer, channels last, is the convolution of every sequence alone. No padding is computed and no
taps are copied; rows with gaps wide enough are the buffer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2kernels import _native
from d2kernels.ops._rows import accumulation_dtype
from d2kernels.ops.temporal_conv import bits, products, reference
from d2kernels.ops.temporal_conv.dropout import drop, threshold
from d2kernels.ops.temporal_conv.reference import grouped_transpose
from d2kernels.ops.temporal_conv.schema import of_rows, of_rows_backward

_NEAR = 64  # rows: gaps up to this are always laid out
_SPARSE = 4  # times the rows there are, from which gaps wider than that are not worth it
_CHUNK = 1024  # rows whose taps are side by side at a time
NEEDS_EXTENSION = False  # read by d2kernels.backends


def why_not(device: str, dtype: torch.dtype | None) -> str | None:
    if device != "cpu":
        return "it has no kernel of its own there"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if dtype in (None, torch.float32, torch.bfloat16):
        return None
    return f"oneDNN has no {dtype} convolution"


class Layout(NamedTuple):
    """Where the rows of sequences go: buffer[target[i]] = x[source[i]]; both (rows of sequences,)."""

    source: Tensor
    target: Tensor
    size: int
    whole: bool  # x's rows are the buffer's
    outside: Tensor | None = None  # x's gap rows, where it is the buffer nevertheless

    def empty(self, total: int, reach: int) -> bool:
        """Whether there is nothing in it to speak of: no rows, or few among gaps that the arguments alone make wide."""
        return self.size == 0 or (reach > _NEAR and self.size > _SPARSE * total)

    def spread(self, x: Tensor, zero: bool = False) -> Tensor:
        """(size, c): x's rows with zero rows between the sequences; `zero` where x's gap rows are zero."""
        if self.whole:
            return x.contiguous() if zero or self.outside is None else x.index_fill(0, self.outside, 0)
        rows = x if len(self.source) == len(x) else x.index_select(0, self.source)
        return x.new_zeros((self.size, x.shape[1])).index_copy_(0, self.target, rows)

    def add(self, to: Tensor, x: Tensor) -> None:
        """Adds x to the rows of sequences, in place."""
        if len(self.source) == len(x):
            to.add_(x)
        else:
            for rows in self.source.split(bits.rows_at_a_time(x.shape[1])):
                to.index_add_(0, rows, x.index_select(0, rows))

    def gather(self, buffer: Tensor, total: int) -> Tensor:
        """(total, c): the buffer's rows in x's places, gap rows zero."""
        if self.whole:
            return buffer if self.outside is None else buffer.index_fill_(0, self.outside, 0)
        rows = buffer.index_select(0, self.target)
        if len(self.source) == total:
            return rows
        return buffer.new_zeros((total, buffer.shape[1])).index_copy_(0, self.source, rows)


def _seen(lengths: Tensor, kernel: int, dilation: int) -> int:
    """How many taps, about the middle one, see rows of any sequence; the others see padding alone."""
    reach = kernel // 2
    if reach * dilation <= _NEAR:
        return kernel
    longest = int(lengths.max()) if len(lengths) else 0
    return 2 * min(reach, max(longest - 1, 0) // dilation) + 1


def _middle(weight: Tensor, taps: int) -> Tensor:
    return weight.narrow(2, (weight.shape[2] - taps) // 2, taps)


def layout(offsets: Tensor, lengths: Tensor, total: int, pad: int, gap: int = 0) -> Layout:
    """Sequences `pad` zero rows apart, as they lie where `gap` is that wide."""
    first = offsets[:-1].clamp(0, total)
    lengths = torch.minimum(lengths.clamp(min=0), total - first)
    end = lengths.cumsum(0)
    kept = int(end[-1]) if len(end) else 0
    sequence = torch.repeat_interleave(lengths, output_size=kept)
    row = torch.arange(kept, device=offsets.device)
    source = row + (first - end + lengths)[sequence]
    if 0 < pad <= gap and kept:
        inside = torch.zeros(total, dtype=torch.bool, device=offsets.device).index_fill_(0, source, True)
        return Layout(source, source, total, True, inside.logical_not_().nonzero()[:, 0])
    # An empty sequence needs no gap.
    slot = torch.where(lengths > 0, lengths + pad, 0)
    target = row + (slot.cumsum(0) - slot - end + lengths)[sequence]
    size = int(target[-1]) + 1 if kept else 0
    return Layout(source, target, size, kept == total == size and bool((source == row).all()))


def _convolve(
    buffer: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, groups: int
) -> Tensor:
    """(size, c_out) of the buffer's rows, zero beyond both ends."""
    c_out, c_in, kernel = weight.shape
    if kernel == 1:
        # Few outputs make the library's convolution many times slower than a product.
        out = buffer.new_empty((len(buffer), c_out))
        split = c_out // groups
        for g in range(groups):
            part, w = buffer[:, g * c_in : (g + 1) * c_in], weight[g * split : (g + 1) * split, :, 0].t()
            to = out[:, g * split : (g + 1) * split]
            if bias is None:
                torch.mm(part, w, out=to)
            else:
                torch.addmm(bias[g * split : (g + 1) * split], part, w, out=to)
        return out
    # A 2-D convolution of height 1, since 1-D ones have no channels-last memory format.
    image = buffer.t()[None, :, None]
    across = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    padding = (0, dilation * (kernel // 2))
    return F.conv2d(image, across, bias, padding=padding, dilation=(1, dilation), groups=groups)[0, :, 0].t()


def _by_convolution(inner: Tensor, image: Tensor, kernel: int, dilation: int) -> Tensor:
    """(c_out, kernel, c_in): the product of inner (size, c_out) with image's taps as a convolution over c_in pixels.

    In float32 the library's convolutions reach rates that its products do not on every CPU.
    """
    size, c_in = image.shape
    out = image.new_zeros((inner.shape[1], kernel * c_in))
    for start in range(0, size, _CHUNK):
        rows = min(_CHUNK, size - start)
        taps = image.new_zeros((rows, kernel * c_in))
        for j in range(kernel):
            shift = (j - kernel // 2) * dilation
            low, high = max(start, -shift), min(start + rows, size - shift)
            if low < high:
                taps[low - start : high - start, j * c_in : (j + 1) * c_in] = image[low + shift : high + shift]
        across = inner[start : start + rows].t().contiguous()[:, :, None, None]
        out += F.conv2d(taps.view(1, rows, 1, -1), across)[0, :, 0]
    return out.view(-1, kernel, c_in)


def _weight_gradient(inner: Tensor, image: Tensor, weight: Tensor, dilation: int, groups: int) -> Tensor:
    grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
    (c_out, c_in, kernel), size = weight.shape, len(image)
    c_out //= groups
    for g in range(groups):
        of_out, of_in = inner[:, g * c_out : (g + 1) * c_out], image[:, g * c_in : (g + 1) * c_in]
        of_weight = grad[g * c_out : (g + 1) * c_out]
        if image.dtype == torch.float32 and kernel > 1 and min(c_out, c_in) >= 64 and size >= 256:
            of_weight.copy_(_by_convolution(of_out, of_in, kernel, dilation).transpose(1, 2))
            continue
        for j in range(kernel):
            shift = (j - kernel // 2) * dilation
            low, high = max(0, -shift), min(size, size - shift)
            product = of_out[low:high].t() @ of_in[low + shift : high + shift] if low < high else 0
            of_weight[:, :, j] = product
    return grad


def _bias_gradient(inner: Tensor) -> Tensor:
    """(c_out,): in parts, since a sum of 16-bit rows makes a float32 copy of them."""
    parts = inner.split(bits.rows_at_a_time(inner.shape[1]))
    sums = [part.sum(0, dtype=accumulation_dtype(inner.dtype)) for part in parts]
    return torch.stack(sums).sum(0).to(inner.dtype)


def _drop(x: Tensor, p: float, seed: Tensor | None, out: Tensor | None = None) -> Tensor:
    """`drop` into `out`, or a new tensor."""
    if p == 0:
        return x
    if _native.extension()[0] is None:
        return drop(x, p, seed)
    assert seed is not None
    out = x.new_empty(*x.shape) if out is None else out
    _native.module().dropout_cpu(
        x,
        _native.dtype_number(x.dtype),
        *x.shape,
        *seed.tolist(),
        threshold(p),
        1 / (1 - p),
        out,
        torch.get_num_threads(),
    )
    return out


def temporal_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    lengths: Tensor,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    gap: int = 0,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor | None]:
    total = x.shape[0]
    if products.serve(x, weight, dilation, groups):
        return products.forward(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, for_backward
        )
    if x.dim() == 3:
        return of_rows(temporal_conv_forward)(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, gap,
            for_backward,
        )
    taps = _seen(lengths, weight.shape[2], dilation)
    if taps < weight.shape[2]:
        middle = _middle(weight, taps)
        return temporal_conv_forward(
            x, middle, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, gap,
            for_backward,
        )
    reach = dilation * (weight.shape[2] // 2)
    places = layout(offsets, lengths, total, reach, gap)
    if places.empty(total, reach) or weight.numel() == 0:
        return reference.temporal_conv_forward(
            x, weight, bias, offsets, lengths, dilation, groups, negative_slope, residual, dropout, seed, gap,
            for_backward,
        )
    y = places.gather(_convolve(places.spread(x, gap > 0), weight, bias, dilation, groups), total).contiguous()
    sign = bits.pack((y if negative_slope is not None and for_backward else y[:0]) > 0)
    if negative_slope is not None:
        F.leaky_relu_(y, negative_slope)
    if residual:
        places.add(y, x)
    return _drop(y, dropout, seed, y), sign


def temporal_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    sign: Tensor | None,
    dilation: int,
    groups: int,
    negative_slope: float | None,
    residual: bool,
    dropout: float,
    seed: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    gap: int = 0,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    total, kernel = x.shape[0], weight.shape[2]
    if products.serve(x, weight, dilation, groups):
        return products.backward(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout, seed, need_x,
            need_weight, need_bias,
        )
    if x.dim() == 3:
        return of_rows_backward(temporal_conv_backward)(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout, seed, need_x,
            need_weight, need_bias, gap,
        )
    taps = _seen(lengths, kernel, dilation)
    if taps < kernel:
        grad_x, grad_w, grad_b = temporal_conv_backward(
            grad, x, _middle(weight, taps), offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout,
            seed, need_x, need_weight, need_bias, gap,
        )
        unseen = (kernel - taps) // 2
        return grad_x, F.pad(grad_w, (unseen, unseen)) if grad_w is not None and need_weight else grad_w, grad_b
    reach = dilation * (kernel // 2)
    places = layout(offsets, lengths, total, reach, gap)
    if places.empty(total, reach) or weight.numel() == 0:
        return reference.temporal_conv_backward(
            grad, x, weight, offsets, lengths, sign, dilation, groups, negative_slope, residual, dropout, seed,
            need_x, need_weight, need_bias,
        )
    grad = _drop(grad, dropout, seed)
    inner = grad if negative_slope is None else bits.before_activation(grad, sign, negative_slope)
    # Gap rows are zero in both buffers, so that no tap mixes sequences.
    inner = places.spread(inner)
    grad_x, grad_w, grad_b = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if need_weight:
        image = places.spread(x, gap > 0)
        grad_w = _weight_gradient(inner, image, weight, dilation, groups)
        if not math.isfinite(grad_w.sum()):
            # A gap's zero times infinity is no part of the gradient: taps by themselves, which have no gaps.
            packed = places.gather(inner, total)
            grad_w = reference.weight_gradient(packed, x, weight, offsets, lengths, dilation, groups)
        del image
    if need_bias:
        grad_b = _bias_gradient(inner)
    # After what needs more buffers beside the gradient's.
    if need_x:
        across = grouped_transpose(weight, groups)
        grad_x = places.gather(_convolve(inner, across, None, dilation, groups), total).contiguous()
        del inner
        if residual:
            places.add(grad_x, grad)
    return grad_x, grad_w, grad_b
