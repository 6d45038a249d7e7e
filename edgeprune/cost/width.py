"""How wide a tensor is, as a function of how much every group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

Widths = Mapping[str, int]
"""For every group how many of its units stay."""


@dataclass(frozen=True)
class WidthExpr:
    """``constant + sum(factor * widths[group])`` channels.  ``terms``: (group, factor) pairs, sorted."""

    constant: float
    terms: tuple[tuple[str, float], ...] = ()

    def at(self, widths: Widths) -> float:
        """The number of channels."""
        return self.constant + sum(factor * widths[group] for group, factor in self.terms)

    def __add__(self, other: WidthExpr) -> WidthExpr:
        terms = dict(self.terms)
        for group, factor in other.terms:
            terms[group] = terms.get(group, 0.0) + factor
        return WidthExpr(self.constant + other.constant, tuple(sorted(terms.items())))

    def scaled(self, factor: float) -> WidthExpr:
        """Every part times ``factor``."""
        return WidthExpr(self.constant * factor, tuple((group, value * factor) for group, value in self.terms))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it depends on."""
        return tuple(group for group, _ in self.terms)


class Part(Protocol):
    """Something of a model that costs: a kernel, a term of a count.

    ``in_width``/``out_width``: the two widths it depends on. ``block``: the groups of the removable block it goes with, if any.
    """

    @property
    def in_width(self) -> WidthExpr: ...
    @property
    def out_width(self) -> WidthExpr: ...
    @property
    def block(self) -> tuple[str, ...]: ...


P = TypeVar("P", bound=Part)


def alive(parts: Sequence[P], widths: Widths) -> list[tuple[P, float, float]]:
    """The parts that a plan leaves, with their two widths."""
    return [(part, part.in_width.at(widths), part.out_width.at(widths)) for part in parts if not part.block or widths[part.block[0]] > 0]
