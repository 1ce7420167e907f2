"""Features that stay in memory: the batches and the training are those of features that are read, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2net import api
from d2net.config import make_config
from d2net.data import cache
from d2net.data.cache import CachedFeatures, Resident, bytes_of, why_not_resident
from d2net.data.dataset import TrainingBatches
from d2net.data.drawing import Drawing, gathered
from d2net.data.features.arrays import ArrayFeatures
from d2net.training.checkpoint import read_checkpoint

CPU = torch.device("cpu")
LENGTHS = (5, 1, 30, 7, 64)
STORED = ["float16", "float32", "bfloat16", "mixed"]


class Counting(ArrayFeatures):
    """Counts what is read."""

    reads = 0

    def _read(self, name):
        self.reads += 1
        return super()._read(name)


def store_of(stored="float32", lengths=LENGTHS, width=6):
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.standard_normal((s, width)).astype(np.float32) for i, s in enumerate(lengths)}
    if stored == "float16":
        arrays = {v: x.astype(np.float16) for v, x in arrays.items()}
    if stored == "mixed":
        arrays["v2"] = arrays["v2"].astype(np.float16)
    if stored == "bfloat16":
        arrays = {v: torch.from_numpy(x).bfloat16().float().numpy() for v, x in arrays.items()}
    made = Counting(arrays)
    made.precision = "bfloat16" if stored == "bfloat16" else None
    return made


def made(store, gap=1, counts=None, **settings):
    config = make_config(overrides={"train.batch_size": 4, "train.max_snippets": 20} | settings).train
    labels = np.eye(len(store.names), 3)
    return TrainingBatches(store, store.names, labels, config, gap, counts=counts), config


def tensors(batch):
    """All of a batch, in one list."""
    whole = [] if batch.whole is None else [*batch.whole[:4], torch.tensor(batch.whole.counts)]
    return [*batch[:4], *([] if batch.counts is None else [batch.counts]), *whole]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("gap", [0, 3])
def test_batches_are_those_of_features_that_are_read(stored, gap):
    counts = np.arange(15, dtype=np.float32).reshape(5, 3)
    batches, _ = made(store_of(stored), gap, counts)
    streamed, _ = made(store_of(stored), gap, counts)
    held = Resident(batches.features, batches.names, CPU)
    for ranks in (1, 3):
        batches.ranks = streamed.ranks = ranks
        for rank in range(ranks):
            batches.rank = streamed.rank = rank
            drawn = list(batches.loader(2, 8, pin=False, source=Drawing(batches, held.first)))
            for i, indices in enumerate(drawn, 2):
                got, want = gathered(held, indices), streamed[i]
                assert got.gap == want.gap == gap and indices.snippets.equal(want.snippets)
                for a, b in zip(tensors(got), tensors(want), strict=True):
                    assert a.dtype == b.dtype and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_batches_in_bfloat16_train_to_the_same_bits():
    """What autocast would cast is gathered so."""
    from d2net.training.state import new_state
    from d2net.training.step import train_step

    batches, _ = made(store_of("float32", width=16))
    config = make_config(overrides={"train.precision": "bf16", "loss.denoising_start": 1, "loss.min_snippets": 1})
    held, states = Resident(batches.features, batches.names, CPU), []
    for dtype in (torch.float32, torch.bfloat16):
        state = new_state(config, 16, 2, 3, CPU)
        for i in range(3):
            batch = gathered(held, Drawing(batches, held.first)[i], dtype)
            assert batch.features.dtype == dtype
            train_step(state, batch, config)
        states.append([*state.network.parameters(), state.network.reference, state.sums])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("stored", STORED)
def test_they_are_held_once_as_they_are_stored(stored):
    store = store_of(stored)
    features = CachedFeatures(store, 1.0)
    for v in store.names[:2]:
        features[v]
    held = Resident(features, store.names, CPU)
    expected = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(stored, torch.float32)
    assert held.rows.dtype == expected and held.rows.nbytes == bytes_of(features, store.names)
    assert store.reads == len(LENGTHS)
    memory = held.rows.untyped_storage()
    for v in store.names:
        assert memory.data_ptr() <= features.kept[v].ctypes.data < memory.data_ptr() + memory.nbytes()
        assert np.array_equal(features[v], store.arrays[v])
    assert store.reads == len(LENGTHS)


def test_where_they_fit_is_said(monkeypatch):
    store = store_of("float16")
    features, size = CachedFeatures(store, 1.0), 2 * 6 * sum(LENGTHS)

    def reason(device=CPU, **settings):
        return why_not_resident(features, store.names, made(store, **settings)[1], device)

    assert reason() is None and reason(**{"train.resident": False}) == "train.resident is off"
    assert reason(**{"train.cache_gigabytes": size / 2**30}) is None
    assert "train.cache_gigabytes allows" in reason(**{"train.cache_gigabytes": (size - 1) / 2**30})
    for free, fits in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(cache.torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**12))
        said = reason(torch.device("cuda:0"), **{"train.cache_gigabytes": 0})
        assert said is None if fits else "half of cuda:0's free memory is" in said


SETTINGS = {
    "train.subsets": ["train"], "train.iterations": 6, "train.batch_size": 3, "train.log_every": 2, "model.streams": 1,
    "train.max_snippets": 20, "loss.denoising_start": 2, "timing.snippet_seconds": 0.5,
}  # fmt: skip


def trained(folder, resume=False, store=None, **settings):
    from d2net.data.annotations import load_annotations

    folder.mkdir(exist_ok=True)
    file = folder / "a.json"
    videos = ", ".join(f'"v{i}": {{"subset": "train", "video_labels": ["{"ab"[i % 2]}"]}}' for i in range(len(LENGTHS)))
    file.write_text(f'{{"classes": ["a", "b"], "database": {{{videos}}}}}')
    config = make_config(overrides=SETTINGS | settings)
    store = store_of("float16") if store is None else store
    return api.train(
        store, load_annotations(file), folder / "run", config, device="cpu", progress=False, resume=resume
    )


def weights(folder):
    return read_checkpoint(folder / "run")["model"]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_training_is_the_same_bit_for_bit(tmp_path):
    store = store_of("float16")
    trained(tmp_path / "on", store=store, **{"train.resident": "on"})
    assert store.reads == len(LENGTHS)
    trained(tmp_path / "off", **{"train.resident": "off"})
    assert same(weights(tmp_path / "on"), weights(tmp_path / "off"))
    # A run may go on the other way.
    trained(tmp_path / "both", **{"train.resident": "on", "train.iterations": 3})
    trained(tmp_path / "both", resume=True, **{"train.resident": "off"})
    assert same(weights(tmp_path / "on"), weights(tmp_path / "both"))


def test_on_without_room_is_an_error_and_auto_reads_as_it_goes(tmp_path):
    small = {"train.cache_gigabytes": 1e-7}
    with pytest.raises(ValueError, match=r"^train.resident is on, but .* allows 9.97e-08; set it to auto"):
        trained(tmp_path / "on", **small, **{"train.resident": "on"})
    store = store_of("float16")
    trained(tmp_path / "auto", store=store, **small)
    assert store.reads > len(LENGTHS)


def test_flags_of_yaml_are_on_and_off():
    for value, is_ in ((True, "on"), (False, "off"), ("auto", "auto")):
        assert make_config(overrides={"train.resident": value}).train.resident == is_
    with pytest.raises(ValueError, match=r"train.resident: .*'auto', 'on' or 'off'"):
        make_config(overrides={"train.resident": 1})
