"""The workers of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edgeprune.devices import resolve_targets
from edgeprune.execute import executor_of
from edgeprune.search.events import EventStream
from edgeprune.search.request import RunRequest
from edgeprune.search.room import own_threads
from edgeprune.search.work import Workers


@contextmanager
def open_workers(request: RunRequest, events: EventStream) -> Iterator[Workers]:
    """The workers that a command was asked to use, until it ends.  Raises what :func:`edgeprune.execute.executor_of` raises, and
    :class:`RecipeError` for a task that cannot be sent to them."""
    targets = resolve_targets(request.target) if request.target is not None else []
    options, folder = request.options, Path(request.recipe).parent if request.recipe else None
    made = executor_of(options.workers, gpus_per_task=options.gpus_per_candidate, folder_of_recipe=folder, note=events.note)
    with closing(made) as executor, own_threads():
        workers = Workers(executor, quiet=any(one.is_here for one in targets))
        workers.share(request.task)  # what cannot be sent is refused before anything is done
        yield workers
