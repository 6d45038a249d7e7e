"""Whether a run fits into this machine: its memory, and the threads that compute it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgeprune import host
from edgeprune.batches import Batch
from edgeprune.budget import format_quantity
from edgeprune.graph import Analysis
from edgeprune.graph.batch import batch_of
from edgeprune.search.events import EventStream
from edgeprune.task import Task

COPIES = 6
"""Of the weights, at most at once: the dense model, a candidate, what that is cut from, gradients, the optimizer's momenta, an export."""


def needed_bytes(task: Task, analysis: Analysis, first: Batch | None) -> int:
    """About how many bytes a training step of the dense model takes: the copies of its weights, and what its operations compute on the
    training batch ``first`` (one inference without it)."""
    weights = sum(value.numel() * value.element_size() for value in task.model.state_dict().values() if isinstance(value, Tensor))
    samples = first.size if first is not None else 1
    held = max(1, batch_of(analysis.captured.inputs))
    values = (node.meta.get("val") for node in analysis.captured.module.graph.nodes if node.op == "call_function")
    activations = sum(_bytes(value) for value in values if isinstance(value, Tensor))
    return COPIES * weights + activations * samples // held


def _bytes(value: Tensor) -> int:
    return math.prod(size if isinstance(size, int) else size.node.hint for size in value.shape) * value.element_size()


def warn_of_memory(task: Task, analysis: Analysis, first: Batch | None, events: EventStream) -> None:
    """Say before a run starts that it is likely not to fit into the memory that is free."""
    needed, free = needed_bytes(task, analysis, first), host.free_memory()
    if needed > free:
        events.warn(
            f"a training step needs about {format_quantity('memory', needed)} of memory, and {format_quantity('memory', free)} are free: "
            "use smaller batches, or end other programs"
        )


@contextmanager
def own_threads() -> Iterator[None]:
    """Compute with one thread a core that this process may use, not one a core of the machine: a container's quota counts.

    A number that was set (``OMP_NUM_THREADS``, ``torch.set_num_threads`` to fewer) stays.
    """
    before, wanted = torch.get_num_threads(), host.threads()
    if os.environ.get("OMP_NUM_THREADS") or before <= wanted:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
