"""``make soak``: what passed is remembered until a file changes."""

from __future__ import annotations

from pathlib import Path

from soak import FOLDERS, Soak, fingerprint, plain_id


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


def test_the_group_of_a_test_is_no_part_of_its_id() -> None:
    assert plain_id("tests/a.py::test[x@y]@graph/a") == "tests/a.py::test[x@y]"
    assert plain_id("tests/a.py::test[x@y]") == "tests/a.py::test[x@y]"
    assert plain_id("tests/a.py::test@measuring") == "tests/a.py::test"
