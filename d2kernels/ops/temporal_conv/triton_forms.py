"""The compiled forms of temporal_conv that training on THUMOS and ActivityNet launches, for checks without a GPU."""

from __future__ import annotations

import torch

from d2kernels.ops._triton import POINTER, Specialization
from d2kernels.ops.temporal_conv.triton_kernels import convolve, weight_parts
from d2kernels.ops.temporal_conv.triton_tiles import tile_of, weight_tile

# Name, channels in and out of a group, kernel.
LAYERS = (("hidden", 1024, 1024, 3), ("dilated", 1024, 1024, 5), ("classes", 1024, 20, 1))
PRODUCT = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}  # the tensor cores' instruction


def of_16(**sizes: int) -> set[str]:
    return {name for name, size in sizes.items() if size % 16 == 0}


def specializations(arch: int) -> list[Specialization]:
    product = PRODUCT.get(arch, "")
    found = []
    for dtype, mode in ((torch.bfloat16, "tf32"), (torch.float32, "tf32"), (torch.float32, "ieee")):
        kind = f"{str(dtype).removeprefix('torch.')} {mode}" if dtype == torch.float32 else "bfloat16"
        wanted = {} if mode == "ieee" else {arch: product}
        p = POINTER[dtype]
        for layer, c_in, c_out, kernel in LAYERS:
            for back in (False, True):
                inner, outs = (c_out, c_in) if back else (c_in, c_out)
                tile, hidden = tile_of(arch, dtype, mode, inner, outs), layer != "classes"
                types = {
                    **{"x": p, "weight": p, "bias": p, "sign_in": "*u8", "added": p, "out": p, "sign_out": "*u8"},
                    **{"offsets": "*i64", "lengths": "*i64", "slope": "fp32"},
                    **dict.fromkeys(("n", "total", "c_in", "c_out", "x_stride", "added_stride", "dilation"), "i32"),
                }
                constants = {
                    **{"KERNEL": kernel, "BACK": back, "ACTIVATION": hidden, "BIAS": not back, "ADD": hidden},
                    **{"SIGN": hidden and not back, "EVEN": inner % tile.inner == 0, "PRECISION": mode},
                    **{"UPCAST": False, "STEPS": 4, "HALVES": tile.out == 256, "BAND": 8},
                    **{"BLOCK_ROWS": tile.rows, "BLOCK_OUT": tile.out, "BLOCK_IN": tile.inner},
                    **({"bias": None, "sign_out": None} if back else {"sign_in": None}),
                    **({} if hidden else {"sign_in": None, "sign_out": None, "added": None}),
                }
                multiples = {"x_stride", "added_stride", *of_16(c_in=inner, c_out=outs)}
                options = {"num_warps": tile.warps, "num_stages": tile.stages}
                name = f"{layer} {'back' if back else 'forward'} {kind}"
                found.append(Specialization(name, convolve, types, constants, frozenset(multiples), options, wanted))
            tile = weight_tile(arch, dtype, mode)
            types = {
                **{"grad": p, "x": p, "sign": "*u8", "parts": "*fp32", "slope": "fp32"},
                **{"first": "*i64", "end": "*i64"},
                **dict.fromkeys(("total", "c_in", "c_out", "grad_stride", "x_stride", "dilation"), "i32"),
                "rows_per_split": "i32",
            }
            constants = {
                **{"KERNEL": kernel, "ACTIVATION": layer != "classes", "PRECISION": mode, "UPCAST": False},
                **{"BLOCK_OUT": tile.out, "BLOCK_IN": tile.inner, "BLOCK_ROWS": tile.rows},
                **({} if layer != "classes" else {"sign": None}),
            }
            multiples = {"grad_stride", "x_stride", "rows_per_split", *of_16(c_in=c_in, c_out=c_out)}
            options = {"num_warps": tile.warps, "num_stages": tile.stages}
            name = f"{layer} weight {kind}"
            found.append(Specialization(name, weight_parts, types, constants, frozenset(multiples), options, wanted))
    return found
