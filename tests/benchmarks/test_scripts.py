"""The scripts beside the benchmarks: their sides compute the same, and their data train."""

from __future__ import annotations

import dense_conv
import pytest
import torch
import train_time


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_route_of_equal_lengths_computes_the_same(groups, backward):
    made = {name: run() for name, run in dense_conv.sides((2, 7, 4, 6, groups), backward).items()}
    for name, found in made.items():
        for ours, other in zip(made["ours"], found, strict=True):
            turned = other.mT if name == "F.conv1d" and other.dim() == 3 and other.shape[0] == 2 else other
            assert torch.allclose(ours, turned, atol=1e-5), name
    seconds = dense_conv.least(dense_conv.sides((2, 7, 4, 6, groups), backward), 0)
    assert seconds.keys() == made.keys() and min(seconds.values()) > 0


def test_what_train_time_makes_is_features_with_annotations(tmp_path):
    train_time.make(tmp_path)
    import d2net

    store, known = d2net.open_features(tmp_path / "features.npz"), d2net.load_annotations(tmp_path / "annotations.json")
    assert store.width == train_time.WIDTH and len(known.classes) == train_time.CLASSES
    assert len(known.subset(["train"]).videos) == train_time.VIDEOS == len(store.lengths)
