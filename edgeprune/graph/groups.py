"""Channels that touch the same parameters in the same way form a group: the search's variable."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from edgeprune.graph.flow import Flow
from edgeprune.graph.labels import small


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
    by_signature: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for channel in sorted(signatures):
        if channel not in fixed:
            by_signature[tuple(signatures[channel])].append(channel)
    keys = list(flow.owners)
    groups: list[Group] = []
    for cluster in _balanced_clusters(list(by_signature.values()), flow, roots, fixed):
        rows = _rows(cluster, flow, roots)
        if isinstance(rows, str):
            fixed.update(dict.fromkeys(cluster.channels, rows))
            continue
        touched = [keys[record] for channel in rows[:, 0].tolist() for record, _ in signatures[channel]]
        producers = list(dict.fromkeys(owner[0] for owner in touched if owner in flow.producing))
        readers = list(dict.fromkeys(owner[0] for owner in touched if owner not in flow.producing))
        groups.append(Group(_name(producers or readers, groups), rows, producers, readers, cluster.balances))
    return groups, fixed


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


def _signatures(flow: Flow, roots: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """For every channel: the (parameter, axis) records that it stands in, and how often."""
    signatures: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for record, labels in enumerate(flow.owners.values()):
        channels, counts = np.unique(roots[small(labels).numpy()], return_counts=True)
        for channel, count in zip(channels.tolist(), counts.tolist(), strict=True):
            if channel:
                signatures[channel].append((record, count))
    return signatures


def _matrices(flow: Flow, roots: np.ndarray) -> list[tuple[np.ndarray, str]]:
    seen: dict[bytes, tuple[np.ndarray, str]] = {}
    for matrix, reason in flow.balances:
        resolved = roots[matrix.numpy()]
        ordered = np.sort(resolved, axis=1)
        if (ordered == ordered[0]).all():  # every row holds the same channels: always balanced
            continue
        seen.setdefault(resolved.tobytes() + str(resolved.shape).encode(), (resolved, reason))
    return list(seen.values())


@dataclass
class _Cluster:
    """Channels of one signature, or of several that must shrink together; ``balances``: why its rows are what they are."""

    channels: list[int]
    balances: list[str] = field(default_factory=list)


def _balanced_clusters(found: list[list[int]], flow: Flow, roots: np.ndarray, fixed: dict[int, str]) -> list[_Cluster]:
    """Clusters that keep every balance however they shrink: the others are merged when each fills a row of its own, else fixed."""
    clusters = [_Cluster(channels) for channels in found]
    matrices = _matrices(flow, roots)
    settled = False
    while not settled:
        settled = True
        for matrix, reason in matrices:
            uneven = [cluster for cluster in clusters if len(set(_counts(cluster, matrix))) > 1]
            if not uneven:
                continue
            settled = False
            clusters = [cluster for cluster in clusters if cluster not in uneven]
            if _one_row_each(uneven, matrix):
                clusters.append(_Cluster(sorted(channel for cluster in uneven for channel in cluster.channels)))
            else:
                for cluster in uneven:
                    fixed.update(dict.fromkeys(cluster.channels, f"would leave unequal rows: {reason}"))
    for cluster in clusters:
        cluster.balances = [reason for matrix, reason in matrices if any(_counts(cluster, matrix))]
    return sorted(clusters, key=lambda cluster: cluster.channels[0])


def _counts(cluster: _Cluster, matrix: np.ndarray) -> list[int]:
    """How many of the cluster's channels stand in every row."""
    counts: list[int] = np.isin(matrix, cluster.channels).sum(1).tolist()
    return counts


def _one_row_each(uneven: list[_Cluster], matrix: np.ndarray) -> bool:
    """Whether every row holds exactly one of the clusters, whole, and all are equally long."""
    counts = np.array([_counts(cluster, matrix) for cluster in uneven])
    return (
        len(uneven) == len(matrix)
        and bool(((counts > 0).sum(0) == 1).all() and ((counts > 0).sum(1) == 1).all())
        and len(set(counts.max(1).tolist())) == 1
    )


def _rows(cluster: _Cluster, flow: Flow, roots: np.ndarray) -> np.ndarray | str:
    """The cluster's channels as equal rows, fine enough for every balance; or why that cannot be."""
    row_of: dict[int, tuple[int, ...]] = dict.fromkeys(cluster.channels, ())
    for matrix, reason in _matrices(flow, roots):
        for channel in cluster.channels:
            held = np.flatnonzero((matrix == channel).any(1))
            if 1 < len(held) < len(matrix):
                return f"stands in several rows of {reason}"
            row_of[channel] = (*row_of[channel], int(held[0]) if len(held) == 1 else -1)
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for channel in cluster.channels:
        rows[row_of[channel]].append(channel)
    lengths = {len(row) for row in rows.values()}
    if len(lengths) > 1:
        return "its rows are of different length and must stay balanced"
    if lengths == {1}:
        return "is the only channel of its row: at least one must stay"
    return np.array(list(rows.values()), np.int64)
