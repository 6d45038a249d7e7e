"""Sparse weights, fewer channels, or both: which keeps more of a model under its budgets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from edgeprune.bench import BenchOptions, open_device
from edgeprune.cost.latency import LatencyModel
from edgeprune.cost.sparse_kernels import SparseCost, SparsePoint, SparseTimes
from edgeprune.cost.table import Table
from edgeprune.engines import TFLITE
from edgeprune.errors import DeviceError, InfeasibleBudgetError
from edgeprune.search.plan.planner import Planner

Kind = Literal["channel", "sparse", "both"]

SPARSITIES: Final = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Shares of zeros that are considered: from where XNNPACK takes its sparse kernels to where little is left."""


@dataclass(frozen=True)
class SparseOption:
    """One way to meet the budgets: ``widths`` of the groups, and the share ``sparsity`` of the 1x1 convolutions' weights that is zero."""

    kind: Kind
    sparsity: float
    widths: dict[str, int]
    latency_ms: float


def measure_sparse(target: str, points: Sequence[SparsePoint], table: Table, options: BenchOptions | None = None) -> SparseCost:
    """What sparse kernels cost on a device: the chains of ``points`` that ``table`` lacks are measured in one session and kept in it.

    Raises :class:`DeviceError` when the device cannot run one, and what opening the device raises.
    """
    files = {name: content for point in points for name, content in point.files().items() if name not in table.times}
    if files:
        with open_device(target) as device:
            found = device.table(files, TFLITE, options)
        for name, time in found.items():
            if time.error is not None:
                raise DeviceError(f"sparse kernel {name} failed on {target}: {time.error}", remedy="Update the runtime on the device.")
        table.add({name: time.median_ns / 1e6 for name, time in found.items()})
    return SparseCost.fit([(point, point.milliseconds(table.times)) for point in points])


def with_sparse(planner: Planner, cost: SparseCost, sparsity: float, factor: float = 1.0) -> Planner:
    """A planner for the same model with sparse 1x1 convolutions.  ``factor``: what predictions are multiplied by, from a measurement."""
    sparse, dense = copy.copy(planner), planner.latency
    kinds = {kernel.spec.kind for kernel in planner.kernels}
    scale = {kind: factor * dense.scale.get(kind, 1.0) for kind in kinds}
    times = SparseTimes(dense.times, cost, sparsity, dense.times.measured)
    sparse.latency = LatencyModel(planner.kernels, times, factor * dense.overhead_ms, scale)
    return sparse


def sparse_options(
    planner: Planner, cost: SparseCost | None, curves: Mapping[str, Sequence[float]], limits: Mapping[str, float], factor: float = 1.0
) -> list[SparseOption]:
    """Every way to meet ``limits``: fewer channels alone; each sparsity with as many channels as it leaves room for; and the lowest
    sparsity that needs no channel to go.  Without ``cost`` (nothing would run sparse) only the first.

    ``curves``: what each group keeps at each of its widths, see :meth:`Planner.solve`. ``limits``: by kind, in ms, bytes, mJ; the file's
    size and memory count as a dense model's. Raises :class:`InfeasibleBudgetError` when there is no way.
    """
    found: list[SparseOption] = []
    failure: InfeasibleBudgetError | None = None
    try:
        widths = planner.solve(curves, limits)
        found.append(SparseOption("channel", 0.0, widths, planner.predict(widths).latency_ms))
    except InfeasibleBudgetError as error:
        failure = error
    for sparsity in SPARSITIES if cost is not None else ():
        assert cost is not None
        sparse = with_sparse(planner, cost, sparsity, factor)
        whole = sparse.predict(sparse.dense)
        if all(whole.predicted(kind) <= limit for kind, limit in limits.items()):
            found.append(SparseOption("sparse", sparsity, dict(sparse.dense), whole.latency_ms))
            break
        with suppress(InfeasibleBudgetError):
            widths = sparse.solve(curves, limits)
            found.append(SparseOption("both", sparsity, widths, sparse.predict(widths).latency_ms))
    if not found and failure is not None:
        raise failure
    return found


def sparse_choice(options: Iterable[SparseOption], loss: Callable[[SparseOption], float]) -> tuple[SparseOption, list[float]]:
    """The option of least ``loss``, and the loss of each in order."""
    tried = list(options)
    losses = [loss(option) for option in tried]
    return tried[losses.index(min(losses))], losses
