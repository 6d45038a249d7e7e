"""Images of two classes for tests of training: small, learnt in seconds, the same every time."""

from __future__ import annotations

import torch


def blobs(count: int, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ``count`` images (3 x 8 x 8) and their classes, told apart by the sign of their mean; the last batch may be smaller."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 3, 8, 8, generator=generator) + (labels * 2 - 1).float().view(-1, 1, 1, 1) * 0.5
    return [(images[at : at + batch], labels[at : at + batch]) for at in range(0, count, batch)]
