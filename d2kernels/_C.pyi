"""The compiled extension; pointers and streams are integers, a problem is the tuple that native.py makes."""

from __future__ import annotations

from typing import Any

has_cuda: bool
cuda_archs: str

_Problem = tuple[int, bool, int, int, int, int, int, int, int, int, int, bool, int, int, bool]

def connected_components_count_cpu(problem: _Problem, positions: int, threads: int, /) -> None: ...
def connected_components_fill_cpu(problem: _Problem, positions: int, out: int, size: int, threads: int, /) -> None: ...

_Topk = tuple[int, int, int, int, int, int, int, int]
_Pool = tuple[int, int, int, int, int, int, int, int, int, int, bool, bool]
_Score = tuple[int, int, int, int, int, float, int, int, int]

def topk_pool_cpu(problem: _Topk, mean: int, threshold: int, above: int, tied: int, threads: int, /) -> None: ...
def topk_pool_backward_cpu(
    problem: _Topk, grad: int, threshold: int, above: int, tied: int, grad_scores: int, threads: int, /
) -> None: ...
def topk_indices_cpu(
    problem: tuple[int, int, int, int, int, int, int, int, int], indices: int, threads: int, /
) -> None: ...
def attention_pool_cpu(problem: _Pool, embedding: int, mass: int, threads: int, /) -> None: ...
def attention_pool_backward_cpu(
    problem: _Pool, grad: int, grad_mass: int, mass: int, grad_x: int, grad_attention: int, threads: int, /
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

_Convolution = tuple[int, int, int, int, int, int, int, int, int, bool]
_Dropout = tuple[int, int, int, float]

def convolves_cpu() -> bool: ...
def temporal_conv_cpu(
    shape: _Convolution,
    x: int,
    x_stride: int,
    weight: int,
    bias: int,
    slope: float | None,
    residual: bool,
    dropout: _Dropout,
    out: int,
    sign: int,
    threads: int,
    /,
) -> None: ...
def temporal_conv_inner_cpu(
    shape: _Convolution,
    grad: int,
    grad_stride: int,
    out: int,
    sign: int,
    slope: float | None,
    dropout: _Dropout,
    inner: int,
    dropped: int,
    bias_gradient: int,
    threads: int,
    /,
) -> None: ...
def temporal_conv_input_gradient_cpu(
    shape: _Convolution,
    inner: int,
    inner_stride: int,
    weight: int,
    residual: int,
    residual_stride: int,
    grad_x: int,
    threads: int,
    /,
) -> None: ...
def temporal_conv_weight_gradient_cpu(
    shape: _Convolution, inner: int, inner_stride: int, x: int, x_stride: int, grad_weight: int, threads: int, /
) -> None: ...
def foreground_score_cpu(problem: _Score, score: int, threads: int, /) -> None: ...
def foreground_score_backward_cpu(
    problem: _Score, grad: int, grad_x: int, grad_reference: int, threads: int, /
) -> None: ...
def lowest_attention_cpu(
    attention: int, dtype: int, total: int, offsets: int, lengths: int, sequences: int, place: int, threads: int, /
) -> None: ...

_Matrices = tuple[int, ...]  # dtype, then pointers and sizes in csrc's order
_Snippets = tuple[int | float | bool, ...]

def condition_number_cpu(problem: _Matrices, threads: int, /) -> None: ...
def scale_slopes_cpu(
    dtype: int, grad: int, slope: int, batch: int, size: int, gradient: int, threads: int, /
) -> None: ...
def pdmi_snippet_cpu(problem: _Snippets, out: tuple[int, ...], threads: int, /) -> None: ...
def pdmi_snippet_backward_cpu(
    problem: _Snippets,
    grad: int,
    foreground_slope: int,
    background_slope: int,
    foreground: int,
    background: int,
    threads: int,
    /,
) -> None: ...
def pdmi_video_cpu(problem: _Snippets, /) -> None: ...
def svd_cpu(problem: _Matrices, threads: int, /) -> int: ...
def step_record_cpu(arguments: tuple[int, ...], /) -> None: ...
def gather_rows_cpu(problem: tuple[int, ...], threads: int, /) -> None: ...
def tv_l1_cpu(problem: tuple[float, ...], threads: int, /) -> None: ...
def losses_cpu(dtype: int, problem: tuple[int | float | bool, ...], out: tuple[int, ...], /) -> None: ...
def losses_backward_cpu(dtype: int, arguments: tuple[int | float, ...], /) -> None: ...
def objective_workspace_cpu(problem: tuple[Any, ...], /) -> int: ...
def objective_cpu(problem: tuple[Any, ...], terms: int, reference: int, workspace: int, threads: int, /) -> None: ...

_Head = tuple[int | float | bool, ...]

def head_cpu(dtype: int, problem: _Head, out: tuple[int, ...], threads: int, /) -> None: ...
def head_backward_cpu(
    dtype: int, problem: _Head, saved: tuple[int, ...], gradients: tuple[int, ...], threads: int, /
) -> None: ...
def reference_score_cpu(dtype: int, problem: _Head, updated: int, score: int, threads: int, /) -> None: ...

_Activations = tuple[int, bool, int, int, int, int, int, int, int, int, int, int, int]
_Rules = tuple[float, bool, float | None, int, float, bool, float | None, float | None, bool, int, int, int]
_Columns = tuple[int, ...]

def localize_cpu(activations: _Activations, rules: _Rules, counts: int, threads: int, /) -> object: ...
def localized_size(found: object, /) -> int: ...
def localized_write_cpu(found: object, columns: _Columns, threads: int, /) -> None: ...
def localize_as_block_cpu(
    activations: _Activations, rules: _Rules, counts: int, capacity: int, columns: _Columns, /
) -> None: ...
def nms_cpu(
    segments: int, scores: int, groups: int, count: int, iou_threshold: float, inclusive: bool, kept: int, /
) -> int: ...
def soft_nms_cpu(
    segments: int,
    scores: int,
    groups: int,
    count: int,
    sigma: float,
    score_threshold: float,
    kept: int,
    decayed: int,
    /,
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
    problem: _Topk, mean: int, threshold: int, above: int, tied: int, device: int, stream: int, /
) -> None: ...
def topk_pool_backward_cuda(
    problem: _Topk, grad: int, threshold: int, above: int, tied: int, grad_scores: int, device: int, stream: int, /
) -> None: ...
def localize_workspace_cuda(
    is_double: bool, rows: int, total: int, sequences: int, classes: int, upsample: int, /
) -> int: ...
def localize_find_cuda(
    activations: _Activations,
    rules: _Rules,
    rows: int,
    counts: int,
    first: int,
    workspace: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def localize_write_cuda(
    activations: _Activations,
    rules: _Rules,
    rows: int,
    counts: int,
    first: int,
    capacity: int,
    columns: _Columns,
    workspace: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def condition_number_workspace_cuda(problem: _Matrices, device: int, /) -> int: ...
def condition_number_cuda(problem: _Matrices, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def scale_slopes_cuda(
    dtype: int, grad: int, slope: int, batch: int, size: int, gradient: int, device: int, stream: int, /
) -> None: ...
def pdmi_snippet_cuda(problem: _Snippets, out: tuple[int, ...], device: int, stream: int, /) -> None: ...
def pdmi_snippet_backward_cuda(
    problem: _Snippets,
    grad: int,
    foreground_slope: int,
    background_slope: int,
    foreground: int,
    background: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def pdmi_video_workspace_cuda(problem: _Snippets, device: int, /) -> int: ...
def pdmi_video_cuda(problem: _Snippets, workspace: int, size: int, device: int, stream: int, /) -> None: ...
def svd_workspace_cuda(problem: _Matrices, device: int, /) -> int: ...
def svd_cuda(problem: _Matrices, workspace: int, size: int, device: int, stream: int, /) -> None: ...
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
