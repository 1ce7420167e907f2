"""The compiled extension; pointers and streams are integers, a problem is the tuple that native.py makes."""

from __future__ import annotations

has_cuda: bool
cuda_archs: str

_Problem = tuple[int, bool, int, int, int, int, int, int, int, int, int, bool, int, int, bool]

def connected_components_count_cpu(problem: _Problem, positions: int, threads: int, /) -> None: ...
def connected_components_fill_cpu(
    problem: _Problem, positions: int, out: int, size: int, threads: int, /
) -> None: ...

# Only where the extension was built with CUDA.
def cuda_runtime_version() -> int: ...
def cuda_devices() -> list[str]: ...
def connected_components_workspace_cuda(items: int, device: int, /) -> int: ...
def connected_components_count_cuda(
    problem: _Problem, positions: int, workspace: int, size: int, device: int, stream: int, /
) -> None: ...
def connected_components_fill_cuda(
    problem: _Problem, positions: int, out: int, size: int, device: int, stream: int, /
) -> None: ...
