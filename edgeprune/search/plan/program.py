"""The mixed-integer program: all widths at once, under every budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from edgeprune.cost.width import P, Part, WidthExpr, Widths
from edgeprune.search.plan.solver import Problem

CostFunction = Callable[[P, float, float], float]
"""``cost(part, in_width, out_width)``."""

GAP, ROUGH_GAP, TAKEN = 5e-3, 1e-2, 1e-3
"""How far a plan's loss may be above the least, as a share of it; in the first search, and where costs are fits anyway; from which share
on a mixture of choices takes one."""

MOST_PAIRS = 4
"""Of how many groups a width may be before its products are relaxed to one variable a choice."""


@dataclass
class Expression:
    """``constant + sum(coefficient * variable)``."""

    constant: float = 0.0
    terms: dict[int, float] = field(default_factory=dict)

    def add(self, variable: int, coefficient: float) -> None:
        """Add ``coefficient * variable``."""
        self.terms[variable] = self.terms.get(variable, 0.0) + coefficient

    def plus(self, other: Expression, factor: float = 1.0) -> Expression:
        """Add ``factor * other`` and return self."""
        self.constant += factor * other.constant
        for variable, coefficient in other.terms.items():
            self.add(variable, factor * coefficient)
        return self


class Program:
    """One-hot width choices y, and their products for kernels whose cost depends on two widths.

    The product of two groups' choices is linearised exactly by w_ij >= 0 with sum_j w_ij = y_i and sum_i w_ij = y'_j (Sun et al.,
    "Multi-Dimensional
    Pruning", 2025, use the same). A width of several groups (after a concatenation or a zero-padded shortcut) enters a kernel's cost
    affinely, fitted
    best near the widths ``about``; for one of many groups the product with y_j is one variable z_j with sum_j z_j = width and low *
    y_j <= z_j <= high * y_j.

    ``exact``: whether no cost was fitted, so that ``about`` does not matter.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[int]],
        curves: Mapping[str, Sequence[float]],
        about: Widths,
        blocks: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.choices = {group: list(widths) for group, widths in choices.items()}
        self.curves, self.about, self.exact = curves, about, True
        self.upper: list[float] = []
        self.integral: list[bool] = []
        self.rows: list[tuple[Expression, float, float]] = []
        self.pick = {group: [self._variable(1.0, integral=True) for _ in widths] for group, widths in self.choices.items()}
        for variables in self.pick.values():
            self.rows.append((Expression(0.0, dict.fromkeys(variables, 1.0)), 1.0, 1.0))
        for first, *others in blocks:
            for other in others:
                if 0 in self.choices[first] and 0 in self.choices[other]:
                    self.rows.append((Expression(0.0, {self.pick[first][0]: 1.0, self.pick[other][0]: -1.0}), 0.0, 0.0))
        self._products: dict[tuple[str, WidthExpr], list[int]] = {}
        self._joint: dict[tuple[str, str], list[list[int]]] = {}

    def total(self, parts: Sequence[P], cost: CostFunction[P]) -> Expression:
        """The summed cost of all parts: kernels, or terms of a count."""
        result = Expression()
        for part in parts:
            self._add_part(result, part, cost)
        return result

    def width(self, width: WidthExpr) -> Expression:
        """A width as an expression."""
        result = Expression(width.constant)
        for group, factor in width.terms:
            for variable, value in zip(self.pick[group], self.choices[group], strict=True):
                result.add(variable, factor * value)
        return result

    def shared(self, expression: Expression) -> Expression:
        """The same as one variable, for an expression that many limits hold: rows stay short, and the solver quick."""
        size = max((abs(value) for value in expression.terms.values()), default=0.0) or 1.0
        variable = self._variable()
        self.rows.append((Expression(expression.constant, dict(expression.terms)).plus(Expression(0.0, {variable: size}), -1.0), 0.0, 0.0))
        return Expression(0.0, {variable: size})

    def limit(self, expression: Expression, upper: float) -> None:
        """Require ``expression <= upper``."""
        self.rows.append((expression, -np.inf, upper))

    def solve(self) -> dict[str, int] | None:
        """The widths of the largest objective; None when no widths meet the limits.

        First with mixed choices, which is a linear program and bounds the objective. Then with whole ones, of those at most a step from
        what the mixture takes. Then, where costs are exact, once more with every choice that the mixture's prices do not rule out: a choice
        whose price is more than what the plan found lost against the bound is in no better plan (Wolsey, "Integer Programming", 2020,
        7.2: reduced cost fixing).
        """
        problem = self._problem()
        relaxed = problem.relaxed()
        if relaxed is None:
            return None
        plain = problem.cost
        if relaxed.bound > 0.0:
            problem = replace(problem, cost=problem.cost / relaxed.bound)  # the solver's tolerances are about 1
        near = {group: _near(relaxed.values[variables]) | self._always(group) for group, variables in self.pick.items()}
        found = problem.best(self._live(near), ROUGH_GAP)
        if found is not None and not self.exact:
            return self._widths(found)
        lost = np.inf if found is None else float(plain @ found) - relaxed.bound
        left = {group: (price <= lost) | self._always(group) for group, price in self._prices(relaxed.prices).items()}
        if found is None or any(np.any(left[group] & ~near[group]) for group in left):
            better = problem.best(self._live(left), GAP)
            if better is not None and (found is None or problem.cost @ better < problem.cost @ found):
                found = better
        return None if found is None else self._widths(found)

    def _widths(self, values: np.ndarray) -> dict[str, int]:
        return {group: self.choices[group][int(np.argmax(values[variables]))] for group, variables in self.pick.items()}

    def _always(self, group: str) -> np.ndarray:
        """Choices that are never left out: to remove a block, and the narrowest beside it."""
        places = np.arange(len(self.choices[group]))
        return (places < 2) & (self.choices[group][0] == 0)

    def _live(self, kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which variables may be other than 0 where only the ``kept`` choices may be taken."""
        live = np.ones(len(self.upper), bool)
        for group, variables in self.pick.items():
            live[variables] = kept[group]
        for (first, second), pairs in self._joint.items():
            live[np.array(pairs)] = np.outer(kept[first], kept[second])
        return live

    def _prices(self, prices: np.ndarray) -> dict[str, np.ndarray]:
        """By how much the bound grows, at least, with each choice: its own price, and that of the cheapest pair that it needs with each
        other group."""
        result = {group: prices[variables] for group, variables in self.pick.items()}
        for (first, _), pairs in self._joint.items():
            result[first] = result[first] + prices[np.array(pairs)].min(1)
        return result

    def _problem(self) -> Problem:
        scale = sum(max(curve) - min(curve) for curve in self.curves.values()) or 1.0
        cost = np.zeros(len(self.upper))
        for group, variables in self.pick.items():
            cost[variables] = (max(self.curves[group]) - np.asarray(self.curves[group])) / scale
        data, columns, starts, low, high = [], [], [0], [], []
        for expression, lower, upper in self.rows:
            magnitude = max((abs(value) for value in expression.terms.values()), default=1.0) or 1.0
            data += [value / magnitude for value in expression.terms.values()]
            columns += list(expression.terms)
            starts.append(len(columns))
            low.append((lower - expression.constant) / magnitude)
            high.append((upper - expression.constant) / magnitude)
        matrix = csr_array((np.array(data), np.array(columns), np.array(starts)), shape=(len(self.rows), len(cost)))
        return Problem(cost, matrix, np.array(low), np.array(high), np.array(self.upper), np.array(self.integral, bool))

    def _variable(self, upper: float = np.inf, integral: bool = False) -> int:
        self.upper.append(upper)
        self.integral.append(integral)
        return len(self.upper) - 1

    def _range(self, width: WidthExpr) -> tuple[float, float]:
        low = width.constant + sum(factor * min(self.choices[group]) for group, factor in width.terms)
        high = width.constant + sum(factor * max(self.choices[group]) for group, factor in width.terms)
        return low, high

    def _add_part(self, total: Expression, part: P, cost: CostFunction[P]) -> None:
        in_width, out_width = part.in_width, part.out_width
        gate = self._gate(part)
        if gate is not None:
            self._gated(total, gate, out_width, lambda value: cost(part, value, value))
            return

        def price(inputs: float, outputs: float) -> float:
            return cost(part, inputs, outputs) if inputs > 0 and outputs > 0 else 0.0

        if in_width == out_width or not in_width.terms:
            self._one_width(total, out_width, lambda value: price(value if in_width == out_width else in_width.constant, value))
        elif not out_width.terms:
            self._one_width(total, in_width, lambda value: price(value, out_width.constant))
        elif len(out_width.terms) == 1 or len(in_width.terms) > 1:
            self._two_widths(total, out_width, in_width, lambda chosen, other: price(other, chosen))
        else:
            self._two_widths(total, in_width, out_width, price)

    def _gate(self, part: Part) -> str | None:
        """The group whose choice 0 removes a part that does not itself depend on the groups of its block: the addition."""
        depends = {*part.in_width.groups, *part.out_width.groups} & set(part.block)
        return part.block[0] if part.block and not depends and self.choices[part.block[0]][0] == 0 else None

    def _gated(self, total: Expression, gate: str, width: WidthExpr, cost: Callable[[float], float]) -> None:
        """``(1 - y_0) * cost(width)``, y_0 being the choice of no channels of group ``gate``."""
        none = self.pick[gate][0]
        if len(width.terms) == 1:
            group, factor = width.terms[0]
            for variable, both, value in zip(self.pick[group], self._pairs(gate, group)[0], self.choices[group], strict=True):
                price = cost(width.constant + factor * value)
                total.add(variable, price)
                total.add(both, -price)
            return
        intercept, slope = self._affine(width, cost) if width.terms else (cost(width.constant), 0.0)
        total.constant += intercept
        total.add(none, -intercept)
        if width.terms:
            total.plus(self.width(width), slope).plus(self._products_of(gate, width)[0], -slope)

    def _one_width(self, total: Expression, width: WidthExpr, cost: Callable[[float], float]) -> None:
        if len(width.terms) <= 1:
            if not width.terms:
                total.constant += cost(width.constant)
                return
            group, factor = width.terms[0]
            for variable, value in zip(self.pick[group], self.choices[group], strict=True):
                total.add(variable, cost(width.constant + factor * value))
            return
        intercept, slope = self._affine(width, cost)
        total.constant += intercept
        total.plus(self.width(width), slope)

    def _two_widths(self, total: Expression, chosen: WidthExpr, other: WidthExpr, cost: Callable[[float, float], float]) -> None:
        """``chosen`` is split over the choices of its (largest) group; ``other`` too if it is of one group, else it enters affinely."""
        group, factor = max(chosen.terms, key=lambda term: term[1] * max(self.choices[term[0]]))
        rest = chosen.at(self.about) - factor * self.about[group]  # other groups of a width of several: near where we are
        widths = [rest + factor * value for value in self.choices[group]]
        if len(other.terms) == 1:
            self._exact(total, group, widths, other, cost)
        else:
            for variable, product, width in zip(self.pick[group], self._products_of(group, other), widths, strict=True):
                intercept, slope = self._affine(other, partial(cost, width))
                total.add(variable, intercept)
                total.plus(product, slope)
        if len(chosen.terms) > 1:
            self.exact = False
            widest = {name: widths[-1] for name, widths in self.choices.items()}
            here, there = chosen.at(self.about) or chosen.at(widest), other.at(self.about)
            slope = (cost(here, there) - cost(0.75 * here, there)) / (0.25 * here)
            others = WidthExpr(-rest, tuple(term for term in chosen.terms if term[0] != group))
            total.plus(self.width(others), slope)
            total.constant += slope * chosen.constant

    def _exact(
        self, total: Expression, group: str, widths: Sequence[float], other: WidthExpr, cost: Callable[[float, float], float]
    ) -> None:
        """The cost of every pair of choices."""
        second, factor = other.terms[0]
        values = [other.constant + factor * value for value in self.choices[second]]
        if second == group:
            for variable, width, value in zip(self.pick[group], widths, values, strict=True):
                total.add(variable, cost(width, value))
            return
        for row, width in zip(self._pairs(group, second), widths, strict=True):
            for variable, value in zip(row, values, strict=True):
                total.add(variable, cost(width, value))

    def _pairs(self, first: str, second: str) -> list[list[int]]:
        """Variables w_ij = y_i * y'_j of two groups: rows sum to y, columns to y'."""
        if (first, second) not in self._joint:
            made = [[self._variable(1.0) for _ in self.pick[second]] for _ in self.pick[first]]
            for pick, line in [*zip(self.pick[first], made, strict=True), *zip(self.pick[second], zip(*made, strict=True), strict=True)]:
                self.rows.append((Expression(0.0, dict.fromkeys(line, 1.0) | {pick: -1.0}), 0.0, 0.0))
            self._joint[first, second] = made
            self._joint[second, first] = [list(column) for column in zip(*made, strict=True)]
        return self._joint[first, second]

    def _products_of(self, group: str, other: WidthExpr) -> list[Expression]:
        """y_j * other for every choice of ``group``: by pairs, or, for a width of many groups, by one variable each."""
        if len(other.terms) > MOST_PAIRS:
            return [Expression(0.0, {variable: 1.0}) for variable in self._product(group, other)]
        products = [Expression(0.0, {pick: other.constant}) for pick in self.pick[group]]
        for second, factor in other.terms:
            if second == group:
                for product, pick, value in zip(products, self.pick[group], self.choices[group], strict=True):
                    product.add(pick, factor * value)
                continue
            for product, row in zip(products, self._pairs(group, second), strict=True):
                for variable, value in zip(row, self.choices[second], strict=True):
                    product.add(variable, factor * value)
        return products

    def _affine(self, width: WidthExpr, cost: Callable[[float], float]) -> tuple[float, float]:
        """Intercept and slope of ``cost`` over a width's range, best near ``about``."""
        low, high = self._range(width)
        if high <= low:
            return cost(low), 0.0
        self.exact = False
        here = min(max(width.at(self.about), low), high)
        points = np.unique(np.concatenate([np.linspace(low, high, 4), [here, (here + low) / 2, (here + high) / 2]]))
        weights = 1.0 / (0.25 + np.abs(points - here) / (high - low))
        slope, intercept = np.polyfit(points, [cost(float(point)) for point in points], 1, w=weights)
        return float(intercept), float(slope)

    def _product(self, group: str, other: WidthExpr) -> list[int]:
        """Variables z_j = y_j * other, one for every choice of ``group``."""
        key = (group, other)
        if key not in self._products:
            low, high = self._range(other)
            variables = [self._variable() for _ in self.choices[group]]
            total = Expression(0.0, dict.fromkeys(variables, 1.0)).plus(self.width(other), -1.0)
            self.rows.append((total, 0.0, 0.0))
            for variable, pick in zip(variables, self.pick[group], strict=True):
                self.rows.append((Expression(0.0, {variable: 1.0, pick: -high}), -np.inf, 0.0))
                self.rows.append((Expression(0.0, {variable: 1.0, pick: -low}), 0.0, np.inf))
            self._products[key] = variables
        return self._products[key]


def _near(shares: np.ndarray) -> np.ndarray:
    """The choices that a mixture takes, and their neighbours."""
    taken = np.pad(shares > TAKEN, 1)
    return taken[1:-1] | taken[2:] | taken[:-2]


def saliency_curve(saliency: np.ndarray, choices: Sequence[int]) -> list[float]:
    """Kept saliency at every choice: the best k of each row, summed.  Concave in k."""
    best = -np.sort(-saliency, axis=1)
    total = np.concatenate([[0.0], np.cumsum(best.sum(0))])
    return [float(total[width]) for width in choices]
