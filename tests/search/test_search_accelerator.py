"""Runs on what is not the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from points_task import points_task

from edgeprune import Budget, Options, prune
from edgeprune.errors import InputError, TargetError
from edgeprune.search.request import RunRequest


def test_a_profile_says_nothing_of_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="profiles say nothing of gpu"):
        prune(points_task(), profile="raspberry-pi-4", budget=Budget(latency="50%"), options=Options(accelerator="gpu"), runs=tmp_path)


def test_what_cannot_be_an_accelerator() -> None:
    with pytest.raises(InputError, match="cannot be an accelerator"):
        Options(accelerator="two words")


def test_an_accelerator_is_part_of_what_a_run_is_asked_and_the_default_is_not_mentioned() -> None:
    task, budget = points_task(), Budget(latency="50%")
    usual, gpu = (RunRequest(task, budget, "local:", options=options).fingerprint for options in (Options(), Options(accelerator="gpu")))
    assert "accelerator" not in usual["options"]
    assert gpu["options"] == usual["options"] | {"accelerator": "gpu"}
