"""The compiled extension; a problem is the tuple that native.py makes, streams are integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

has_cuda: bool
cuda_archs: str

_Pointer = int | Tensor | None  # an address; a tensor, copied first where it is not row-major; None, null
_Problem = tuple[Any, ...]

def connected_components_count_cpu(problem: _Problem, positions: _Pointer, threads: int, /) -> int: ...
def connected_components_fill_cpu(
    problem: _Problem, positions: _Pointer, out: _Pointer, size: int, threads: int, /
) -> None: ...

_Topk = tuple[Any, ...]
_Pool = tuple[Any, ...]
_Score = tuple[Any, ...]

def topk_pool_cpu(
    problem: _Topk, mean: _Pointer, threshold: _Pointer, above: _Pointer, tied: _Pointer, threads: int, /
) -> None: ...
def topk_pool_backward_cpu(
    problem: _Topk,
    grad: _Pointer,
    threshold: _Pointer,
    above: _Pointer,
    tied: _Pointer,
    grad_scores: _Pointer,
    threads: int,
    /,
) -> None: ...
def topk_indices_cpu(problem: tuple[Any, ...], indices: _Pointer, threads: int, /) -> None: ...
def attention_pool_cpu(problem: _Pool, embedding: _Pointer, mass: _Pointer, threads: int, /) -> None: ...
def attention_pool_backward_cpu(
    problem: _Pool,
    grad: _Pointer,
    grad_mass: _Pointer,
    mass: _Pointer,
    grad_x: _Pointer,
    grad_attention: _Pointer,
    threads: int,
    /,
) -> None: ...
def dropout_cpu(
    x: int,
    dtype: int,
    rows: int,
    channels: int,
    seed: int,
    first_row: int,
    threshold: int,
    scale: float,
    y: int,
    threads: int,
    /,
) -> None: ...

_Convolution = tuple[Any, ...]
_Dropout = tuple[int, int, int, float]

def convolves_cpu() -> bool: ...
def temporal_conv_cpu(
    shape: _Convolution,
    x: int,
    x_stride: int,
    weight: _Pointer,
    bias: _Pointer,
    slope: float | None,
    residual: bool,
    dropout: _Dropout,
    out: _Pointer,
    sign: _Pointer,
    threads: int,
    /,
) -> None: ...
def temporal_conv_backward_cpu(
    shape: _Convolution,
    grad: _Pointer,
    grad_stride: int,
    sign: _Pointer,
    negative_slope: float | None,
    residual: bool,
    dropout: _Dropout,
    x: int,
    x_stride: int,
    weight: _Pointer,
    inner: _Pointer,
    grad_x: _Pointer,
    grad_weight: _Pointer,
    grad_bias: _Pointer,
    threads: int,
    /,
) -> None: ...
def foreground_score_cpu(problem: _Score, score: _Pointer, threads: int, /) -> None: ...
def foreground_score_backward_cpu(
    problem: _Score, grad: _Pointer, grad_x: _Pointer, grad_reference: _Pointer, threads: int, /
) -> None: ...
def lowest_attention_cpu(
    attention: _Pointer,
    dtype: int,
    total: int,
    offsets: _Pointer,
    lengths: _Pointer,
    sequences: int,
    place: _Pointer,
    threads: int,
    /,
) -> None: ...

_Matrices = tuple[Any, ...]  # dtype, then pointers and sizes in csrc's order
_Snippets = tuple[Any, ...]

def condition_number_cpu(problem: _Matrices, threads: int, /) -> None: ...
def scale_slopes_cpu(
    dtype: int, grad: _Pointer, slope: _Pointer, batch: int, size: int, gradient: _Pointer, threads: int, /
) -> None: ...
def pdmi_snippet_cpu(problem: _Snippets, out: tuple[_Pointer, ...], threads: int, /) -> None: ...
def pdmi_snippet_backward_cpu(
    problem: _Snippets,
    grad: _Pointer,
    foreground_slope: _Pointer,
    background_slope: _Pointer,
    foreground: _Pointer,
    background: _Pointer,
    threads: int,
    /,
) -> None: ...
def pdmi_video_cpu(problem: _Snippets, most: int, /) -> bool: ...
def svd_cpu(problem: _Matrices, threads: int, /) -> int: ...
def svd_backward_cpu(problem: _Matrices, threads: int, /) -> None: ...
def step_record_cpu(arguments: tuple[Any, ...], /) -> None: ...
def gather_rows_cpu(problem: tuple[Any, ...], threads: int, /) -> None: ...
def tv_l1_cpu(problem: tuple[float, ...], threads: int, /) -> None: ...
def losses_cpu(dtype: int, problem: tuple[Any, ...], out: tuple[_Pointer, ...], /) -> None: ...
def losses_backward_cpu(dtype: int, arguments: tuple[Any, ...], /) -> None: ...
def objective_workspace_cpu(problem: tuple[Any, ...], /) -> int: ...
def objective_cpu(problem: tuple[Any, ...], terms: int, reference: int, workspace: int, threads: int, /) -> None: ...

_Head = tuple[Any, ...]

def head_cpu(dtype: int, problem: _Head, out: tuple[int, ...], threads: int, /) -> None: ...
def head_backward_cpu(
    dtype: int, problem: _Head, saved: tuple[int, ...], gradients: tuple[int, ...], threads: int, /
) -> None: ...
def reference_score_cpu(dtype: int, problem: _Head, updated: int, score: int, threads: int, /) -> None: ...

_Activations = tuple[int, bool, int, int, int, int, int, int, int, int, int, int, int]
_Rules = tuple[float, bool, float | None, int, float, bool, float | None, float | None, bool, int, int, int]
_Columns = tuple[int, ...]
_LocalizeCall = tuple[int, int, int, int]

def localize_cpu(activations: _Activations, rules: _Rules, counts: int, threads: int, /) -> object: ...
def localized_size(found: object, /) -> int: ...
def localized_write_cpu(found: object, columns: _Columns, threads: int, /) -> None: ...
def localize_as_block_cpu(
    activations: _Activations, rules: _Rules, counts: int, capacity: int, columns: _Columns, /
) -> None: ...
def nms_cpu(problem: tuple[Any, ...], iou_threshold: float, inclusive: bool, kept: _Pointer, /) -> int: ...
def soft_nms_cpu(
    problem: tuple[Any, ...], sigma: float, score_threshold: float, kept: _Pointer, decayed: _Pointer, /
) -> int: ...

_Clusters = tuple[int, int, int, int]

def nms_as_block_cpu(clusters: _Clusters, iou_threshold: float, inclusive: bool, left: int, /) -> None: ...
def soft_nms_as_block_cpu(
    clusters: _Clusters, sigma: float, score_threshold: float, score: int, taken: int, /
) -> None: ...
def nms_cuda(
    clusters: _Clusters, iou_threshold: float, inclusive: bool, left: int, device: int, stream: int, /
) -> None: ...
def soft_nms_cuda(
    clusters: _Clusters, sigma: float, score_threshold: float, score: int, taken: int, device: int, stream: int, /
) -> None: ...

_Instances = tuple[int, int, int, int, int]

def average_precision_cpu(
    detections: _Instances,
    score: int,
    ignore: int,
    truth: _Instances,
    classes: int,
    iou: int,
    thresholds: int,
    rules: tuple[bool, bool, bool, bool, bool, bool],
    ap: int,
    partner: int,
    tp: int,
    fp: int,
    threads: int,
    /,
) -> None: ...

# Only where the extension was built with CUDA.
def cuda_runtime_version() -> int: ...
def cuda_devices() -> list[str]: ...
def connected_components_workspace_cuda(problem: _Problem, /) -> tuple[int, int]: ...
def connected_components_count_cuda(
    problem: _Problem, positions: int, workspace: int, device: int, stream: int, /
) -> None: ...
def connected_components_fill_cuda(
    problem: _Problem, positions: int, workspace: int, out: int, size: int, device: int, stream: int, /
) -> None: ...
def topk_pool_cuda(
    problem: _Topk, mean: _Pointer, threshold: _Pointer, above: _Pointer, tied: _Pointer, device: int, stream: int, /
) -> None: ...
def topk_pool_backward_cuda(
    problem: _Topk,
    grad: _Pointer,
    threshold: _Pointer,
    above: _Pointer,
    tied: _Pointer,
    grad_scores: _Pointer,
    device: int,
    stream: int,
    /,
) -> None: ...
def localize_workspace_cuda(activations: _Activations, rules: _Rules, rows: int, /) -> int: ...
def localize_find_cuda(
    activations: _Activations, rules: _Rules, call: _LocalizeCall, device: int, stream: int, /
) -> None: ...
def localize_write_cuda(
    activations: _Activations,
    rules: _Rules,
    call: _LocalizeCall,
    capacity: int,
    columns: _Columns,
    device: int,
    stream: int,
    /,
) -> None: ...
def condition_number_workspace_cuda(problem: _Matrices, device: int, /) -> int: ...
def condition_number_cuda(problem: _Matrices, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def scale_slopes_cuda(
    dtype: int, grad: _Pointer, slope: _Pointer, batch: int, size: int, gradient: _Pointer, device: int, stream: int, /
) -> None: ...
def pdmi_snippet_cuda(problem: _Snippets, out: tuple[int, ...], device: int, stream: int, /) -> None: ...
def pdmi_snippet_backward_cuda(
    problem: _Snippets,
    grad: _Pointer,
    foreground_slope: _Pointer,
    background_slope: _Pointer,
    foreground: _Pointer,
    background: _Pointer,
    device: int,
    stream: int,
    /,
) -> None: ...
def pdmi_video_workspace_cuda(problem: _Snippets, device: int, /) -> int: ...
def pdmi_video_cuda(problem: _Snippets, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def svd_workspace_cuda(problem: _Matrices, device: int, /) -> int: ...
def svd_cuda(problem: _Matrices, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def svd_backward_workspace_cuda(problem: _Matrices, device: int, /) -> int: ...
def svd_backward_cuda(problem: _Matrices, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def losses_workspace_cuda(problem: tuple[int | float | bool, ...], device: int, /) -> int: ...
def losses_cuda(
    problem: tuple[int | float | bool, ...],
    out: tuple[int, ...],
    workspace: int,
    size: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def losses_backward_cuda(arguments: tuple[int | float, ...], device: int, stream: int, /) -> None: ...
def head_workspace_cuda(dtype: int, problem: _Head, /) -> int: ...
def head_cuda(
    dtype: int, problem: _Head, out: tuple[int, ...], workspace: int, device: int, stream: int, /
) -> None: ...
def head_backward_cuda(
    dtype: int,
    problem: _Head,
    saved: tuple[int, ...],
    gradients: tuple[int, ...],
    workspace: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def reference_score_cuda(dtype: int, problem: _Head, updated: int, score: int, device: int, stream: int, /) -> None: ...
def step_record_cuda(arguments: tuple[int, ...], device: int, stream: int, /) -> None: ...
def gather_rows_cuda(problem: tuple[int, ...], device: int, stream: int, /) -> None: ...
def tv_l1_workspace_cuda(problem: tuple[float, ...], /) -> int: ...
def tv_l1_cuda(problem: tuple[float, ...], workspace: int, device: int, stream: int, /) -> None: ...
