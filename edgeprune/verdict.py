"""The one rule for verdicts: whether what was measured meets a limit.

``prune``, the conditions of ``bench``, the gates of a release and every report judge with :func:`judge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Whether a limit is met; ``undecided`` is never counted as met."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds that hold the true one."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Interval:
        """Of what is counted or predicted: a single number."""
        return cls(value, value, value)

    def over(self, unit: float) -> Interval:
        """As a share of ``unit``, which is greater than zero."""
        return Interval(self.value / unit, self.low / unit, self.high / unit)


def judge(found: Interval | None, limit: float, *, at_least: bool = False) -> Verdict:
    """``met`` where all of the interval is on the good side of ``limit``, ``missed`` where none of it is, else ``undecided``.

    ``limit`` is an upper one, or with ``at_least`` a lower one; a value equal to it meets it.  Without a value, or with one that is not a
    number, the verdict is ``undecided``.
    """
    if found is None or not math.isfinite(found.value) or math.isnan(found.low) or math.isnan(found.high) or math.isnan(limit):
        return Verdict.UNDECIDED
    best, worst = (found.high, found.low) if at_least else (found.low, found.high)
    if (worst >= limit) if at_least else (worst <= limit):
        return Verdict.MET
    return Verdict.MISSED if (best < limit if at_least else best > limit) else Verdict.UNDECIDED


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several limits together: ``missed`` where one is, ``met`` where all are; of none at all ``undecided``."""
    found = set(verdicts)
    if Verdict.MISSED in found:
        return Verdict.MISSED
    return Verdict.MET if found == {Verdict.MET} else Verdict.UNDECIDED
