"""Re-estimate batch-norm statistics over many batches before a model is used."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ov_piano.data.chunks import ChunkDataset
from ov_piano.model.ends import has_end_stage

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of ``model`` (in eval mode) with averages over ``batches``, (b, mels, t) each.

    With a momentum of 0.85, as in training, running statistics are hardly more than those of
    the last batch. Here all batches have equal weight, and dropout is off as in inference.
    Norms with frozen weights keep their statistics.
    """
    found = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    norms = [norm for norm in found if norm.weight is None or norm.weight.requires_grad]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch: cumulative average
        norm.train()
    with torch.no_grad():
        for logmel in batches:
            (model.infer if has_end_stage(model) else model)(logmel)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def random_logmels(chunks: ChunkDataset, batches: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Log-mels (b, mels, t) of ``batches`` batches of randomly chosen distinct chunks; ``seed`` fixes the choice."""
    items = np.random.default_rng(seed).permutation(len(chunks))[: batches * batch_size]
    for batch in np.array_split(items, max(1, len(items) // batch_size)):
        yield chunks.__getitems__(batch).logmel
