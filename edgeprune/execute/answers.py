"""What passes between :mod:`edgeprune.execute.onray` and the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeprune.errors import WorkerError
from edgeprune.execute.pool import Lost

CHECK_S: Final = 180.0
"""How long the nodes may take to say what they have, which starts a process on each and imports PyTorch."""


@dataclass(frozen=True)
class Ask:
    """``address``: of the cluster; empty: one of this machine is started, with its files in ``folder``. ``package``: the recipe's folder,
    as a ZIP. ``gpus``: of each piece of work."""

    address: str
    folder: str
    package: str | None
    gpus: float | None


@dataclass(frozen=True)
class Keep:
    """An order: a shared value."""

    key: str
    data: bytes


@dataclass(frozen=True)
class Do:
    """An order: an attempt of a piece of work.  Its name is not that of another."""

    attempt: str
    work: bytes


@dataclass(frozen=True)
class Cancel:
    """An order: end it."""

    attempt: str


@dataclass(frozen=True)
class Joined:
    """How many pieces of work run at a time, on which nodes, and whether this machine is one of them."""

    workers: int
    nodes: tuple[str, ...]
    here: bool


class Refused(WorkerError):
    """Ray refuses, in its own words."""


@dataclass(frozen=True)
class Answer:
    """Of an attempt, or of the whole where that is None: a frame; an error that ends it; or, with neither, its end."""

    attempt: str | None
    frame: bytes | None = None
    error: Lost | WorkerError | None = None
    joined: Joined | None = None
