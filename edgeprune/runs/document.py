"""``run.json``: what a run or a sweep was asked, how it is getting on, and its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict, Unpack

from edgeprune.decode import JsonObject, convert
from edgeprune.errors import RunError
from edgeprune.files import parse_json, write_atomically

NAME = "run.json"


class RunDocument(TypedDict, total=False):
    """The fields of ``run.json``.

    ``inputs``: what was asked. ``created``: local time; ``versions``: of the packages that made it. ``state``: ``running``, ``done``,
    ``budget missed``, ``undecided``, ``infeasible``, ``failed`` or ``interrupted``; ``error``: what ended it. ``result``: a
    :class:`~edgeprune.runs.summary.RunSummary` in JSON's types. ``best``: of a search of several runs the folder of the one to take.
    """

    inputs: JsonObject
    created: str
    versions: dict[str, str]
    state: str
    error: str | None
    result: JsonObject | None
    best: str


def read_document(folder: Path) -> RunDocument | None:
    """What the ``run.json`` in ``folder`` holds, but for fields that this version does not know; None where there is none.

    Raises :class:`RunError` when it is damaged.
    """
    known = _read(folder)
    if known is None:
        return None
    try:
        return convert(known, RunDocument, finite=False)
    except ValueError as error:
        raise _damaged(folder, error) from error


def update_document(folder: Path, **fields: Unpack[RunDocument]) -> None:
    """Change fields of the ``run.json`` in ``folder``, whole or not at all; the others stay.

    Raises :class:`RunError` when it is damaged, :class:`OSError` when it cannot be written.
    """
    write_atomically(folder / NAME, json.dumps({**(_read(folder) or {}), **fields}, indent=1, default=str))


def read_inputs(folder: Path) -> JsonObject:
    """What a run was started with.  Raises :class:`RunError` when ``folder`` is not a run directory, or damaged."""
    inputs = (read_document(folder) or {}).get("inputs")
    if inputs is None:
        raise RunError(
            f"{folder} is not a run directory: it has no {NAME}, or that says not what was asked",
            remedy="Give the directory that the run named, or start a new run.",
        )
    return inputs


def _read(folder: Path) -> JsonObject | None:
    try:
        return convert(parse_json((folder / NAME).read_text()), JsonObject, finite=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> RunError:
    said = error.strerror if isinstance(error, OSError) else error
    return RunError(f"{folder / NAME} is damaged: {said}", remedy="Restore it, or start a new run.")
