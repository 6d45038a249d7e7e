"""Throughput as a budget: another way to write a latency."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgeprune.budget import Budget, latency_for
from edgeprune.cli import main
from edgeprune.errors import BudgetError


@pytest.mark.parametrize(
    ("throughput", "latency"),
    [
        ("200/s", "5ms"),
        ("300/s", "3.33333ms"),  # never more than what keeps it up
        ("600 / min", "100ms"),
        ("1/h", "3.6e+06ms"),
        ("200%", "50%"),
        ("150%", "66.6666%"),
        ("0.5/s", "2000ms"),
        ("3000/s", "0.333333ms"),
    ],
)
def test_a_throughput_is_the_latency_that_keeps_it_up(throughput: str, latency: str) -> None:
    assert latency_for(throughput) == latency
    budget = Budget(throughput=throughput, memory="20MB")
    assert budget == Budget(latency=latency, memory="20MB")
    assert list(budget.limits()) == ["latency", "memory"]
    assert Budget(**asdict(budget)) == budget  # as a run keeps it and takes it up again
    assert replace(budget, latency="7ms") == Budget(latency="7ms", memory="20MB")


@pytest.mark.parametrize("bad", ["200", "0/s", "-3/s", "200/ms", "fast", "/s", "nan/s", "1e3/s", 200, ""])
def test_what_is_no_throughput_is_refused(bad: object) -> None:
    with pytest.raises(BudgetError, match="is not a number of inferences in a time") as caught:
        Budget(throughput=bad)  # type: ignore[arg-type]
    assert "200/s" in caught.value.remedy


def test_a_throughput_and_a_latency_are_not_both_given() -> None:
    with pytest.raises(BudgetError, match="throughput 200/s and latency 3ms limit the same figure") as caught:
        Budget(latency="3ms", throughput="200/s")
    assert "a latency of 5ms" in caught.value.remedy


def test_the_command_line_says_which_latency_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.py").write_text("def task():\n    raise ValueError('reached')\n")

    def said(*limits: str) -> str:
        assert main(["prune", str(tmp_path / "recipe.py"), "--profile", "raspberry-pi-4", *limits]) == 1
        return " ".join(capsys.readouterr().err.split())

    found = said("--throughput", "200/s")
    assert "throughput 200/s: inferences run one after the other, so this is --latency 5ms" in found
    assert "reached" in found
    assert "limit the same figure" in said("--throughput", "200/s", "--latency", "3ms")
    assert "is not a number of inferences in a time" in said("--throughput", "200")
