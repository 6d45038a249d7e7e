"""``make soak``: what passed is remembered until a file changes.  Which tests run in one process."""

from __future__ import annotations

from pathlib import Path

from side_by_side import group_of
from soak import FOLDERS, Soak, fingerprint


def project(folder: Path) -> Path:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "tests/test_a.py").write_text("1")
    return folder


def test_any_change_of_a_file_is_another_project(tmp_path: Path) -> None:
    first, second = project(tmp_path / "a"), project(tmp_path / "b")
    assert fingerprint(first) == fingerprint(second)
    (second / "tests/test_a.py").write_text("2")
    assert fingerprint(first) != fingerprint(second)
    (second / "tests/test_a.py").rename(second / "tests/test_b.py")
    (second / "tests/test_b.py").write_text("1")
    assert fingerprint(first) != fingerprint(second)


def test_what_passed_is_remembered_for_the_same_files_only(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    soak = Soak(state, "files")
    for test, outcomes in (
        ("good", ("passed", "passed", "passed")),
        ("bad", ("passed", "failed", "passed")),
        ("left", ("passed", "skipped")),
    ):
        for outcome in outcomes:
            soak.add(test, outcome, 1.0)
        soak.end(test)
    assert Soak(state, "files").passed == {"good": 3.0}
    assert Soak(state, "other files").passed == {}
    assert [line.split() for line in soak.table()] == [
        ["3.0", "s", "passed", "good"],
        ["3.0", "s", "failed", "bad"],
        ["2.0", "s", "skipped", "left"],
    ]
    assert [line.split()[2:] for line in Soak(state, "files").table()] == [["passed", "before", "good"]]
    state.write_text("{damaged")
    assert Soak(state, "files").passed == {}


def test_files_stay_whole_and_what_measures_stays_together() -> None:
    assert group_of("tests/graph/test_models.py::test_a[x]") == group_of("tests/graph/test_models.py::test_b")
    assert group_of("tests/graph/test_models.py::test_a") != group_of("tests/graph/test_random.py::test_a")
    assert group_of("tests/bench/test_device.py::test_a") == group_of("tests/devices/test_faults.py::test_b") == "measuring"
    assert group_of("tests/release/test_push.py::test_a") == "measuring" != group_of("tests/release/test_push_device.py::test_a")
    assert group_of("tests/board/test_run.py::test_a") == group_of("tests/release/test_build_board.py::test_b") == "board"
