"""Batch-norm statistics, measured again for the model as it is now."""

from __future__ import annotations

from itertools import chain, islice
from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.batches import Batch, as_batch
from edgeprune.errors import RecipeError
from edgeprune.task import Batches
from edgeprune.tuning.context import preserved_modes, seeded
from edgeprune.tuning.layout import laid_out, takes_channels_last

ONE_SAMPLE: Final = "more than 1 value per channel"
"""Of PyTorch's message where a batch norm gets one value for a channel."""

LEAVE_OUT: Final = "A batch norm needs two samples or more: let the data leave out a last batch of one (drop_last=True of a DataLoader)."


def recalibrate(model: nn.Module, batches: Batches, limit: int = 16) -> int:
    """Replace the running statistics of every batch norm by plain averages over the first ``limit`` of ``batches``.

    Pruning and training both leave them describing a model that no longer is. Nothing else changes: weights, dropout (off
    during the passes), momenta and training flags stay. Returns the number of batches used: zero, with nothing touched,
    when the model has no batch norm that tracks statistics or there are no batches. A batch of one sample is used only where the first is
    of one too. Raises :class:`RecipeError` where a batch norm gets one value for a channel.
    Source: Yu & Huang, "Universally Slimmable Networks", 2019, section 3.2.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    kept = [(norm, norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    count = 0
    with seeded(0), preserved_modes(model), torch.no_grad():
        used = islice(batches, limit)
        first = list(islice(used, 1))
        if not first:
            return 0
        model.eval()
        takes_channels_last(model, as_batch(first[0]))  # tried while there are statistics
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.training = True
            least = min(2, as_batch(first[0]).size)
            for batch in map(as_batch, chain(first, used)):
                if batch.size >= least:  # a last batch of one would count as much as the others, and may have no variance
                    _pass(model, batch)
                    count += 1
        finally:
            for norm, momentum, buffers in kept:
                norm.momentum = momentum
                if not norm.num_batches_tracked:  # only training runs it
                    for buffer, value in zip(norm.buffers(), buffers, strict=True):
                        buffer.copy_(value)
    return count


def _pass(model: nn.Module, batch: Batch) -> None:
    try:
        laid_out(model, batch).call(model)
    except ValueError as error:
        if ONE_SAMPLE not in str(error):
            raise
        raise RecipeError(f"the statistics of a batch norm cannot be measured on this batch: {error}", remedy=LEAVE_OUT) from error
