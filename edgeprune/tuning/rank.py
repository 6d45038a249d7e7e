"""A process of a tuning by several: ``python -m edgeprune.tuning.rank FOLDER RANK COUNT KIND PIPE``, started by
:mod:`edgeprune.tuning.ranks`."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import traceback
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import distributed, nn

from edgeprune.errors import EdgepruneError
from edgeprune.tuning.finetune import Tuning, train_on

_LOST = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL", "timed out")
"""What the message of an error holds that the loss of another rank causes."""


def main(folder: Path, rank: int, count: int, kind: str, pipe: TextIO) -> None:
    """Train, and report on ``pipe``; rank 0 leaves the result in ``folder``."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(**what: Any) -> None:
        pipe.write(json.dumps(what) + "\n")
        pipe.flush()

    if rank == 0:
        warnings.showwarning = lambda message, category, *_: report(warning=str(message)) if category is UserWarning else None
    else:
        warnings.simplefilter("ignore")
    try:
        device = torch.device(kind) if kind == "cpu" else torch.device(kind, rank)
        if kind == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            init_method=(folder / "store").resolve().as_uri(),
            rank=rank,
            world_size=count,
            timeout=timedelta(days=1),  # rank 0 scores alone; the parent sees who has died
        )
        asked: Tuning = pickle.loads((folder / "asked.pickle").read_bytes())
        if kind == "cuda":
            asked.model = nn.SyncBatchNorm.convert_sync_batchnorm(asked.model)  # type: ignore[no-untyped-call]
        first = rank == 0
        result = train_on(
            device,
            asked,
            (lambda done, total, loss: report(step=[done, total, loss])) if first else None,
            (lambda entry: report(epoch=entry)) if first else None,
        )
        if first:
            torch.save(
                {name: value.cpu() for name, value in asked.model.state_dict().items() if isinstance(value, torch.Tensor)},
                folder / "state.pt",
            )
            (folder / "history.json").write_text(json.dumps(result.history))
        report(done=True)
    except BaseException as error:
        traceback.print_exc()
        report(
            error=type(error).__name__,
            message=error.message if isinstance(error, EdgepruneError) else f"{type(error).__name__}: {error}",
            remedy=error.remedy if isinstance(error, EdgepruneError) else None,
            notes=list(getattr(error, "__notes__", [])),
            lost=any(word in f"{one}" for one in _chain(error) for word in _LOST),
        )
    os._exit(0)  # the other ranks may be gone: nothing is said goodbye to


def _chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_chain(error.__cause__)]


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], os.fdopen(int(sys.argv[5]), "w"))
