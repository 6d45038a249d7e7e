"""Pieces of work for the tests of executors.  Most are quick to load: only those that need PyTorch import it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from edgeprune.errors import TrainingStoppedError


def square(number: int, send: Any) -> int:
    for step in range(number):
        send(step)
    return number * number


def trained(seed: int, send: Any) -> bytes:
    """The weights after some steps: the same wherever they are made."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    model = nn.Linear(16, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        loss = model(torch.randn(8, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        send(step)
    return model.weight.detach().numpy().tobytes()


def same(first: Any, second: Any, send: Any) -> tuple[Any, int, int]:
    value = first.get()
    return value, id(value), id(second.get())


class NeedsTwo(Exception):
    """Cannot be made of its ``args`` alone, as pickle would."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


def refuses(send: Any) -> None:
    error = TrainingStoppedError("batch 3 is gone", remedy="Bring it back.")
    error.add_note("It was there.")
    raise error


def raises_its_own(send: Any) -> None:
    raise NeedsTwo("one", "two")


def raises_os_error(send: Any) -> None:
    Path("/nowhere/at/all").read_bytes()


def dies_once(folder: Path, send: Any) -> str:
    """Ends its worker by SIGKILL in the first attempt, in the middle of a message."""
    send("begun")
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def dies_writing(folder: Path, send: Any) -> int:
    """Ends its worker while it writes large messages."""
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            send(bytes(3_000_000))
    return os.getpid()


def dies_always(number: int, send: Any) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leaves(status: int, send: Any) -> None:
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(status)


def sleeps(folder: Path, send: Any) -> None:
    """Starts a child, notes both processes, and never ends by itself."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    send((os.getpid(), child.pid))
    (folder / f"{os.getpid()} {child.pid}").touch()
    time.sleep(600)


def opens_a_device(send: Any) -> None:
    from edgeprune.bench import open_device

    open_device("local:")


def pid(send: Any) -> int:
    return os.getpid()


def takes_memory(send: Any) -> None:
    send(os.getpid())
    held = []
    while True:
        held.append(bytearray(b"x" * 20_000_000))
        time.sleep(0.02)


def fails_and_counts(folder: Path, send: Any) -> None:
    (folder / f"{time.time_ns()}").touch()
    raise ValueError("always")


def counts_others(folder: Path, send: Any) -> int:
    """How many of its kind run, itself included."""
    mark = folder / f"{os.getpid()}-{time.time_ns()}"
    mark.touch()
    time.sleep(0.1)
    count = len(list(folder.iterdir()))
    mark.unlink()
    return count


def gone(*processes: int) -> None:
    """Wait until none of them runs; fail after a minute."""
    limit = time.monotonic() + 60
    while running := [process for process in processes if _runs(process)]:
        assert time.monotonic() < limit, f"{running} still run"
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gives_a_lock(send: Any) -> Any:
    return threading.Lock()


def variable(name: str, *rest: Any) -> str | None:
    time.sleep(rest[0] if len(rest) > 1 else 0)
    return os.environ.get(name)


def waits(folder: Path, number: int, send: Any) -> int:
    """Sends where it runs, and returns once ``folder/go`` is there."""
    import ray

    send((os.getpid(), ray.get_runtime_context().get_node_id()))
    while not (folder / "go").exists():
        time.sleep(0.05)
    return number


class Images:
    """Data that every node has of its own, where ``IMAGES`` says."""

    def __iter__(self) -> Any:
        import torch

        folder = Path(os.environ.get("IMAGES", "/data/of/nobody"))
        yield torch.frombuffer(bytearray((folder / "image").read_bytes()), dtype=torch.uint8), torch.tensor([0])


def reads_data(send: Any) -> int:
    import torch

    from edgeprune.task import Task

    task = Task(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), train=Images(), name="images")
    return len(list(task.batches("train")))


def starts_the_converter(send: Any) -> None:
    """Starts the converter as an export does, and waits."""
    from edgeprune.export.converter import CONVERTER

    CONVERTER.warm()
    send((os.getpid(), CONVERTER.pid))
    time.sleep(600)
