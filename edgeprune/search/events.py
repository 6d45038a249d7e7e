"""What a run tells while it works."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Gets progress (``done`` of ``total`` in a stage) and notes (one line each)."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``stage`` has come to ``done`` of ``total``."""
        ...

    def note(self, text: str) -> None:
        """Something worth telling has happened."""
        ...


class Silent:
    """Tells nobody."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
