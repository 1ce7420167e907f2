"""Training batches: sampling, crops, packing, hold-out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d2net.config import make_config
from d2net.data.batch import pack
from d2net.data.cache import CachedFeatures
from d2net.data.dataset import TrainingBatches, split_holdout
from d2net.data.features.arrays import ArrayFeatures


class Store(ArrayFeatures):
    """Tells which rows of which videos were read."""

    def __init__(self, arrays):
        self.reads = []
        super().__init__(arrays)

    def _read(self, name):
        self.reads.append((name, 0, len(self.arrays[name])))
        return super()._read(name)

    def _read_rows(self, name, first, end):
        self.reads.append((name, first, end))
        return super()._read_rows(name, first, end)


def store(lengths, width=4):
    rng = np.random.default_rng(0)
    return Store({f"v{i}": rng.standard_normal((s, width)).astype(np.float16) for i, s in enumerate(lengths)})


def batches(lengths=(5, 9, 30, 7), **settings):
    config = make_config(overrides={f"train.{k}": v for k, v in settings.items()}).train
    s = store(lengths)
    return TrainingBatches(s, s.names, np.eye(len(lengths), 3), config)


def test_packing_keeps_every_row():
    arrays = [np.arange(6).reshape(3, 2), np.arange(2).reshape(1, 2)]
    got = pack(arrays, np.array([[1, 0], [0, 1]]))
    assert got.lengths.tolist() == [3, 1] and got.offsets.tolist() == [0, 3, 4]
    assert got.features.tolist() == np.concatenate(arrays).tolist() and got.labels.tolist() == [
        [True, False],
        [False, True],
    ]


def test_packing_lays_zero_rows_around_the_videos():
    got = pack([np.ones((3, 2)), np.ones((0, 2)), np.ones((1, 2))], np.zeros((3, 1)), gap=2)
    assert got.ragged().gap == 2 and got.to(torch.device("cpu")).gap == 2
    assert got.features[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0] and got.features.dtype == torch.float32
    assert [len(v) for v in got.ragged().unpack()] == [3, 0, 1]


def test_batches_are_as_wide_apart_as_the_network_reaches():
    settings = {"model.kernel_size": 5, "model.dilation": 3, "model.classifier_kernel_size": 3}
    assert make_config(overrides=settings).model.gap == 6
    assert make_config(overrides={"model.kernel_size": 1, "model.classifier_kernel_size": 7}).model.gap == 3


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    a, b = batches(batch_size=3, seed=5), batches(batch_size=3, seed=5)
    b[0], b[7]
    for x, y in zip(a[3][:4], b[3][:4], strict=True):
        assert x.equal(y)
    assert not np.array_equal(
        [a.videos(i) for i in range(9)], [batches(batch_size=3, seed=6).videos(i) for i in range(9)]
    )


def test_epochs_visit_every_video_once():
    b = batches(lengths=[6] * 7, batch_size=3, sampling="epoch")
    order = np.concatenate([b.videos(i) for i in range(14)])
    assert all(sorted(order[e * 7 : (e + 1) * 7]) == list(range(7)) for e in range(6))
    assert not np.array_equal(order[:7], order[7:14])


def test_long_videos_are_cropped_contiguously():
    b = batches(lengths=[50], batch_size=8, max_snippets=20)
    whole = b.features.store["v0"].astype(np.float32)
    got = b[0]
    assert got.lengths.tolist() == [20] * 8
    starts = set()
    for i in range(8):
        crop = got.features[20 * i : 20 * (i + 1)].numpy()
        start = int(np.nonzero((whole == crop[0]).all(1))[0][0])
        assert np.array_equal(whole[start : start + 20], crop)
        starts.add(start)
    assert len(starts) > 1


def test_cache_reads_once_within_its_bound():
    s = store([10, 10])
    cached = CachedFeatures(s, gigabytes=100 / 2**30)
    for _ in range(3):
        cached["v0"], cached["v1"]
    assert len(s.reads) == 1 + 3


@pytest.mark.parametrize("gigabytes", [0, 1])
def test_a_crop_of_a_long_video_reads_its_rows_alone(gigabytes):
    s = store([40, 1000])
    b = TrainingBatches(s, s.names, np.eye(2), make_config(overrides=crops(gigabytes)).train)
    drawn = [b[i] for i in range(6)]
    assert {v for v, *_ in s.reads} == {"v0", "v1"}
    assert all(end - first == 20 for v, first, end in s.reads if v == "v1")
    whole = [(v, n) for v, first, n in s.reads if v == "v0" and n - first == 40]
    assert len(whole) == (1 if gigabytes else 0)  # a short one is kept, where there is room
    in_memory = batches(lengths=[40, 1000], batch_size=4, max_snippets=20, cache_gigabytes=1)
    in_memory.features.kept = dict(s.arrays)
    for i, batch in enumerate(drawn):
        assert batch.features.equal(in_memory[i].features)


def crops(gigabytes):
    return {"train.batch_size": 4, "train.max_snippets": 20, "train.cache_gigabytes": gigabytes}


def test_processes_share_the_bound_of_the_cache():
    rooms = [batches(cache_gigabytes=1, workers=n).features.room for n in (0, 1, 4)]
    assert rooms == [2**30, 2**30, 2**28]


def test_bfloat16_is_kept_as_it_is_stored():
    s = store([6])
    s.arrays["v0"] = np.arange(24, dtype=np.float32).reshape(6, 4)
    s.dtypes, s.precision = {"v0": np.dtype(np.float32)}, "bfloat16"
    cached = CachedFeatures(s, gigabytes=48 / 2**30)
    for _ in range(2):
        assert np.array_equal(cached["v0"], s.arrays["v0"]) and cached["v0"].dtype == np.float32
    assert len(s.reads) == 1 and cached.kept["v0"].nbytes == 48 and (cached.left, cached.room) == (0, 48)


def test_loader_equals_indexing():
    b = batches(batch_size=2)
    for i, batch in enumerate(b.loader(2, 5, pin=False)):
        assert batch.features.equal(b[i + 2].features)


def annotations(users):
    return SimpleNamespace(videos={f"v{i}": SimpleNamespace(info={"user": u}) for i, u in enumerate(users)})


def test_holdout_keeps_groups_together():
    config = make_config(overrides={"train.holdout": 0.4, "train.holdout_by": "user"}).train
    a = annotations([1, 1, 2, 2, 3, 4, 5])
    kept, out = split_holdout(a, list(a.videos), config)
    users = [{a.videos[v].info["user"] for v in names} for names in (kept, out)]
    assert not users[0] & users[1] and len(users[1]) == 2 and len(kept) + len(out) == 7


@pytest.mark.parametrize(("field", "share", "says"), [("age", 0.5, "'age'"), ("user", 0.9, "leaves nothing")])
def test_holdout_errors(field, share, says):
    config = make_config(overrides={"train.holdout": share, "train.holdout_by": field}).train
    a = annotations([1, 2])
    with pytest.raises(ValueError, match=says):
        split_holdout(a, list(a.videos), config)
