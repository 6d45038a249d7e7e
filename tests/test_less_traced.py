"""What coverage leaves out."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from less_traced import tells, untraced


def test_a_function_runs_without_the_tracer_which_is_back_afterwards() -> None:
    seen: list[str] = []

    def tracer(frame: FrameType, event: str, _: object) -> None:
        seen.append(frame.f_code.co_name)

    def inside() -> None:
        called()
        raise KeyError

    def called() -> None: ...

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(KeyError):
            untraced(inside)()
        called()
    finally:
        sys.settrace(before)
    assert "inside" not in seen
    assert seen.count("called") == 1


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ([sys.executable, "-m", "edgeprune.export.worker"], True),
        ((sys.executable, "-c", "import edgeprune"), True),
        ([sys.executable, "/home/pi/.cache/edgeprune/runner-1234.pyz", "--hold"], False),
        (["sh", "-c", f"exec {sys.executable} -c pass"], False),
        ("python3 -c pass", False),
    ],
)
def test_only_processes_that_run_the_projects_own_files_tell_of_them(command: object, wanted: bool) -> None:
    assert tells(command) is wanted
