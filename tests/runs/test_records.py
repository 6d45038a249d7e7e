"""Damaged lines of a run's records are one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import RunError
from edgeprune.runs.directory import RunDirectory, parse_record

LINES = [
    "[1]",
    "1",
    "null",
    "{}",
    '{"key": 1, "value": {}}',
    '{"key": "a", "value": []}',
    '{"key": "a", "value": {}, "at": 5}',
    "{",
    "\xff",
]


@pytest.mark.parametrize(
    "line", [*LINES, "[" * 3000, "[" * 3000 + "]" * 3000, "9" * 5000, '{"key": "a", "value": {"n": ' + "9" * 5000 + "}}"]
)
def test_a_damaged_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "measurements.jsonl").write_bytes(b'{"key": "a", "value": {"x": 1}}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(RunError, match="line 2"):
        RunDirectory(tmp_path)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.record("a", {"x": 1})
    directory.close()
    key, value, at = parse_record((tmp_path / "measurements.jsonl").read_bytes().splitlines()[0])
    assert (key, value, at[:2]) == ("a", {"x": 1}, "20")
