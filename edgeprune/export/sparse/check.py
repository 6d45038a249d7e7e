"""Whether XNNPACK will take its sparse kernels for a TFLite file on ARM, and if not, which operator is in the way.

XNNPACK runs a *cluster* of operators channel by channel (NCHW): a 3x3 stride-2 convolution on the image's three channels, 1x1
convolutions, depthwise ones, additions, multiplications and activations, up to a mean over height and width. It does so only where every
operator of the cluster and every reader of its values can, where more than two thirds of the cluster's 1x1 (and fully-connected) weights
are zero, and where a weight was stored sparse.  This module follows ``xnn_subgraph_rewrite_for_nchw`` of XNNPACK's ``src/subgraph.c``
(commit 75db3c09, August 2026), step by step; it was compared with ai-edge-litert 2.3.0 on aarch64.  On x86 with AVX XNNPACK never does.

A cluster that is cut off before its mean is not only slow: XNNPACK then reads channel-first values as channel-last ones, and the file
computes something else on ARM, or does not load.  Such operators are marked (``wrong``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune.errors import ExportError, InputError
from edgeprune.export.sparse.nodes import Layout, Node, nodes_of
from edgeprune.tflite.file import TfliteFile

_MEMBER = Layout.INSIDE | Layout.END


@dataclass(frozen=True)
class Finding:
    """One operator that is in the way: its place in the file and what it is, ``why``, and what may be done (``remedy``).

    ``wrong``: with it, the file computes something else on ARM, or does not load there.
    """

    index: int
    operation: str
    output: str
    why: str
    remedy: str
    wrong: bool = False


@dataclass(frozen=True)
class SparseReport:
    """``sparse`` of the file's ``pointwise`` 1x1 convolutions will run by XNNPACK's sparse kernels on ARM, of whose weights the share
    ``zeros`` is zero.

    ``findings``: what keeps the others from it, in the order of the file.
    """

    pointwise: int
    sparse: int
    zeros: float
    findings: tuple[Finding, ...]

    @property
    def taken(self) -> bool:
        """Whether sparse kernels will run, and compute what they should."""
        return self.sparse > 0 and not self.wrong

    @property
    def wrong(self) -> bool:
        """Whether the file computes something else on ARM, or does not load there."""
        return any(finding.wrong for finding in self.findings)


@dataclass
class Cluster:
    """What XNNPACK would run channel by channel: ``members``, of whose ``parameters`` 1x1 and fully-connected weights ``zeros`` are zero.

    ``cause``: why it does not, if so. ``leaks``: members that would hand on channel-first values as if they were channel-last.
    """

    members: list[Node] = field(default_factory=list)
    parameters: int = 0
    zeros: int = 0
    cause: Finding | None = None
    leaks: list[Node] = field(default_factory=list)


def sparse_check(source: bytes | str | Path) -> SparseReport:
    """Judge a TFLite file, given as bytes or by its path.

    Raises :class:`InputError` when there is no such file, :class:`ExportError` when it is not a TFLite file.
    """
    if isinstance(source, bytes):
        return check_file(TfliteFile(source))
    path = Path(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}", remedy="Give the path of a TFLite file.") from error
    return check_file(TfliteFile(content, str(path)))


def check_file(file: TfliteFile) -> SparseReport:
    """:func:`sparse_check` of a file that is open."""
    try:
        return _judged(file)
    except Exception as error:  # a shape or an option that no operator can have
        raise ExportError(f"{file.title} is damaged: {error}", remedy="Export or copy it again.") from error


def _judged(file: TfliteFile) -> SparseReport:
    nodes = nodes_of(file)
    found = clusters(file, nodes)
    pointwise = [node for node in nodes if node.is_pointwise]
    good = [cluster for cluster in found if cluster.cause is None and not cluster.leaks]
    running = [node for cluster in good for node in cluster.members if node.is_pointwise]
    findings = {cluster.cause.index: cluster.cause for cluster in found if cluster.cause is not None and _weighs(cluster)}
    findings |= {node.index: _leak(file, node) for cluster in found if cluster.cause is None for node in cluster.leaks}
    total = sum(cluster.parameters for cluster in good)
    return SparseReport(
        len(pointwise),
        len(running),
        sum(cluster.zeros for cluster in good) / total if total else 0.0,
        tuple(findings[index] for index in sorted(findings)),
    )


def _weighs(cluster: Cluster) -> bool:
    return any(node.is_pointwise for node in cluster.members)


def _leak(file: TfliteFile, node: Node) -> Finding:
    return Finding(
        node.index,
        node.operation,
        file.name(node.output),
        "it ends a sparse part without a mean over height and width: ARM devices would misread its output",
        "Export tflite-sparse, which keeps it out of the sparse part; to make that part run, end it in a global average.",
        wrong=True,
    )


def clusters(file: TfliteFile, nodes: list[Node]) -> list[Cluster]:
    """The clusters of ``nodes``, in order, each with what XNNPACK makes of it."""
    joined = _Joined(file, nodes)
    found: dict[int, Cluster] = {}
    for place, node in enumerate(nodes):
        cluster = found.setdefault(joined.leader(place), Cluster())
        cluster.members.append(node)
        cluster.cause = cluster.cause or joined.causes.get(place)
        if node.weights is not None:
            size, zeros = _weights(file, node.weights)
            cluster.parameters, cluster.zeros = cluster.parameters + size, cluster.zeros + zeros
    made = list(found.values())
    _judge_readers(file, nodes, made)
    for cluster in made:
        cluster.cause = cluster.cause or _too_little(file, cluster, joined.ended)
    _find_leaks(made)
    return made


class _Joined:
    """Nodes joined to their producers (XNNPACK's steps 1 and 2), and why a node cannot be (``causes``, by place).  ``ended``: whether
    any mean is reached."""

    def __init__(self, file: TfliteFile, nodes: list[Node]) -> None:
        self._file, self._nodes = file, nodes
        self._producer = {node.output: place for place, node in enumerate(nodes)}
        self._leader = list(range(len(nodes)))
        self.causes: dict[int, Finding] = {}
        for place, node in enumerate(nodes):
            if not node.verdict.layout & (_MEMBER | Layout.START):
                self.causes[place] = self._finding(node, node.verdict.why, node.verdict.remedy)
        ends = [place for place, node in enumerate(nodes) if Layout.END in node.verdict.layout]
        self.ended = sum(self._join(place) for place in ends) > 0
        for place, node in enumerate(nodes):
            if node.verdict.layout & _MEMBER:
                self._join(place)

    def leader(self, place: int) -> int:
        """The first of the nodes joined with the one at ``place``."""
        while self._leader[place] != place:
            place = self._leader[place]
        return place

    def _join(self, place: int) -> bool:
        """Join a node with what it reads; True when it was joined to something."""
        done = False
        for tensor in self._nodes[place].inputs:
            producer = self._producer.get(tensor)
            if producer is None:
                why = "it reads the model's input, channel-last, and is no 3x3 convolution of stride 2"
                remedy = "Begin with a 3x3 convolution of stride 2 and padding 1 on the image's 3 channels."
                self.causes.setdefault(place, self._finding(self._nodes[place], why, remedy))
            elif producer in self.causes:
                self.causes.setdefault(place, self.causes[producer])
            else:
                ours, theirs = sorted((self.leader(place), self.leader(producer)))
                self._leader[theirs] = ours
                done = True
        return done

    def _finding(self, node: Node, why: str, remedy: str) -> Finding:
        return Finding(node.index, node.operation, self._file.name(node.output), why, remedy)


def _weights(file: TfliteFile, tensor: int) -> tuple[int, int]:
    """How many weights, and how many of them are zero; looks behind a DENSIFY."""
    for operator in file.operators:
        if int(operator.outputs[0]) == tensor and file.operation(operator) == "DENSIFY":
            tensor = int(operator.inputs[0])
    size, values = int(np.prod(file.shape(tensor))), file.constant(tensor)
    return size, 0 if values is None else size - int(np.count_nonzero(values))


def _judge_readers(file: TfliteFile, nodes: list[Node], found: list[Cluster]) -> None:
    """A value that a member reads must be read by members only (XNNPACK's step 3)."""
    outputs = {int(tensor) for tensor in file.graph.outputs}
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    good = {node.index for cluster in found if cluster.cause is None for node in cluster.members if node.verdict.layout & _MEMBER}
    causes = {node.index: cluster.cause for cluster in found for node in cluster.members}
    for cluster in found:
        for tensor in (tensor for node in cluster.members if node.index in good for tensor in node.inputs):
            other = next((node for node in readers[tensor] if node.index not in good), None)
            if cluster.cause is None and other is not None:
                cluster.cause = causes[other.index] or Finding(
                    other.index, other.operation, file.name(other.output), "it reads a value of the sparse part", "Let it read another."
                )
            elif cluster.cause is None and tensor in outputs:
                name = file.name(tensor)
                cluster.cause = Finding(
                    cluster.members[0].index, "output", name, "an output of the model lies inside the sparse part", "Return it by a mean."
                )


def _too_little(file: TfliteFile, cluster: Cluster, ended: bool) -> Finding | None:
    """What is missing from a cluster that could run: an end, a weight stored sparse, enough zeros."""
    if not _weighs(cluster):
        first = cluster.members[0]
        return Finding(first.index, first.operation, file.name(first.output), "it has no 1x1 convolution", "")
    last = [node for node in cluster.members if node.is_pointwise][-1]

    def finding(why: str, remedy: str, node: Node = last) -> Finding:
        return Finding(node.index, node.operation, file.name(node.output), why, remedy)

    if not ended:
        return finding("no mean over height and width follows the last 1x1 convolution", "End the convolutions in a global average.")
    if not any(file.operation(operator) == "DENSIFY" for operator in file.operators):
        return finding("its weights are stored with their zeros", "Export the format tflite-sparse.")
    if 3 * cluster.zeros > 2 * cluster.parameters:
        return None
    share = f"{100 * cluster.zeros / cluster.parameters:.0f} % of the {cluster.parameters} weights of the part"
    dense = next((node for node in cluster.members if node.operation == "FULLY_CONNECTED"), None)
    if dense is not None:
        size, zeros = _weights(file, dense.weights) if dense.weights is not None else (0, 0)
        if 3 * (cluster.zeros - zeros) > 2 * (cluster.parameters - size):
            why = f"its {size} weights count with those of the 1x1 convolutions, because it follows the mean directly: {share} are zero"
            return finding(why, "Put a RESHAPE between the mean and it (tflite-sparse does), or make it sparse too.", dense)
    return finding(f"{share} up to it are zero, and more than two thirds must be", "Raise the sparsity to 70 % or more.")


def _find_leaks(found: list[Cluster]) -> None:
    """Members whose values are channel-first inside the running clusters, and are read by nobody there."""
    running = [cluster for cluster in found if cluster.cause is None]
    read = {tensor for cluster in running for node in cluster.members if node.verdict.layout & _MEMBER for tensor in node.inputs}
    for cluster in running:
        cluster.leaks = [
            node
            for node in cluster.members
            if node.verdict.layout == Layout.INSIDE and node.output not in read and node.operation != "FULLY_CONNECTED"
        ]
