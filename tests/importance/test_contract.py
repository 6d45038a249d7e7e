"""Every registered criterion does what criteria must do."""

from __future__ import annotations

import pytest

from edgeprune.importance import CRITERIA
from edgeprune.testing.criteria import CriterionContract

BLIND = {"fpgm": "a zero is not the nearest to the others", "random": "it looks at nothing"}


class TestCriteria(CriterionContract):
    @pytest.fixture(params=sorted(CRITERIA))
    def criterion(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def knows_zeros(self, criterion: str) -> bool:
        return criterion not in BLIND

    @pytest.fixture
    def follows_order(self, criterion: str) -> bool:
        return criterion != "random"


def test_all_that_were_asked_for_are_registered() -> None:
    named = {"l1", "l2", "taylor", "fisher", "bn-scale", "lamp", "fpgm", "activation", "apoz", "random"}
    assert named <= set(CRITERIA)
