"""A mixed-integer program in arrays, solved by HiGHS: its relaxation first, then with the choices near to it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

from edgeprune.errors import EdgepruneError

TIME_LIMIT_S = 20.0
"""The longest that one search among whole choices may take: then the best plan so far counts."""

_OUT_OF_TIME = 1
"""A status of SciPy's."""


@dataclass(frozen=True)
class Relaxation:
    """The optimum where choices may be mixed: no plan costs less.

    ``values``: of all variables; ``prices``: by how much the optimum grows, at least, for a unit of each variable that is 0 in it.
    """

    bound: float
    values: np.ndarray
    prices: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Minimise ``cost @ x`` where ``low <= matrix @ x <= high`` and ``0 <= x <= upper``; ``integral`` variables are whole."""

    cost: np.ndarray
    matrix: csr_array
    low: np.ndarray
    high: np.ndarray
    upper: np.ndarray
    integral: np.ndarray

    def relaxed(self) -> Relaxation | None:
        """With every variable continuous; None when nothing meets the constraints."""
        equal = self.low == self.high
        upper, lower = ~equal & np.isfinite(self.high), ~equal & np.isfinite(self.low)
        with _silent_stdout():
            result = linprog(
                self.cost,
                A_ub=vstack([self.matrix[upper], -self.matrix[lower]]),
                b_ub=np.concatenate([self.high[upper], -self.low[lower]]),
                A_eq=self.matrix[equal],
                b_eq=self.low[equal],
                bounds=np.column_stack([np.zeros(len(self.upper)), self.upper]),
                method="highs-ds",
            )
        if result.x is None:
            _refuse_failure(result.status, result.message)
            return None
        return Relaxation(float(result.fun), result.x, result.lower.marginals)

    def best(self, live: np.ndarray, gap: float) -> np.ndarray | None:
        """The values of all variables where only those of ``live`` (bool) may be other than 0, at most the share ``gap`` above the least
        cost; None when nothing meets the constraints, or nothing was found in ``TIME_LIMIT_S``."""
        with _silent_stdout():
            result = milp(
                self.cost[live],
                integrality=self.integral[live].astype(int),
                bounds=Bounds(0.0, self.upper[live]),
                constraints=LinearConstraint(self.matrix[:, live], self.low, self.high),
                options={"mip_rel_gap": gap, "time_limit": TIME_LIMIT_S},
            )
        if result.x is None:
            if result.status != _OUT_OF_TIME:
                _refuse_failure(result.status, result.message)
            return None
        values = np.zeros(len(self.cost))
        values[live] = result.x
        return values


def _refuse_failure(status: int, message: str) -> None:
    """Raise :class:`EdgepruneError` unless the program is known to be infeasible."""
    if status != 2:
        raise EdgepruneError(f"the solver found no plan: {message}")


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS prints notes of its own on the process's standard output, whatever its options say: results stand there."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
