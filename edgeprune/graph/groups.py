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
    clusters = _merged(list(by_signature.values()), flow, roots)
    groups: list[Group] = []
    for cluster, constraints in clusters:
        rows = _rows(cluster, flow, roots)
        if not isinstance(rows, str) and rows.shape[1] < 2:
            rows = "is the only channel of its row: at least one must stay"
        if isinstance(rows, str):
            fixed.update(dict.fromkeys(cluster, rows))
            continue
        touched = [keys[record] for channel in (cluster[0], cluster[-1]) for record, _ in signatures[channel]]
        producers = list(dict.fromkeys(name for name, axis in touched if axis == 0))
        readers = list(dict.fromkeys(name for name, axis in touched if axis != 0))
        groups.append(Group(_name(producers or readers, groups), rows, producers, readers, constraints))
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


def _merged(clusters: list[list[int]], flow: Flow, roots: np.ndarray) -> list[tuple[list[int], list[str]]]:
    """Clusters that stand in different rows of one balance go together; each with the balances it obeys."""
    place = {channel: index for index, cluster in enumerate(clusters) for channel in cluster}
    parent = list(range(len(clusters)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    reasons: dict[int, list[str]] = defaultdict(list)
    for matrix, reason in _matrices(flow, roots):
        rows = [{place[channel] for channel in row if channel in place} for row in matrix.tolist()]
        everywhere = set.intersection(*rows)
        partial = sorted(set.union(*rows) - everywhere)
        for other in partial[1:]:
            parent[find(other)] = find(partial[0])
        for index in set.union(*rows):
            reasons[index].append(reason)
    merged: dict[int, list[int]] = defaultdict(list)
    notes: dict[int, list[str]] = defaultdict(list)
    for index, cluster in enumerate(clusters):
        merged[find(index)] += cluster
        notes[find(index)] += [reason for reason in reasons[index] if reason not in notes[find(index)]]
    return [(sorted(cluster), notes[index]) for index, cluster in sorted(merged.items(), key=lambda item: min(item[1]))]


def _rows(cluster: list[int], flow: Flow, roots: np.ndarray) -> np.ndarray | str:
    """The cluster's channels as equal rows, fine enough for every balance; or why that cannot be."""
    members = set(cluster)
    row_of: dict[int, tuple[int, ...]] = dict.fromkeys(cluster, ())
    for matrix, reason in _matrices(flow, roots):
        found: dict[int, int] = {}
        for number, row in enumerate(matrix.tolist()):
            for channel in row:
                if channel in members and found.setdefault(channel, number) != number:
                    return f"stands in several rows of {reason}"
        if found:
            for channel in cluster:
                row_of[channel] = (*row_of[channel], found.get(channel, -1))
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for channel in cluster:
        rows[row_of[channel]].append(channel)
    if len({len(row) for row in rows.values()}) > 1:
        return "its rows are of different length and must stay balanced"
    return np.array(list(rows.values()), np.int64)
