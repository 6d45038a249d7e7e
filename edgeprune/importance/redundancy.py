"""How little a block changes what goes through it."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.graph import Analysis
from edgeprune.graph.capture import eval_mode
from edgeprune.importance.watch import Watch, require_whole
from edgeprune.task import Task

BATCHES = 4


def redundancy(task: Task, analysis: Analysis) -> dict[str, float]:
    """For every removable block the mean cosine similarity of its input (the shortcut) and its output (after the addition), 0 to 1: at 1
    the block changes nothing and may go.

    Measured on a few training batches, or on the example inputs where the task has no data. Source: Men et al., "ShortGPT: Layers in
    Large Language Models are More Redundant Than You Expect", 2024 (block influence = 1 - this).
    """
    require_whole(analysis, "redundancy")
    batches = [batch.leaves for batch in islice(task.batches("train"), BATCHES)] if task.train is not None else [analysis.captured.inputs]
    wanted = {node for block in analysis.blocks for node in (block.shortcut, block.addition)}
    sums, count = dict.fromkeys((block.name for block in analysis.blocks), 0.0), 0
    watch = Watch(task.model, analysis, wanted)
    with eval_mode(task.model), torch.no_grad():
        for inputs in batches:
            values = watch.values_of(inputs)
            for block in analysis.blocks:
                sums[block.name] += float(_similarity(values[block.shortcut], values[block.addition]))
            count += 1
    return {name: total / max(count, 1) for name, total in sums.items()}


def _similarity(before: Tensor, after: Tensor) -> Tensor:
    return functional.cosine_similarity(before.flatten(1), after.flatten(1), dim=1).mean()
