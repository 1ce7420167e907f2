"""safetensors whose data are filled in later: the format's header says where they lie."""

from __future__ import annotations

import json
from pathlib import Path

from d2net.data.features.store import FeatureStore
from d2net.data.features.tensors import SafetensorsFeatures
from d2net.data.features.writing.plan import TYPES, OneFile, Plan

_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


class SafetensorsWriter(OneFile):
    holds_bfloat16 = True

    def __init__(self, path: Path, plan: Plan):
        super().__init__(path, plan)
        tree: dict = {"__metadata__": {k: repr(v) for k, v in plan.timing.items()}} if plan.timing else {}
        places, at = {}, 0
        # The widest types first, so that each array is aligned.
        for i in sorted(range(len(plan.names)), key=lambda i: -TYPES[plan.dtypes[i]].itemsize):
            end = at + plan.bytes_of(i)
            shape = [plan.lengths[i], plan.width]
            tree[plan.names[i]] = {"dtype": _CODES[plan.dtypes[i]], "shape": shape, "data_offsets": [at, end]}
            places[i], at = at, end
        head = json.dumps(tree, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        self.head = len(head).to_bytes(8, "little") + head
        self.offsets = [len(self.head) + places[i] for i in range(len(plan.names))]
        self.end = len(self.head) + at

    def lay_out(self) -> None:
        with open(self.path, "wb") as file:
            file.write(self.head)
            file.truncate(self.end)
        self.check()

    def open(self) -> FeatureStore:
        return SafetensorsFeatures(self.path)
