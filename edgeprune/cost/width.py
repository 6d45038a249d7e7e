"""How wide a tensor is, as a function of how much every group keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Widths = Mapping[str, int]
"""For every group how many of its units stay."""


@dataclass(frozen=True)
class Width:
    """``constant + sum(factor * widths[group])`` channels.  ``terms``: (group, factor) pairs, sorted."""

    constant: float
    terms: tuple[tuple[str, float], ...] = ()

    def at(self, widths: Widths) -> float:
        """The number of channels."""
        return self.constant + sum(factor * widths[group] for group, factor in self.terms)

    def __add__(self, other: Width) -> Width:
        terms = dict(self.terms)
        for group, factor in other.terms:
            terms[group] = terms.get(group, 0.0) + factor
        return Width(self.constant + other.constant, tuple(sorted(terms.items())))

    def scaled(self, factor: float) -> Width:
        """Every part times ``factor``."""
        return Width(self.constant * factor, tuple((group, value * factor) for group, value in self.terms))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it depends on."""
        return tuple(group for group, _ in self.terms)
