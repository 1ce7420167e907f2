"""Schema and fake kernel of tv_l1."""

from __future__ import annotations

import torch

from d2kernels.ops._library import define

tv_l1 = define(
    "tv_l1",
    "tv_l1",
    "(Tensor previous, Tensor next, float tau, float lambda_, float theta, float epsilon, float gamma,"
    " float scale_step, int nscales, int warps, int inner_iterations, int outer_iterations,"
    " int median_filtering) -> Tensor",
    lambda previous, *_: previous.new_empty(
        (previous.shape[0], 2, previous.shape[1], previous.shape[2]), dtype=torch.float32
    ),
)
