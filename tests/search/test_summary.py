"""What a run's summary takes from the task and the device's profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune import Task
from edgeprune.errors import RecipeError
from edgeprune.profile import load as load_profile
from edgeprune.runs.summary import BatterySummary, RunSummary
from edgeprune.search.summary import battery_of


def made(**settings: Any) -> Task:
    return Task(torch.nn.Linear(1, 1), (torch.zeros(1, 1),), **settings)


@pytest.mark.parametrize(("given", "source"), [(None, "profile wear-os"), (500.0, "recipe")])
def test_a_summary_says_which_battery_and_how_often_a_day(given: float | None, source: str) -> None:
    found = battery_of(made(inferences_per_day=1440, battery_mwh=given), load_profile("wear-os"))
    assert found == BatterySummary(given or 2430.0, 1440, source)
    assert RunSummary.of(RunSummary(battery=found).to_json()).battery == found
    assert battery_of(made(battery_mwh=given), load_profile("wear-os")) is None
    assert battery_of(made(inferences_per_day=1440), load_profile("raspberry-pi-4")) is None


@pytest.mark.parametrize("name", ["battery_mwh", "inferences_per_day"])
def test_what_is_no_battery_is_refused(name: str) -> None:
    for wrong in (0, -1, float("nan")):
        with pytest.raises(RecipeError, match=rf"task\.{name} is {wrong}, not greater than zero"):
            made(**{name: wrong})
