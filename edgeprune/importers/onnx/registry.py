"""The operators that are read, by name and versions of their definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Operator = Callable[..., Any]
"""Takes a :class:`~edgeprune.importers.onnx.builder.Call`; returns a value, or a sequence of values for the node's outputs (None for those
that nothing may read)."""


@dataclass(frozen=True)
class Entry:
    """One function that reads the versions ``since`` to ``until`` of an operator."""

    since: int
    until: int
    function: Operator


_OPERATORS: Final[dict[str, list[Entry]]] = {}
FOREVER = 10_000


def operator(*names: str, since: int = 1, until: int = FOREVER) -> Callable[[Operator], Operator]:
    """Register what reads the operators ``names`` of the operator sets ``since`` to ``until``.  Raises :class:`ValueError` for a second
    function of the same."""

    def add(function: Operator) -> Operator:
        for name in names:
            entries = _OPERATORS.setdefault(name, [])
            for entry in entries:
                if since <= entry.until and entry.since <= until:
                    raise ValueError(f"operator {name} of set {max(since, entry.since)} is registered twice")
            entries.append(Entry(since, until, function))
        return function

    return add


def find(name: str, version: int) -> Operator | None:
    """What reads operator ``name`` of operator set ``version``; None where nothing does."""
    return next((entry.function for entry in _OPERATORS.get(name, []) if entry.since <= version <= entry.until), None)


def names() -> list[str]:
    """All operators that are read, sorted."""
    return sorted(_OPERATORS)
