"""A run whose measurements are replayed from a recording comes to the same plans, and on the same machine to the same weights.

The search, the surgery and the training are determined by what the device answers: a change that is not meant to change them does not.  The
plans and weights are those of the commit that recorded them last, the device's first answers are of before the redesign of version 0.2.0:
all of it came to the plans and weights of before, up to the commit before "Train with any optimizer, ...", which changed the training.  The
tuned digits are undecided by these answers, and cut again since an undecided model is: the answers about that cut are newer.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import replay
import torch

NEEDS_DATA = pytest.mark.skipif("EDGEPRUNE_DATA" not in os.environ, reason="EDGEPRUNE_DATA names no data folder")


@pytest.mark.parametrize(
    "name",
    ["points", pytest.param("digits", marks=pytest.mark.soak), pytest.param("resnet20", marks=[pytest.mark.soak, NEEDS_DATA])],
)
def test_a_replayed_run_comes_to_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.search.run.warm", lambda: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with replay.played(name) as recorded:
            found = replay.outcome(replay.CASES[name], tmp_path, tmp_path / "cache")
    finally:
        torch.set_num_threads(threads)
    wanted = recorded["outcome"]
    assert found["plan"] == wanted["plan"]
    assert found["plans"] == wanted["plans"]
    if recorded["machine"] == replay.machine():  # other processors round otherwise
        assert found["tensors"] == wanted["tensors"]
