"""The compiled forms of temporal_conv's kernels that are checked with no GPU (scripts/aot.py)."""

from __future__ import annotations

from typing import Any

import torch

from d2kernels.ops._triton import POINTER, Specialization
from d2kernels.ops.temporal_conv.dropout import threshold
from d2kernels.ops.temporal_conv.triton_beside import gradient_kernel, repack_kernel, transpose_kernel
from d2kernels.ops.temporal_conv.triton_configs import BITS, NO_SIGN, Config, config, described, layout_of
from d2kernels.ops.temporal_conv.triton_convolve import convolve_kernel, plain_kernel
from d2kernels.ops.temporal_conv.triton_weight import (
    mend_weight_kernel,
    plain_weight_kernel,
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
                what = f"{'dgrad' if backward else 'forward'} {layer} {name}"
                forms += _products(what, arch, dtype, how, c_out, taps, dilation, backward, p, shipped, wanted)
            if p:
                continue
            forms += _weight_gradients(f"{layer} {name}", arch, dtype, how, c_out, taps, dilation, wanted)
        if dtype != torch.float32 or how == "tf32":
            forms += _beside(kind)
    return forms


def _weight_gradients(
    name: str, arch: int, dtype: torch.dtype, how: str, c_out: int, taps: int, dilation: int, wanted: dict[int, str]
) -> list[Specialization]:
    """By pointers and masks; and, where tensor descriptors serve, of plain tiles, with what mends them."""
    kind, together = POINTER[dtype], 3 if taps % 3 == 0 else 1
    types = {"inner": kind, "x": kind, "out": "*fp32", "before_of": "*i32", "after_of": "*i32", "broken": "*i32"}
    types |= {"offsets": "*i64", "lengths": "*i64", "n": "i32", "total": "i32", "split": "i32"}
    constants: dict[str, Any] = {"GROUPS": 2, "C_IN": 1024, "C_OUT": c_out, "TAPS": taps, "DILATION": dilation}
    constants |= {"INNER_STRIDE": 2 * c_out, "X_STRIDE": 2048, "TOGETHER": together, "PRECISION": how, "STEPS": 8}

    def form(what: str, kernel: Any, chosen: Config, types: dict[str, str]) -> Specialization:
        taken = constants | {"BLOCK_M": chosen.block_m, "BLOCK_N": chosen.block_n, "BLOCK_K": chosen.block_k}
        taken = {k: v for k, v in taken.items() if k in kernel.arg_names}
        return Specialization(
            f"{what} {name}", kernel, types, taken, {"num_warps": chosen.warps, "num_stages": chosen.stages}, wanted
        )

    found = [
        form("wgrad", weight_gradient_kernel, config("weight", arch, dtype, how, 1024, c_out, together), types)
    ]
    if 90 <= arch < 100 and (dtype.itemsize == 2 or how == "tf32"):
        chosen = config("plain weight", arch, dtype, how, 1024, c_out)
        constants["TRANSPOSED"] = dtype.itemsize == 4
        blocks = [[width, chosen.block_k][:: 1 if dtype.itemsize == 4 else -1] for width in chosen[:2]]
        tiles = {k: f"tensordesc<{kind[1:]}{block}>" for k, block in zip(("inner", "x"), blocks, strict=True)}
        found.append(form("plain wgrad", plain_weight_kernel, chosen, types | tiles))
        wanted = {}
        found.append(form("mended wgrad", mend_weight_kernel, chosen._replace(warps=8, stages=1), types))
    return found


def _beside(kind: str) -> list[Specialization]:
    """What runs beside the products: the gradient before the activation, sums of parts, weights by tap."""
    types = dict.fromkeys(("grad", "inner", "out", "weight", "x"), kind) | dict.fromkeys(("sums", "part"), "*fp32")
    types |= {"sign": "*u8", "before_of": "*i32", "after_of": "*i32", "offsets": "*i64", "lengths": "*i64"}
    types |= dict.fromkeys(("n", "total", "chunk", "parts", "size", "stride"), "i32")
    types |= {"slope": "fp32", "seed": "*i64", "scale": "fp32"}
    gradient = {"CHANNELS": 2048, "GRAD_STRIDE": 2048, "SIGN": BITS, "STEPS": 8, "BLOCK_R": 16, "BLOCK_C": 128}
    gradient |= {"WRITE": True, "REACH": True}
    found = []
    for kernel, name, constants in (
        (gradient_kernel, "gradient", gradient | {"DROPOUT": False, "LEAST": 0}),
        (gradient_kernel, "gradient dropout", gradient | {"DROPOUT": True, "LEAST": threshold(0.7)}),
        (sum_kernel, "sum", {"BLOCK_P": 32, "BLOCK_S": 128}),
        (repack_kernel, "repack", _repack(back=False)),
        (repack_kernel, "repack for the way back", _repack(back=True)),
        (transpose_kernel, "transpose", {"CHANNELS": 2048, "X_STRIDE": 2048, "BLOCK_R": 64, "BLOCK_C": 32}),
    ):
        taken = {k: v for k, v in types.items() if k in kernel.arg_names}
        values = {"stride": 16}  # of the transposed: a multiple of 16
        found.append(Specialization(f"{name} {kind[1:]}", kernel, taken, constants, {"num_warps": 4}, {}, values))
    return found


def _repack(back: bool) -> dict[str, int]:
    outer = 1024 if back else 2048
    lie = {"OUTER": outer, "INNER": 1024, "TAPS": 3, "W_GROUP": 3 << 20, "W_OUTER": 3 << 10, "W_INNER": 3, "W_TAP": 1}
    lie |= {"OUT_OUTER": 1 if back else 1024, "OUT_INNER": 1024 if back else 1, "OUT_TAP": 1 << 21, "WIDTH": 4}
    return lie | {"BLOCK_O": 32 if back else 8, "BLOCK_I": 32 if back else 128}


def _products(
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
) -> list[Specialization]:
    """By pointers and masks; and, where tensor descriptors serve, of plain tiles."""
    repacked = backward and how == "tf32" and 90 <= arch < 120
    layout, kind = layout_of(c_out, 1024, taps, 2, backward, repacked), POINTER[dtype]
    by_descriptor = described(arch, layout["C_IN"], c_out if repacked else 1024, dtype.itemsize, chosen.block_k)
    block = [chosen.block_k, chosen.block_n] if layout["ACROSS"] else [chosen.block_n, chosen.block_k]
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
        "FLATTEN": chosen.waves > 0,
    }
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}

    def form(name: str, kernel: Any, types: dict[str, str]) -> Specialization:
        taken = {k: v for k, v in constants.items() if k in kernel.arg_names}
        return Specialization(name, kernel, types, taken, options, wanted)

    found = [form(name, convolve_kernel, types)]
    if by_descriptor and (dtype.itemsize == 2 or how == "tf32"):
        plain = types | {"x": f"tensordesc<{kind[1:]}{[chosen.block_m, chosen.block_k]}>"}
        found.append(form(f"plain {name}", plain_kernel, plain))
    return found
