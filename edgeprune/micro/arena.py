"""A model in TFLite Micro's own interpreter on this machine: the arena it needs, and what it computes."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.decode import convert
from edgeprune.errors import ExportError
from edgeprune.files import parse_json
from edgeprune.micro.operators import require_supported
from edgeprune.tflite.graph import MicroGraph, Tensor, read_graph

TIME_LIMIT_S = 300.0
ROOM_BYTES = 4 * 2**20

_PART = re.compile(r"'(.+?)' used (\d+) bytes")
_NODE = re.compile(r"Node (\S+) \(number (\d+)(?:f)?\) failed")


@dataclass(frozen=True)
class Arena:
    """``used_bytes``: what stays in use, as TFLite Micro's ``print_allocations`` counts it: ``head_bytes`` of activations and scratch,
    ``tail_bytes`` of what persists (``parts`` by name, as far as it says). ``needed_bytes``: the smallest arena, in steps of 16, in which
    the model starts and runs: starting may take more for a moment. ``version``: of tflite-micro.

    It is that of the reference kernels on a 64-bit machine. Where pointers have 32 bits what persists is smaller; optimised kernels
    (CMSIS-NN, ESP-NN) ask for scratch of their own.
    """

    used_bytes: int
    head_bytes: int
    tail_bytes: int
    needed_bytes: int
    parts: dict[str, int]
    version: str


def tflite_micro_version() -> str:
    """The version that is installed.  Raises :class:`ExportError` where none is."""
    try:
        return version("tflite-micro")
    except PackageNotFoundError:
        raise _not_installed() from None


def _not_installed() -> ExportError:
    return ExportError(
        "the arena is measured by tflite-micro, which is not installed", remedy="pip install 'edgeprune[micro]' (Linux on x86-64)."
    )


def measure_arena(content: bytes, name: str = "the model") -> Arena:
    """The arena of a TFLite file.  ``name``: what messages call it.

    The interpreter runs in a child process, for it aborts its process on some failures.  Raises :class:`ExportError`: an operator that
    TFLite Micro lacks, one that it refuses to prepare or run (named, with its own words), tflite-micro not installed.
    """
    graph = read_graph(content, name)
    require_supported(graph, name)
    said = _ask(content, graph, [_zeros(tensor, name) for tensor in graph.inputs], name)
    try:
        answer = convert(parse_json(said), _Answer)
        words = answer.allocations
        used, head, tail = (int(words.partition(f"allocation {part} ")[2].split()[0]) for part in ("total", "head", "tail"))
    except (ValueError, IndexError) as error:
        raise ExportError(
            f"{name}: TFLite Micro's interpreter does not report how much of the arena it used: {error}",
            remedy="Install the version of tflite-micro that edgeprune[micro] asks for.",
        ) from error
    parts = {part: int(size) for part, size in _PART.findall(words)}
    return Arena(used, head, tail, answer.least_bytes, parts, answer.version)


@dataclass(frozen=True)
class _Answer:
    """``allocations``: TFLite Micro's own words."""

    version: str
    allocations: str
    least_bytes: int


def _zeros(tensor: Tensor, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.zeros(tensor.shape, tensor.dtype)
    except TypeError as error:
        raise ExportError(
            f"{name}: the input {tensor.name!r} is {tensor.dtype}, a type that firmware does not have",
            remedy="Export the model with int8 inputs.",
        ) from error


def run_micro(content: bytes, inputs: Sequence[np.ndarray[Any, Any]], name: str = "the model") -> list[np.ndarray[Any, Any]]:
    """The outputs of a TFLite file by TFLite Micro's reference kernels, for inputs of its own types.  Raises as :func:`measure_arena`."""
    graph = read_graph(content, name)
    require_supported(graph, name)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        outputs = Path(folder, "outputs.npz")
        _ask(content, graph, inputs, name, str(outputs), str(len(graph.outputs)))
        with np.load(outputs) as held:
            return [held[f"arr_{index}"] for index in range(len(graph.outputs))]


def _ask(content: bytes, graph: MicroGraph, inputs: Sequence[np.ndarray[Any, Any]], name: str, *wanted: str) -> str:
    """What the child process prints."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        path, given = Path(folder, "model.tflite"), Path(folder, "inputs.npz")
        path.write_bytes(content)
        np.savez(given, *inputs)
        child = Path(__file__).with_name("child.py")
        command = [sys.executable, "-P", str(child), str(path), str(_upper(graph)), str(given), *wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise ExportError(f"{name}: TFLite Micro's interpreter did not end within {TIME_LIMIT_S:g} s and was stopped") from None
    if done.returncode != 0:
        raise _refused(done.returncode, done.stderr, graph, name)
    return done.stdout


def _upper(graph: MicroGraph) -> int:
    """More bytes than the model can need: all activations at once and bookkeeping for every tensor, channel and operator.

    A multiple of 16, as arenas are: what persists is laid down from the end, and would take padding.
    """
    activations = sum(tensor.bytes for tensor in graph.tensors if not tensor.constant)
    channels = sum(len(tensor.scales) for tensor in graph.tensors)
    upper = 2 * activations + 64 * channels + 1024 * (len(graph.tensors) + len(graph.operators)) + ROOM_BYTES
    return -(-upper // 16) * 16


def _refused(code: int, words: str, graph: MicroGraph, name: str) -> ExportError:
    if "No module named 'tflite_micro'" in words:
        return _not_installed()
    lines = [line.strip() for line in words.splitlines() if line.strip() and not line.startswith(("Traceback", "  "))]
    if found := _NODE.search(words):
        operator, node = found[1], int(found[2])
        entry = next((entry for entry in graph.operators if entry.node == node and entry.name == operator), None)
        why = next((line for line in lines if not line.startswith("Node ")), "without giving a reason")
        return ExportError(
            f"{name}: TFLite Micro refuses {entry.place if entry else found[0]}: {why}",
            remedy="Replace that operation in the model, or export the model as full-integer int8.",
        )
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return ExportError(f"{name}: TFLite Micro's interpreter ended {how}: {lines[-1] if lines else 'without a message'}")
