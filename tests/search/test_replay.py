"""A run whose measurements are replayed from a recording comes to the same plans, and on the same machine to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import replay
import torch


@pytest.mark.parametrize("name", ["points", *(pytest.param(name, marks=pytest.mark.soak) for name in ("digits", "resnet20"))])
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
