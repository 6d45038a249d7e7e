"""What tests of building a release share."""

from __future__ import annotations

from pathlib import Path

import pytest
from release_runs import make_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")
