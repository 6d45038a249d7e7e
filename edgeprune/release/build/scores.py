"""How good an exported file is, in the task's metric: the file itself is run over the validation data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from edgeprune.errors import EvidenceError, RunError
from edgeprune.export.evaluate import score_file_with_error
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.finished import Exported, FinishedRun, Score, decoded
from edgeprune.task import load_recipe


def score_of(
    run: FinishedRun, exported: Exported, recipe: str | Path | None = None, note: Callable[[str], None] | None = None
) -> Score | None:
    """The file's score by the recipe as it is now: the run's, or else made now and kept there.

    ``recipe``: instead of the run's. Where neither is there any more, the last score counts. None when there is no recipe, or its task
    cannot score. Raises what :func:`~edgeprune.task.load_recipe` and :func:`~edgeprune.tuning.score` raise, and :class:`EvidenceError`
    when the recipe's task has another metric.
    """
    key = f"score-file-{exported.sha256}"
    source = recipe or run.inputs.recipe
    digest = sha256(Path(source).read_bytes()).hexdigest() if source is not None and Path(source).is_file() else None
    for record in reversed(run.records):
        if record.key == key and (record.value.get("recipe_sha256") == digest or (digest is None and recipe is None)):
            return decoded(record.value, Score, f"the record {key} in {run.path / 'measurements.jsonl'}")
    if source is None or (recipe is None and digest is None):
        if note and source is not None:
            note(f"{exported.path.name} is not scored: the run's recipe {source} no longer exists (give another: --recipe)")
        return None
    if note:
        note(f"scoring {exported.path.name} on the validation data of {source}")
    task = load_recipe(source)
    if not task.scores:
        return None
    if task.metric_name != run.metric_name:
        raise EvidenceError(f"{source} is scored by {task.metric_name}, and the run {run.path} by {run.metric_name}")
    found = score_file_with_error(exported.path, task, exported.format)
    value = Score(found.value, task.metric_name, digest, found.error)
    try:
        _keep(run.path, key, value)
    except RunError as error:  # of another user, or on a disk that cannot be written: the next build scores it again
        if note:
            note(f"the score is not kept: {error.message}")
    return value


def _keep(path: Path, key: str, value: Score) -> None:
    directory = RunDirectory.reopen(path)
    try:
        directory.record(key, asdict(value))
    finally:
        directory.close()
