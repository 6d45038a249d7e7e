"""One function a fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.nodes import Nodes
from edgeprune.errors import WorkerError
from edgeprune.execute import Executor, InProcess, executor_of
from edgeprune.execute.executor import ignore

STEPS, AT = 150, 50


@dataclass(frozen=True)
class Fault:
    """``seconds`` from the fault until work went on, or until it was reported; ``equal``: the results to those without a fault, None where
    there are none, and then ``end`` says how it ended."""

    fault: str
    workers: str
    lost: str
    seconds: float
    equal: bool | None
    end: str = ""


def trained(seed: int, steps: int, send: Any) -> bytes:
    """The weights after that many steps of about 0.05 s; sends (step, process, node)."""
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    node = ""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        node = sys.modules["ray"].get_runtime_context().get_node_id()
    for step in range(steps):
        loss = model(torch.randn(32, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.04)
        send((step, os.getpid(), node))
    return bytes(model.weight.detach().numpy().tobytes())


class Watched:
    """Two trainings of an executor, and when each message came."""

    def __init__(self, executor: Executor, steps: int = STEPS) -> None:
        self.heard: list[tuple[float, int, int, int, str]] = []
        self.futures = [executor.submit(f"seed {n}", trained, n, steps, receive=lambda said, n=n: self._hear(n, *said)) for n in range(2)]

    def _hear(self, number: int, step: int, process: int, node: str) -> None:
        self.heard.append((time.monotonic(), number, step, process, node))

    def begun(self) -> None:
        """Wait until both are a third through."""
        while {number for _, number, step, _, _ in self.heard if step >= AT} != {0, 1}:
            if any(future.done() for future in self.futures):
                raise RuntimeError("a training ended before its fault")
            time.sleep(0.01)

    def process(self, number: int) -> tuple[int, str]:
        """Where that training is: its process and node."""
        return next((process, node) for _, which, _, process, node in reversed(self.heard) if which == number)

    def went_on(self, fault: str, workers: str, number: int, since: float) -> Fault:
        """Wait for the end: what was lost, and when that training went on."""
        equal = [future.result() for future in self.futures] == [InProcess().submit("", trained, n, STEPS).result() for n in range(2)]
        of_it = [(moment, step) for moment, which, step, _, _ in self.heard if which == number]
        again = next(moment for moment, step in of_it if step == 0 and moment > since)
        lost = max(step for moment, step in of_it if moment < again) + 1
        if lost >= STEPS:
            raise RuntimeError("nothing was lost: the fault came too late")
        return Fault(fault, workers, "what that worker had done", round(again - since, 1), equal)


def _where(workers: str) -> str:
    return "ray://HOST" if "//" in workers else workers


def killed_worker(workers: str) -> Fault:
    """SIGKILL to a worker in the middle of its work."""
    with closing(executor_of(workers)) as executor:
        watched = Watched(executor)
        watched.begun()
        since = time.monotonic()
        os.kill(watched.process(0)[0], signal.SIGKILL)
        return watched.went_on("a worker is killed", _where(workers), 0, since)


def killed_node(nodes: Nodes, node: Any) -> Fault:
    """SIGKILL to all of a node."""
    with closing(executor_of(nodes.address)) as executor:
        watched = Watched(executor)
        watched.begun()
        number = next(n for n in range(2) if watched.process(n)[1] == node.node_id)
        since = time.monotonic()
        nodes.kill(node)
        return watched.went_on("a node is killed", "ray://HOST", number, since)


def killed_head(nodes: Nodes) -> Fault:
    """SIGKILL to the head: all work ends with one error, after which the command can be resumed."""
    with closing(executor_of(nodes.address)) as executor:
        watched = Watched(executor, 100 * STEPS)
        watched.begun()
        since = time.monotonic()
        nodes.kill_head()
        errors = [future.exception() for future in watched.futures]
        seconds = round(time.monotonic() - since, 1)
        if not all(isinstance(error, WorkerError) and error.resumable for error in errors):
            raise RuntimeError(f"the head was killed, and what came was {errors}")
        return Fault("the head is killed", "ray://HOST", "all since the last checkpoints", seconds, None, "one error; `--resume` continues")


DRIVER = """
import sys
from benchmarks.cluster.faults import hold
hold(sys.argv[1], sys.argv[2])
"""


def hold(workers: str, folder: str) -> None:
    """Be a driver whose two pieces of work wait for ever."""
    executor = executor_of(workers)
    for future in [executor.submit(f"waits {n}", waits, folder) for n in range(2)]:
        future.result()


def waits(folder: str, send: Any) -> None:
    """Note the process, and wait."""
    Path(folder, str(os.getpid())).touch()
    threading.Event().wait()


def killed_driver(workers: str) -> Fault:
    """SIGKILL to the process that gives the work: all that it started ends."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"PYTHONPATH": str(root)}
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, workers, name], env=environment, start_new_session=True)
        while len(list(Path(name).iterdir())) < 2:
            if driver.poll() is not None:
                raise RuntimeError("the driver ended before its fault")
            time.sleep(0.02)
        left = [*psutil.Process(driver.pid).children(recursive=True), *(psutil.Process(int(path.name)) for path in Path(name).iterdir())]
        since = time.monotonic()
        driver.kill()
        driver.wait()
        while any(_runs(process) for process in left):
            time.sleep(0.01)
    seconds = round(time.monotonic() - since, 1)
    return Fault(
        "the command is killed",
        _where(workers),
        "all since the last checkpoints",
        seconds,
        None,
        "no process is left; `--resume` continues",
    )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def startup(workers: str) -> tuple[float, float]:
    """Seconds until two workers have done their first work, and the MiB of one that no other process shares."""
    begun = time.monotonic()
    with closing(executor_of(workers, note=ignore)) as executor:
        found = [executor.submit(f"memory {n}", memory) for n in range(2)]
        memories = [future.result() for future in found]
        return time.monotonic() - begun, max(memories) / 2**20


def memory(send: Any) -> int:
    """Unshared bytes of this process with PyTorch and edgeprune's search loaded."""
    import edgeprune.search  # noqa: F401

    time.sleep(1.0)  # so that the other worker gets the other piece
    return int(psutil.Process().memory_full_info().uss)
