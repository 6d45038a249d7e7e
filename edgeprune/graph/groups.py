"""Channels that touch the same parameters in the same way form a group: the search's variable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from edgeprune.graph.flow import Flow
from edgeprune.graph.labels import squeeze_constant, varying


@dataclass
class Group:
    """Channels one number decides about.

    ``rows``: (R, K) array of channels; every row keeps the same number k of its K channels, so R * k of R * K stay (R is 1 unless grouped
    convolutions or a reshape ask for equal rows). ``producers``/``readers``: names of the parameters whose rows/columns they are.
    """

    name: str
    rows: np.ndarray
    producers: list[str]
    readers: list[str]
    constraints: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """K: how many units there are to keep."""
        return int(self.rows.shape[1])

    @property
    def channels(self) -> int:
        """R * K: how many channels the group has in all."""
        return int(self.rows.size)


def build_groups(flow: Flow) -> tuple[list[Group], dict[int, str]]:
    """The groups, in the order of the graph, and for every fixed channel the reason."""
    roots = flow.channels.roots()
    fixed = _fixed(flow, roots)
    signatures = _signatures(flow, roots)
    by_signature: dict[bytes, list[int]] = defaultdict(list)
    for channel, signature in signatures.items():
        if channel not in fixed:
            by_signature[signature.tobytes()].append(channel)
    keys = list(flow.owners)
    groups: list[Group] = []
    united = {int(roots[label]): f"{reason}: they go together" for label, reason in reversed(flow.channels.collapsed)}
    matrices = _matrices(flow, roots)
    for cluster in _balanced_clusters(list(by_signature.values()), matrices, fixed):
        rows = _rows(cluster, matrices)
        if isinstance(rows, str):
            rows = ", and ".join([*dict.fromkeys(united[channel] for channel in cluster.channels if channel in united), rows])
            fixed.update(dict.fromkeys(cluster.channels, rows))
            continue
        touched = [keys[record] for channel in rows[:, 0].tolist() for record in signatures[channel][0]]
        producers = list(dict.fromkeys(owner[0] for owner in touched if owner in flow.producing))
        readers = list(dict.fromkeys(owner[0] for owner in touched if owner not in flow.producing))
        groups.append(Group(_name(producers or readers, groups), rows, producers, readers, cluster.balances))
    return groups, _with_layers(flow, roots, fixed)


def _with_layers(flow: Flow, roots: np.ndarray, fixed: dict[int, str]) -> dict[int, str]:
    """The reasons with the layers that make the channels, or, where none does, that read them."""
    layers: dict[int, dict[str, None]] = defaultdict(dict)
    staying = np.zeros(len(roots), bool)
    staying[list(fixed)] = True
    for owner in sorted(flow.owners, key=lambda owner: owner not in flow.producing):
        channels = np.unique(roots[squeeze_constant(flow.owners[owner]).numpy()])
        for channel in channels[staying[channels]].tolist():
            if owner in flow.producing or channel not in layers:
                layers[channel][owner[0].rpartition(".")[0] or owner[0]] = None
    return {channel: ": ".join([*_brief(layers[channel]), reason]) for channel, reason in fixed.items()}


def _brief(names: Iterable[str]) -> list[str]:
    """The first of several names, and how many more there are, as one text; none for none."""
    first, *others = [*names, ""]
    more = len(others) - 1
    return [f"{first} and {more} more" if more > 0 else first] if first else []


def _name(parameters: list[str], groups: list[Group]) -> str:
    base = parameters[0].rpartition(".")[0] or parameters[0]
    taken = {group.name for group in groups}
    name, number = base, 2
    while name in taken:
        name, number = f"{base}#{number}", number + 1
    return name


def _fixed(flow: Flow, roots: np.ndarray) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for label, reason in flow.channels.fixed.items():
        reasons.setdefault(int(roots[label]), reason)
    return reasons


def _signatures(flow: Flow, roots: np.ndarray) -> dict[int, np.ndarray]:
    """For every channel, in order: the numbers of the (parameter, axis) records that it stands in, and below them how often."""
    seen = [np.zeros((3, 0), np.int64)]
    for record, labels in enumerate(flow.owners.values()):
        channels, counts = np.unique(roots[squeeze_constant(labels).numpy()], return_counts=True)
        seen.append(np.stack([channels, np.full_like(channels, record), counts]))
    all_seen = np.concatenate(seen, 1)
    all_seen = all_seen[:, np.argsort(all_seen[0], kind="stable")]
    channels, starts = np.unique(all_seen[0], return_index=True)
    parts = np.split(all_seen[1:], starts[1:], axis=1)
    return {channel: part for channel, part in zip(channels.tolist(), parts, strict=False) if channel}


class _Matrix:
    """Rows that must keep equally many channels. ``rows_of``: for every channel in it, the rows it stands in."""

    def __init__(self, channels: np.ndarray, reason: str) -> None:
        self.reason, self.count = reason, channels.shape[0]
        places = np.stack([channels.ravel(), np.repeat(np.arange(channels.shape[0]), channels.shape[1])], 1)
        self.rows_of: dict[int, tuple[int, ...]] = {}
        pairs = np.unique(places[places[:, 0] != 0], axis=0)
        starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
        for first, last in zip(starts, [*starts[1:], len(pairs)], strict=True):
            self.rows_of[int(pairs[first, 0])] = tuple(pairs[first:last, 1].tolist())

    def classes(self, channels: list[int]) -> dict[tuple[int, ...], list[int]]:
        """The channels that stand here, by the rows they stand in."""
        found: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for channel in channels:
            if channel in self.rows_of:
                found[self.rows_of[channel]].append(channel)
        return found

    def balanced(self, channels: list[int]) -> bool:
        """Whether the channels can shrink by themselves: none here, or equally many in every row, each in one class of rows."""
        classes = self.classes(channels)
        rows = [row for held in classes for row in held]
        return not rows or (len(rows) == len(set(rows)) == self.count and len({len(held) for held in classes.values()}) == 1)

    def joins(self, clusters: list[list[int]]) -> bool:
        """Whether the clusters can only shrink together: each has rows of its own, and all of it stands in them."""
        held = [row for cluster in clusters for row in self.classes(cluster)]
        together = [channel for cluster in clusters for channel in cluster]
        return len(held) == len(set(held)) and self.balanced(together) and all(channel in self.rows_of for channel in together)


def _matrices(flow: Flow, roots: np.ndarray) -> list[_Matrix]:
    seen: dict[tuple[tuple[int, ...], bytes], _Matrix] = {}
    found = [(labels, reason) for labels, reason in flow.balances] + [(_box(flow, labels), reason) for labels, reason in flow.boxes]
    for labels, reason in found:
        if labels is None:
            continue
        resolved = roots[labels.numpy()]
        ordered = np.sort(resolved, axis=1)
        if not (ordered == ordered[0]).all():  # else every row holds the same channels: always balanced
            seen.setdefault((resolved.shape, resolved.tobytes()), _Matrix(resolved, reason))
    return list(seen.values())


def _box(flow: Flow, labels: Tensor) -> Tensor | None:
    """The rows of an array whose channels change along several dimensions; None when whole slices go."""
    labels = flow.channels.resolve(labels)
    dims = varying(labels)
    if len(dims) < 2:
        return None
    core = squeeze_constant(labels).movedim(dims[-1], -1)
    return core.reshape(-1, core.shape[-1])


@dataclass
class _Cluster:
    """Channels of one signature, or of several that must shrink together; ``balances``: why its rows are what they are."""

    channels: list[int]
    balances: list[str] = field(default_factory=list)


def _balanced_clusters(found: list[list[int]], matrices: list[_Matrix], fixed: dict[int, str]) -> list[_Cluster]:
    """Clusters that keep every balance however they shrink: the others are merged where that helps, else fixed."""
    clusters = [_Cluster(channels) for channels in found]
    settled = False
    while not settled:
        settled = True
        for matrix in matrices:
            uneven = [cluster for cluster in clusters if not matrix.balanced(cluster.channels)]
            if not uneven:
                continue
            settled = False
            clusters = [cluster for cluster in clusters if cluster not in uneven]
            together = sorted(channel for cluster in uneven for channel in cluster.channels)
            if matrix.joins([cluster.channels for cluster in uneven]):
                clusters.append(_Cluster(together))
            else:
                fixed.update(dict.fromkeys(together, f"would leave unequal rows: {matrix.reason}"))
    for cluster in clusters:
        cluster.balances = [matrix.reason for matrix in matrices if matrix.classes(cluster.channels)]
    return sorted(clusters, key=lambda cluster: cluster.channels[0])


def _rows(cluster: _Cluster, matrices: list[_Matrix]) -> np.ndarray | str:
    """The cluster's channels as equal rows, fine enough for every balance; or why that cannot be."""
    row_of: dict[int, tuple[tuple[int, ...], ...]] = dict.fromkeys(cluster.channels, ())
    for matrix in matrices:
        if matrix.classes(cluster.channels):
            for channel in cluster.channels:
                row_of[channel] = (*row_of[channel], matrix.rows_of.get(channel, ()))
    rows: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for channel in cluster.channels:
        rows[row_of[channel]].append(channel)
    lengths = {len(row) for row in rows.values()}
    if len(lengths) > 1:
        return "its rows have different lengths and must stay balanced"
    if lengths == {1}:
        return "is the only channel of its row: at least one must stay"
    return np.array(list(rows.values()), np.int64)
