"""The compiled forms of temporal_conv's kernels that are checked with no GPU (scripts/aot.py)."""

from __future__ import annotations

from typing import Any

import torch

from d2kernels.ops._triton import POINTER, Specialization
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.triton_configs import BITS, NO_SIGN, Config, config, described, layout_of
from d2kernels.ops.temporal_conv.triton_kernels import (
    convolve_kernel,
    gradient_kernel,
    repack_kernel,
    sum_kernel,
    weight_gradient_kernel,
)


def specializations(arch: int) -> list[Specialization]:
    """The forms that the target shapes use: Full and THUMOS, ActivityNet, and the classifier layers."""
    half = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
    forms = []
    for dtype, how in (
        (torch.bfloat16, "ieee"),
        (torch.float16, "ieee"),
        (torch.float32, "tf32"),
        (torch.float32, "ieee"),
        (torch.float32, "tf32x3"),
    ):
        wanted = {} if how == "ieee" and dtype == torch.float32 else half
        kind = POINTER[dtype]
        name = f"{kind[1:]} {how}" if dtype == torch.float32 else kind[1:]
        for layer, c_out, taps, dilation, p in (
            ("conv", 1024, 3, 1, 0.0),
            ("dropout", 1024, 3, 1, 0.7),
            ("ActivityNet", 1024, 5, 2, 0.0),
            ("classifier 20", 20, 3, 1, 0.0),
            ("classifier 100", 100, 5, 2, 0.0),
        ):
            if layer != "conv" and (dtype == torch.float16 or (dtype == torch.float32 and how != "tf32")):
                continue
            for backward in (False, True):
                shipped = config("convolve", arch, dtype, how, *((c_out, 1024) if backward else (1024, c_out)))
                forms.append(
                    _form(f"{'dgrad' if backward else 'forward'} {layer} {name}", arch, dtype, how, c_out, taps,
                          dilation, backward, p, shipped, wanted)
                )  # fmt: skip
            if p:
                continue
            together = 3 if taps % 3 == 0 else 1
            shipped = config("weight", arch, dtype, how, 1024, c_out, together)
            types = {"inner": kind, "x": kind, "out": "*fp32", "before_of": "*i32", "after_of": "*i32"}
            constants: dict[str, Any] = {"GROUPS": 2, "C_IN": 1024, "C_OUT": c_out, "TAPS": taps, "DILATION": dilation}
            constants |= {"INNER_STRIDE": 2 * c_out, "X_STRIDE": 2048, "TOGETHER": together, "PRECISION": how}
            constants |= {"BLOCK_M": shipped.block_m, "BLOCK_N": shipped.block_n, "BLOCK_K": shipped.block_k}
            forms.append(
                Specialization(
                    f"wgrad {layer} {name}",
                    weight_gradient_kernel,
                    types | {"total": "i32", "split": "i32"},
                    constants,
                    {"num_warps": shipped.warps, "num_stages": shipped.stages},
                    wanted,
                )
            )
        if dtype != torch.float32 or how == "tf32":
            forms += _beside(kind)
    return forms


def _beside(kind: str) -> list[Specialization]:
    """What runs beside the products: the gradient before the activation, sums of parts, weights by tap."""
    types = dict.fromkeys(("grad", "inner", "out", "weight"), kind) | dict.fromkeys(("sums", "part"), "*fp32")
    types |= {"sign": "*u8", "before_of": "*i32", "after_of": "*i32", "offsets": "*i64", "lengths": "*i64"}
    types |= dict.fromkeys(("n", "total", "chunk", "parts", "size"), "i32")
    types |= {"slope": "fp32", "seed": "*i64", "scale": "fp32"}
    gradient = {"CHANNELS": 2048, "GRAD_STRIDE": 2048, "SIGN": BITS, "STEPS": 8, "BLOCK_R": 32, "BLOCK_C": 128}
    found = []
    for kernel, name, constants in (
        (gradient_kernel, "gradient", gradient | {"DROPOUT": False, "LEAST": 0}),
        (gradient_kernel, "gradient dropout", gradient | {"DROPOUT": True, "LEAST": threshold(0.7)}),
        (sum_kernel, "sum", {"BLOCK_P": 32, "BLOCK_S": 128}),
        (repack_kernel, "repack", {"TAPS": 3, "BLOCK": 1024}),
    ):
        taken = {k: v for k, v in types.items() if k in kernel.arg_names}
        values = {"size": 2048 * 1024} if kernel is repack_kernel else {}
        found.append(Specialization(f"{name} {kind[1:]}", kernel, taken, constants, {"num_warps": 4}, {}, values))
    return found


def _form(
    name: str,
    arch: int,
    dtype: torch.dtype,
    how: str,
    c_out: int,
    taps: int,
    dilation: int,
    backward: bool,
    dropout: float,
    chosen: Config,
    wanted: dict[int, str],
) -> Specialization:
    layout, kind = layout_of(c_out, 1024, taps, 2, backward), POINTER[dtype]
    by_descriptor = described(arch, layout["C_IN"], 1024, dtype.itemsize, chosen.block_k)
    block = [chosen.block_k, chosen.block_n] if backward else [chosen.block_n, chosen.block_k]
    types = dict.fromkeys(("x", "weight", "bias", "residual", "out"), kind)
    if by_descriptor:
        types["weight"] = f"tensordesc<{kind[1:]}{block}>"
    types |= {"sign": "*u8", "offsets": "*i64", "lengths": "*i64", "n": "i32", "total": "i32", "slope": "fp32"}
    types |= {"seed": "*i64", "scale": "fp32"}
    activation = not backward and c_out == 1024
    constants = layout | {
        "DILATION": dilation,
        "X_STRIDE": 2 * layout["C_IN"],
        "RESIDUAL_STRIDE": 2048,
        "BIAS": not backward,
        "ACTIVATION": activation,
        "RESIDUAL": c_out == 1024,
        "SIGN": BITS if activation else NO_SIGN,
        "DROPOUT": 0 if dropout == 0 else 2 if backward else 1,
        "LEAST": threshold(dropout),
        "DESCRIPTOR": by_descriptor,
        "PRECISION": how,
        "STEPS": 8,
        "BLOCK_M": chosen.block_m,
        "BLOCK_N": chosen.block_n,
        "BLOCK_K": chosen.block_k,
        "GROUP_M": chosen.group_m,
    }
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
    return Specialization(name, convolve_kernel, types, constants, options, wanted)
