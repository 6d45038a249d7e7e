"""What the program on a device (``targets/activator``) answers, by command: nothing of it is believed before it is of these types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from edgeprune.decode import JsonObject


@dataclass(frozen=True)
class Products:
    """Those that have releases on the device."""

    products: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """``about``: what the device keeps of the release in use, where that is whole. ``clock_s``: the device's time (seconds since 1970)."""

    about: JsonObject | None
    clock_s: float


@dataclass(frozen=True)
class Begun:
    """A push may begin.  ``missing``: SHA-256 of what the device lacks. ``trusts``: whether it knows signers. ``recovered``: a version that
    was left on trial, and is given up."""

    missing: tuple[str, ...]
    free_bytes: int
    trusts: bool
    clock_s: float
    recovered: str | None


@dataclass(frozen=True)
class Staged:
    """``path``: the folder of the new release. ``signed``: how many signers the device verified; None where it knows none."""

    path: str
    signed: int | None


Switched = TypedDict("Switched", {"from": str | None})
"""``from``: the version that was in use."""

WentBack = TypedDict("WentBack", {"from": str | None, "version": str})
"""``from``: the version that was in use; ``version``: the one that is now."""


@dataclass(frozen=True)
class After:
    """How a shell command ended.  ``ended``: why it was ended (``late``, ``gone``); empty when it ended by itself."""

    code: int | None
    said: str
    ended: str


@dataclass(frozen=True)
class Highest:
    """The newest release that was ever committed."""

    version: str


@dataclass(frozen=True)
class Installed:
    """One release on a device.  ``damaged``: its files that are not as they came; None when they were not read."""

    version: str
    sequence: int
    variant: str
    bytes: int
    damaged: tuple[str, ...] | None


@dataclass(frozen=True)
class State:
    """The releases of one product, oldest first; versions as in :class:`edgeprune.release.deploy.installed.Status`."""

    current: str | None
    committed: str | None
    previous: str | None
    pending: str | None
    highest: Highest | None
    releases: tuple[Installed, ...]


@dataclass(frozen=True)
class Removed:
    """Versions that were ``removed`` and ``kept``, oldest first, and the bytes that are free again."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True)
class Done:
    """Nothing more is said of what was done."""
