"""Batch-norm statistics, measured again for the model as it is now."""

from __future__ import annotations

from itertools import chain, islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.batches import as_batch
from edgeprune.task import Batches
from edgeprune.tuning.context import preserved_modes, seeded
from edgeprune.tuning.layout import laid_out, takes_channels_last


def recalibrate(model: nn.Module, batches: Batches, limit: int = 16) -> int:
    """Replace the running statistics of every batch norm by plain averages over the first ``limit`` of ``batches``.

    Pruning and training both leave them describing a model that no longer is. Nothing else changes: weights, dropout (off
    during the passes), momenta and training flags stay. Returns the number of batches used: zero, with nothing touched,
    when the model has no batch norm that tracks statistics or there are no batches.
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
            for count, batch in enumerate(chain(first, used), 1):  # noqa: B007  (the count is returned)
                laid_out(model, as_batch(batch)).call(model)
        finally:
            for norm, momentum, buffers in kept:
                norm.momentum = momentum
                if not norm.num_batches_tracked:  # only training runs it
                    for buffer, value in zip(norm.buffers(), buffers, strict=True):
                        buffer.copy_(value)
    return count
