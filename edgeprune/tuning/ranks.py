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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final

import torch
from torch import nn

from edgeprune import errors
from edgeprune.errors import EdgepruneError, TrainingError, TrainingStoppedError
from edgeprune.packing import import_folders, packed
from edgeprune.placement import Placement

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
        (folder / "asked.pickle").write_bytes(packed(asked, "train on one device"))
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
        "PYTHONPATH": os.pathsep.join(import_folders()),
        "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    if placement.device.type == "cuda":
        seen = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
        chosen = [seen[device.index] if seen else str(device.index) for device in placement.devices]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return environment


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
