"""Drop-in modules on ragged batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2kernels._arguments import choice, flag, number, whole
from d2kernels.ops.attention_pool import AttentionPool as Pooled
from d2kernels.ops.attention_pool import attention_pool, thresholds_of
from d2kernels.ops.foreground_score import foreground_score
from d2kernels.ops.temporal_conv import temporal_conv
from d2kernels.ops.topk_pool import topk_pool
from d2kernels.ragged import Ragged


class TemporalConv1d(nn.Module):
    """`temporal_conv` with parameters named, shaped and initialised as nn.Conv1d's; state dicts are exchangeable.

    Unlike nn.Conv1d, rows come as (time, channels) and sequences are ragged. Called with x, (total, in_channels) rows
    as the op takes them, it gives (total, out_channels) in the same form.

    Args:
        in_channels, out_channels, kernel_size, dilation, groups, bias, device, dtype: as nn.Conv1d; kernel_size is odd.
        negative_slope, residual: as the op.
        dropout: as the op, while training.

    Raises:
        ValueError, TypeError: a value that does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        negative_slope: float | None = None,
        residual: bool = False,
        dropout: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        in_channels = whole(name, "in_channels", in_channels)
        out_channels = whole(name, "out_channels", out_channels, 0)
        kernel_size, bias = whole(name, "kernel_size", kernel_size, 0), flag(name, "bias", bias)
        dilation, groups = whole(name, "dilation", dilation), whole(name, "groups", groups)
        if negative_slope is not None:
            negative_slope = number(name, "negative_slope", negative_slope)
        residual, dropout = flag(name, "residual", residual), number(name, "dropout", dropout, least=0, below=1)
        if kernel_size % 2 == 0:
            raise ValueError(f"TemporalConv1d: kernel_size must be odd, got {kernel_size}")
        if residual and in_channels != out_channels:
            raise ValueError(f"TemporalConv1d: residual needs equal channels, got {in_channels} and {out_channels}")
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups, bias=bias, device=device, dtype=dtype)
        self.weight, self.bias = conv.weight, conv.bias
        self.dilation, self.groups = dilation, groups
        self.negative_slope, self.residual, self.dropout = negative_slope, residual, dropout

    @classmethod
    def from_conv1d(
        cls, conv: nn.Conv1d, *, negative_slope: float | None = None, residual: bool = False, dropout: float = 0.0
    ) -> TemporalConv1d:
        """Shares the parameters of a length-preserving nn.Conv1d (stride 1, zero padding of dilation·(k − 1)/2)."""
        (k,), (dilation,), (stride,) = conv.kernel_size, conv.dilation, conv.stride
        keeps = conv.padding == "same" or conv.padding == (dilation * (k - 1) // 2,)
        if not isinstance(conv.weight, nn.Parameter):
            raise ValueError(f"TemporalConv1d.from_conv1d: a parametrized weight cannot be shared: {conv}")
        if stride != 1 or k % 2 == 0 or not keeps or conv.padding_mode != "zeros":
            raise ValueError(f"TemporalConv1d.from_conv1d: needs stride 1, odd kernel and 'same' zero padding: {conv}")
        new = cls(
            conv.in_channels,
            conv.out_channels,
            k,
            dilation=dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            negative_slope=negative_slope,
            residual=residual,
            dropout=dropout,
            device="meta",  # type: ignore[arg-type]
        )
        new.weight, new.bias = conv.weight, conv.bias
        return new.train(conv.training)

    def forward(
        self,
        x: Tensor | Ragged,
        *,
        offsets: Tensor | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | Ragged:
        return temporal_conv(
            x,
            self.weight,
            self.bias,
            dilation=self.dilation,
            groups=self.groups,
            negative_slope=self.negative_slope,
            residual=self.residual,
            dropout=self.dropout if self.training else 0.0,
            offsets=offsets,
            lengths=lengths,
            mask=mask,
        )

    def extra_repr(self) -> str:
        c_out, c_in, k = self.weight.shape
        text = f"{c_in * self.groups}, {c_out}, kernel_size={k}, dilation={self.dilation}, groups={self.groups}"
        if self.negative_slope is not None:
            text += f", negative_slope={self.negative_slope}"
        text += ", residual=True" if self.residual else ""
        return text + (f", dropout={self.dropout}" if self.dropout else "")


class TopkPool(nn.Module):
    """`topk_pool` with k = s / divisor.

    Args:
        divisor, rounding: as the op.

    Raises:
        ValueError, TypeError: a value that does not fit.
    """

    def __init__(self, divisor: int = 8, rounding: str = "ceil"):
        super().__init__()
        self.divisor = whole("TopkPool", "divisor", divisor)
        self.rounding = choice("TopkPool", "rounding", rounding, ("ceil", "floor"))

    def forward(
        self,
        scores: Tensor | Ragged,
        *,
        offsets: Tensor | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return topk_pool(
            scores, divisor=self.divisor, rounding=self.rounding, offsets=offsets, lengths=lengths, mask=mask
        )

    def extra_repr(self) -> str:
        return f"divisor={self.divisor}, rounding={self.rounding!r}"


class AttentionPool(nn.Module):
    """`attention_pool` with fixed thresholds.

    Args:
        threshold: one for all columns of the attention, or one each.
        inclusive, normalize: as the op.

    Raises:
        ValueError, TypeError: a value that does not fit.
    """

    def __init__(self, threshold: float | Sequence[float] = 0.5, inclusive: bool = False, normalize: bool = False):
        super().__init__()
        self.threshold = thresholds_of("AttentionPool", threshold)
        self.inclusive = flag("AttentionPool", "inclusive", inclusive)
        self.normalize = flag("AttentionPool", "normalize", normalize)

    def forward(
        self,
        x: Tensor | Ragged,
        attention: Tensor | Ragged,
        *,
        offsets: Tensor | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Pooled:
        return attention_pool(
            x,
            attention,
            threshold=self.threshold,
            inclusive=self.inclusive,
            normalize=self.normalize,
            offsets=offsets,
            lengths=lengths,
            mask=mask,
        )

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, inclusive={self.inclusive}, normalize={self.normalize}"


class ForegroundScore(nn.Module):
    """`foreground_score` against a background reference held as the buffer `reference` of shape (dim,), zeros at first.

    Args:
        dim: D of the rows.
        eps: as the op.
        device, dtype: of the buffer.

    Raises:
        ValueError, TypeError: a value that does not fit.
    """

    reference: Tensor

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-8,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dim = whole("ForegroundScore", "dim", dim)
        self.register_buffer("reference", torch.zeros(dim, device=device, dtype=dtype))
        self.eps = number("ForegroundScore", "eps", eps, least=0)

    def forward(
        self,
        x: Tensor | Ragged,
        *,
        offsets: Tensor | None = None,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | Ragged:
        return foreground_score(x, self.reference, eps=self.eps, offsets=offsets, lengths=lengths, mask=mask)

    def extra_repr(self) -> str:
        return f"{self.reference.shape[0]}, eps={self.eps}"
