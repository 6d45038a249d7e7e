"""The workers of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeprune.devices import parse_address, resolve_target
from edgeprune.execute import Executor, InProcess
from edgeprune.search.options import Options
from edgeprune.search.request import RunRequest
from edgeprune.search.room import own_threads
from edgeprune.search.work import Workers


@contextmanager
def open_workers(request: RunRequest) -> Iterator[Workers]:
    """The workers that a command was asked to use, until it ends."""
    executor = executor_of(request.options)
    try:
        with own_threads():
            yield Workers(executor, quiet=request.target is not None and _is_here(request.target))
    finally:
        executor.close()


def executor_of(options: Options) -> Executor:
    """What the options ask for."""
    return InProcess()


def _is_here(target: str) -> bool:
    """Whether models are measured on this machine."""
    return parse_address(resolve_target(target).address).scheme == "local"
