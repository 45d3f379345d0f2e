"""Batch-norm statistics over many batches, for a model that is about to be used."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ov_piano.data.chunks import ChunkDataset

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of ``model``, in eval mode, by averages over ``batches``, (b, mels, t) each.

    With the momentum of 0.85 that training uses, running statistics are little more than those
    of the last batch. Here every batch counts the same, and there is no dropout, as in use.
    Norms whose weights are frozen keep their statistics.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.weight.requires_grad]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for the cumulative average
        norm.train()
    with torch.no_grad():
        for logmel in batches:
            model(logmel)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def random_logmels(chunks: ChunkDataset, batches: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The log-mels (b, mels, t) of that many batches of different chunks: the same for the same seed."""
    items = np.random.default_rng(seed).permutation(len(chunks))[: batches * batch_size]
    for batch in np.array_split(items, max(1, len(items) // batch_size)):
        yield chunks.__getitems__(batch).logmel
