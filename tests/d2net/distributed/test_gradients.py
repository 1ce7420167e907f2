"""Gradients of k ranks with n / k videos each are those of one process with n, whatever the videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2kernels.ops.temporal_conv.dropout import rows_from
from d2net.config import make_config
from d2net.data.dataset import TrainingBatches, shares
from d2net.data.features.arrays import ArrayFeatures
from d2net.distributed.others import others_of
from d2net.methods.d2net.losses import head_losses
from d2net.methods.d2net.network import D2Net

WIDTH, CLASSES, STREAMS = 16, 3, 2
LENGTHS = (9, 40, 3, 25, 17, 1, 30, 12)


def made_up():
    """Some videos have no foreground, or no background."""
    random = np.random.default_rng(0)
    return ArrayFeatures(
        {
            f"v{i}": random.standard_normal((n, WIDTH)).astype(np.float32) * np.float32(i != 3)
            for i, n in enumerate(LENGTHS)
        }
    )


def batches(ranks, settings, labelled=True):
    config = make_config(None, *settings)
    store = made_up()
    labels = np.eye(CLASSES, dtype=bool)[np.arange(len(LENGTHS)) % CLASSES]
    labels[0, 1] = True
    labels[[2, 6]] &= labelled
    made = TrainingBatches(store, list(store.lengths), labels, config.train, config.model.gap)
    made.rank, made.ranks = ranks.rank, ranks.size
    return made, config


def gradients(ranks, settings, iteration, labelled=True):
    """(loss terms, x_ref, rows, gradients summed over the ranks) of one batch, in float64."""
    made, config = batches(ranks, settings, labelled)
    torch.manual_seed(0)
    network = D2Net(WIDTH, CLASSES, STREAMS, config.model).double()
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(std=0.3)
        network.classifier.bias.add_(0.3)
        network.reference.normal_()
    batch = made[iteration]
    torch.manual_seed(1)
    features = batch._replace(features=batch.features.double()).ragged()
    with rows_from(batch.whole and batch.whole.first_row):
        z = network.hidden(features)
    losses = head_losses(
        z, network.classifier(z).values, batch.labels, network.reference, config.loss, streams=STREAMS,
        iteration=iteration, generator=torch.Generator().manual_seed(2), others=others_of(batch, ranks),
    )  # fmt: skip
    losses.total.backward()
    grads = torch.cat([p.grad.flatten() for p in network.parameters()])
    if ranks.size > 1:
        torch.distributed.all_reduce(grads, group=ranks.group)
    return [x.detach() for x in losses], grads, len(batch.lengths)


def settings(recipe, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    made = {"model.dropout": 0.5, "train.batch_size": 7, "train.max_snippets": 20, "train.cache_gigabytes": 1}
    made |= {"loss.denoising_start": 2, "loss.denoising_every": 1, "loss.min_snippets": 2}
    return recipe, {**made, **changes}


CASES = {
    "release": settings("release"),
    "paper": settings("paper"),
    "release without L_D": settings("release", loss__denoising="none"),
    "paper without L_D": settings("paper", loss__denoising="none"),
    "random pairs, lowest": settings("paper", loss__pairs="random", loss__reference_source="lowest"),
    "all pairs, embedding": settings("release", loss__pairs="all", loss__reference_source="embedding"),
    "DMI": settings("release", loss__denoising_kind="DMI"),
    "L1": settings("paper", loss__denoising_kind="L1"),
    "CE, snippets alone": settings("release", loss__classification="CE", loss__denoising="snippet"),
    "videos alone": settings("paper", loss__denoising="video"),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_gradients_add_up_to_those_of_one_process(pool, name, size):
    for iteration in (1, 5):
        ((want, gradient, videos),) = pool.run(1, gradients, CASES[name], iteration)
        found = pool.run(size, gradients, CASES[name], iteration)
        assert videos == 7 and sum(own for _, _, own in found) == videos
        assert gradient.abs().max() > 1e-6
        for terms, summed, _ in found:
            for a, b in zip(terms, want, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
            assert (summed - gradient).norm() <= 1e-10 * gradient.norm()


@pytest.mark.parametrize("recipe", ["release", "paper"])
def test_a_rank_without_labels(pool, recipe):
    given = settings(recipe, train__batch_size=8, loss__min_snippets=13)
    ((want, gradient, _),) = pool.run(1, gradients, given, 5, False)
    for terms, summed, _ in pool.run(4, gradients, given, 5, False):
        assert torch.equal(terms[0].isfinite(), torch.tensor(True))
        torch.testing.assert_close(terms[0], want[0], rtol=1e-10, atol=0)
        assert (summed - gradient).norm() <= 1e-10 * gradient.norm()


def test_shares_are_even_in_rows():
    assert shares([5, 5, 5, 5], 2) == [2, 2] and shares([9, 1, 1, 1], 2) == [1, 3]
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random.integers(1, 50, random.integers(1, 12)).tolist()
        ranks = int(random.integers(1, len(lengths) + 1))
        counts = shares(lengths, ranks)
        assert len(counts) == ranks and min(counts) >= 1 and sum(counts) == len(lengths)
        ends = np.cumsum(counts)
        most = max(sum(lengths[e - n : e]) for e, n in zip(ends, counts, strict=True))
        assert most >= max(max(lengths), sum(lengths) / ranks)
        assert most <= sum(lengths) / ranks + max(lengths)
    with pytest.raises(ValueError, match="3 videos cannot be shared by 4 processes; start at most 3"):
        shares([1, 2, 3], 4)
