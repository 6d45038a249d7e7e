"""Readings from small files of /sys."""

from __future__ import annotations

from . import MeterError


def reading(path: str) -> int:
    """A whole number; :class:`MeterError` naming the file when it is missing, unreadable or holds something else."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            content = file.read()
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror}") from error
    try:
        return int(content)
    except ValueError:
        raise MeterError(f"{path} holds {content[:40]!r}, which is not a whole number") from None


def word(path: str) -> str:
    """A file's text without white space around it; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().strip("\0")
    except OSError:
        return ""
