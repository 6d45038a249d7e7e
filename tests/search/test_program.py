"""The program that chooses widths."""

from __future__ import annotations

from types import SimpleNamespace

from edgeprune.cost.width import WidthExpr
from edgeprune.search.plan.program import Program


def test_a_cost_is_fitted_near_a_plan_that_removes_all_groups_of_a_width() -> None:
    choices = {"a": [2, 4], "b": [2, 4], "c": [0, 4], "d": [0, 2]}
    read, made = (WidthExpr(0.0, ((one, 1.0), (other, 1.0))) for one, other in ("ab", "cd"))
    program = Program(choices, dict.fromkeys(choices, (0.0, 0.0)), {"a": 4, "b": 4, "c": 0, "d": 0})
    total = program.total([SimpleNamespace(in_width=read, out_width=made, block=())], lambda part, inputs, outputs: inputs * outputs)
    assert [total.terms[variable] for variable in program.pick["d"]] == [0.0, 16.0], "two channels of eight inputs each"
