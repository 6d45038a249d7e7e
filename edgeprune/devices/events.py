"""What happens on a device while it is used, as values: for the functions that show or log it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Required, TypedDict


class DeviceEvent(TypedDict, total=False):
    """One event; ``event`` says which it is, and the other fields belong to some events only.

    ``name``: of the model or file. ``holder``: who uses the device. ``sent``, ``total``, ``done``: bytes of an upload, windows of a table.
    ``number``, ``rounds``: of a comparison; ``ratio``, ``low``, ``high``: of its first candidate so far. ``causes``: what throttles the
    device. ``action``, ``path``, ``removed``: of the runner's own steps.
    """

    event: Required[str]
    name: str
    holder: str
    sent: int
    total: int
    done: int
    number: int
    rounds: int
    ratio: float
    low: float
    high: float
    median_ms: float
    stable: bool
    causes: list[str]
    message: str
    action: str
    path: str
    removed: int


OnEvent = Callable[[DeviceEvent], None]
