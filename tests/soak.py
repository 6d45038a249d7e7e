"""A pytest plugin (``-p soak``) for tests that take hours together: what passed is remembered in ``.soak.json`` and not run again.

It is forgotten as soon as any file of the project changes, or with ``SOAK=again``.  A table of all that was run ends the session.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".soak.json"
FOLDERS = ("edgeprune", "targets", "profiles", "deploy", "recipes", "benchmarks", "tests")


def fingerprint(root: Path) -> str:
    """SHA-256 over the names and contents of the project's files."""
    digest = hashlib.sha256()
    files = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in sorted([*files, root / "pyproject.toml"]):
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Soak:
    """What has been run of these files: seconds and outcome by test, kept in ``path`` after every test."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, str] = {}
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            stored = {}
        self.passed: dict[str, float] = stored.get("passed", {}) if stored.get("files") == key else {}

    def add(self, test: str, outcome: str, seconds: float) -> None:
        """Add one phase of a test: its set-up, itself, or what it leaves being removed."""
        self.seconds[test] = self.seconds.get(test, 0.0) + seconds
        if outcome != "passed" or test not in self.outcomes:
            self.outcomes[test] = outcome

    def end(self, test: str) -> None:
        """Remember a test whose last phase is over, if it passed."""
        if self.outcomes.get(test) == "passed":
            self.passed[test] = round(self.seconds[test], 1)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"files": self.key, "passed": self.passed}, indent=1))
            temporary.replace(self.path)

    def table(self) -> list[str]:
        """A line for every test: seconds, outcome, name; those of earlier sessions too."""
        earlier = {test: seconds for test, seconds in self.passed.items() if test not in self.outcomes}
        lines = [(seconds, "passed before", test) for test, seconds in earlier.items()]
        lines += [(self.seconds[test], outcome, test) for test, outcome in self.outcomes.items()]
        return [f"{seconds:8.1f} s  {outcome:13}  {test}" for seconds, outcome, test in sorted(lines, reverse=True)]


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("SOAK") == "again" and not hasattr(config, "workerinput"):
        STATE.unlink(missing_ok=True)
    config.pluginmanager.register(Sessions(Soak(STATE, fingerprint(ROOT))), "soak-sessions")


class Sessions:
    """The hooks; only the process that the user started writes, its workers only leave out what has passed."""

    def __init__(self, soak: Soak) -> None:
        self.soak = soak

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = [item for item in items if item.nodeid in self.soak.passed]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item not in done]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self.soak.add(test, report.outcome, report.duration)
        if report.when == "teardown":
            self.soak.end(test)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("soak")
        for line in self.soak.table():
            terminalreporter.write_line(line)
