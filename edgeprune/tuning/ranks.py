"""One tuning by several processes, each with its share of every batch."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import IO, Any, Final

import torch
from torch import nn

from edgeprune import errors
from edgeprune.errors import EdgepruneError, RecipeError, TrainingError, TrainingStoppedError
from edgeprune.placement import Placement
from edgeprune.recipes import MODULE_PREFIX

PATIENCE_S: Final = 10.0
"""How long the other ranks may take to end by themselves after one has ended too early."""

Listener = Callable[[dict[str, Any]], None]


def run_ranks(placement: Placement, asked: Any, model: nn.Module, listener: Listener) -> list[dict[str, float | None]]:
    """Do what is ``asked`` (a picklable :class:`edgeprune.tuning.finetune.Tuning`) in one process for each device, give ``model`` the
    weights that it ends with, and return its history.

    Everything is pickled and sent: models that pruning made, closures and classes of a recipe are in no file that a process could load, and
    a recipe that ran again might train for minutes or draw other weights. ``listener`` gets what rank 0 reports. Raises
    :class:`RecipeError` for what cannot be sent, :class:`TrainingStoppedError` when a process dies, and what a rank raises.
    """
    with TemporaryDirectory(prefix="edgeprune-ranks-") as name:
        folder = Path(name)
        (folder / "asked.pickle").write_bytes(_packed(asked))
        ranks = [_Rank(folder, number, placement) for number in range(placement.ranks)]
        try:
            _wait(ranks, listener)
        finally:
            for rank in ranks:
                rank.end()
        model.load_state_dict(torch.load(folder / "state.pt", weights_only=True), strict=False)
        history: list[dict[str, float | None]] = json.loads((folder / "history.json").read_text())
        return history


@dataclass
class _Rank:
    """A process of a tuning."""

    folder: Path
    number: int
    placement: Placement
    done: bool = False
    failure: dict[str, Any] | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    reports: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        reading, writing = os.pipe()
        self.reports = os.fdopen(reading, "rb")
        count = self.placement.ranks
        device = self.placement.devices[self.number]
        arguments = [str(self.folder), str(self.number), str(count), device.type, str(writing)]
        with (self.folder / f"rank-{self.number}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgeprune.tuning.rank", *arguments],
                stdin=subprocess.PIPE,  # its closing ends the process: none outlives this one
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                env=_environment(self.placement, self.number),
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        os.close(writing)

    def read(self, listener: Listener) -> bool:
        """Take one report; False where there is none to come."""
        line = self.reports.readline()
        if not line:
            return False
        report = json.loads(line)
        self.done |= "done" in report
        if "error" in report:
            self.failure = report
        elif "warning" in report:
            warnings.warn(report["warning"], stacklevel=4)
        else:
            listener(report)
        return True

    def end(self) -> None:
        """End the process, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.reports.close()

    def last_words(self) -> str:
        """The last line that it wrote."""
        lines = (self.folder / f"rank-{self.number}.log").read_text(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


def _environment(placement: Placement, number: int) -> dict[str, str]:
    count, threads = placement.ranks, max(1, torch.get_num_threads() // placement.ranks)
    environment = os.environ | {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
        "PYTHONPATH": os.pathsep.join(_import_folders()),
        "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    if placement.device.type == "cuda":
        seen = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
        chosen = [seen[device.index] if seen else str(device.index) for device in placement.devices]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return environment


def _import_folders() -> list[str]:
    """Where modules are imported from: ``sys.path``, and the folders of what was imported beside a recipe."""
    known = [str(Path(entry or os.curdir).resolve()) for entry in sys.path]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file and not name.startswith(MODULE_PREFIX) and name != "__main__":
            folder = Path(file).resolve().parents[1 if Path(file).name == "__init__.py" else 0]
            known.append(str(folder))
    return list(dict.fromkeys(known))


def _packed(asked: Any) -> bytes:
    import cloudpickle

    with _by_value(cloudpickle):
        try:
            return bytes(cloudpickle.dumps(asked))
        except Exception as error:
            part = next((name for name, value in _parts(asked) if not _can_be_packed(cloudpickle, value)), "the task")
            raise RecipeError(
                f"{part} cannot be sent to other processes: {type(error).__name__}: {error}",
                remedy="Make it of what pickle takes, or train on one device.",
            ) from error


def _parts(asked: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(asked.task).items():
        yield f"task.{name}", value
    yield "the model", asked.model


def _can_be_packed(cloudpickle: Any, value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """Send what recipes and the like define, not where it is: another process cannot import their modules by name."""
    folders = _import_folders()
    modules = [module for name, module in list(sys.modules.items()) if name != "__main__" and not _importable(name, module, folders)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _importable(name: str, module: ModuleType, folders: list[str]) -> bool:
    """Whether a new process finds that module; installed ones count without a look."""
    file = getattr(module, "__file__", None)
    if file is None or Path(file).is_relative_to(sys.prefix) or Path(file).is_relative_to(sys.base_prefix):
        return True
    top, *rest = name.split(".")
    found, path = PathFinder.find_spec(top, folders), Path(file).resolve()
    if found is None:
        return False
    if not rest:
        return found.origin is not None and Path(found.origin).resolve() == path
    places = [Path(place).resolve().joinpath(*rest) for place in found.submodule_search_locations or ()]
    return any(path in (place.with_suffix(".py"), place / "__init__.py") for place in places)


def _wait(ranks: list[_Rank], listener: Listener) -> None:
    """Until all have ended.  Raises what a rank raised, and :class:`TrainingStoppedError` for one that died."""
    with selectors.DefaultSelector() as selector:
        for rank in ranks:
            selector.register(rank.reports, selectors.EVENT_READ, rank)
        limit: float | None = None
        while selector.get_map():
            left = None if limit is None else limit - time.monotonic()
            ready = selector.select(left)
            if limit is not None and (not ready or time.monotonic() > limit):
                break
            for key, _ in ready:
                if key.data.read(listener):
                    continue
                selector.unregister(key.fileobj)
                if not key.data.done and limit is None:
                    limit = time.monotonic() + PATIENCE_S
    if not all(rank.done for rank in ranks):
        raise _failure(ranks)


def _failure(ranks: list[_Rank]) -> EdgepruneError:
    """What went wrong first: a process that was killed, else what a rank raised that is not the loss of another."""
    count = len(ranks)
    ended = [rank for rank in ranks if not rank.done and rank.failure is None and _ends(rank)]
    for rank in ended:
        code = rank.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}{rank.last_words()}"
        memory = " The system ends processes that use up its memory." if code == -signal.SIGKILL else ""
        return TrainingStoppedError(
            f"rank {rank.number} of {count} (process {rank.process.pid}) {how}",
            remedy=f"Train in fewer processes where memory is short.{memory}",
        )
    failed = sorted((rank for rank in ranks if rank.failure), key=lambda rank: bool(rank.failure and rank.failure["lost"]))
    if not failed:
        return TrainingStoppedError(f"a rank of {count} does not answer", remedy="Train in fewer processes, or end what else is running.")
    report = failed[0].failure
    assert report is not None
    kind = getattr(errors, report["error"], TrainingError)
    raised: EdgepruneError = kind(report["message"], remedy=report["remedy"]) if report["remedy"] else kind(report["message"])
    for note in report["notes"]:
        raised.add_note(note)
    return raised


def _ends(rank: _Rank) -> bool:
    """Whether its process has ended by itself."""
    try:
        rank.process.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    return True
