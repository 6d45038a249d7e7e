"""From what a user says of workers to an executor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprune.errors import InputError
from edgeprune.execute.executor import Executor, ignore
from edgeprune.execute.inprocess import InProcess
from edgeprune.execute.processes import Note, Processes

FORMS: Final = (
    "Forms: 4 (processes of this machine), ray (a Ray cluster of this machine alone), ray://HOST or ray://HOST:PORT (one that runs)."
)
MOST: Final = 256
"""More processes than any machine has use for."""
RAY_PORT: Final = 6379


@dataclass(frozen=True)
class Workers:
    """``processes`` of this machine; or Ray, at ``address``, or on this machine where that is empty."""

    processes: int = 1
    ray: bool = False
    address: str = ""


def parse_workers(text: str | int | None) -> Workers:
    """What ``text`` says: None and 1 are this process.  Raises :class:`InputError`, which names the forms, for what says nothing."""
    known = str(text if text is not None else 1).strip()
    if known == "ray":
        return Workers(ray=True)
    if match := re.fullmatch(r"ray:(?://)?([\w.-]+)(?::(\d{1,5}))?/?", known):
        port = int(match[2] or RAY_PORT)
        if 0 < port < 2**16:
            return Workers(ray=True, address=f"{match[1]}:{port}")
    if re.fullmatch(r"\d{1,6}", known):
        if 1 <= int(known) <= MOST:
            return Workers(int(known))
        raise InputError(f"{known} workers are not possible", remedy=f"Give from 1 to {MOST}, or a cluster. {FORMS}")
    raise InputError(f"workers {known!r} are not understood", remedy=FORMS)


def executor_of(
    workers: str | int | Executor | None,
    *,
    gpus_per_task: float | None = None,
    folder_of_recipe: Path | None = None,
    note: Note = ignore,
) -> Executor:
    """The executor that ``workers`` names: see :func:`parse_workers`; an executor is itself.  Its user closes it.

    ``gpus_per_task``: CUDA devices, or the part of one, that a piece of work takes. ``folder_of_recipe``: sent to the nodes of a cluster,
    for what the recipe imports. ``note``: hears what takes a while. Raises :class:`InputError` for a malformed text, and for GPUs that are
    not there; :class:`WorkerError` where no cluster answers, or its nodes cannot do the work.
    """
    if workers is not None and not isinstance(workers, (str, int)):
        return workers
    asked = parse_workers(workers)
    if asked.ray:
        from edgeprune.execute.onray import Ray

        return Ray(asked.address, gpus_per_task=gpus_per_task, folder_of_recipe=folder_of_recipe, note=note)
    if asked.processes > 1:
        return Processes(asked.processes, gpus_per_task=gpus_per_task, note=note)
    return InProcess()
