"""Work in processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune.errors import InputError, WorkerError
from edgeprune.execute.executor import ignore
from edgeprune.execute.pool import Job, Lost, Pool
from edgeprune.execute.worker import READY, read, write
from edgeprune.host import cores, end_tree, oom_kills
from edgeprune.packing import import_folders

Note = Callable[[str], None]


class Processes(Pool):
    """``workers`` processes, which share the cores of this machine, and its CUDA devices where ``gpus_per_task`` says how many of them (or
    which part of one) a piece of work takes.  ``note``: hears of their start.

    Raises :class:`InputError` when there are fewer CUDA devices than that takes.
    """

    def __init__(self, workers: int, *, gpus_per_task: float | None = None, note: Note = ignore) -> None:
        super().__init__(workers)
        self._gpus = _shares(workers, gpus_per_task) if gpus_per_task else None
        self._note, self._processes = note, dict[int, Child]()
        self._temporary = TemporaryDirectory(prefix="edgeprune-workers-", ignore_cleanup_errors=True)
        self._threads = max(1, cores() // workers)

    def close(self) -> None:
        """See :class:`Executor`."""
        super().close()
        with self._changed:
            children, self._processes = list(self._processes.values()), {}
        for child in children:
            child.end()
        self._temporary.cleanup()

    def _keep(self, key: str, data: bytes) -> None:
        (Path(self._temporary.name) / key).write_bytes(data)

    def _frames(self, slot: int, job: Job) -> Iterator[bytes]:
        child = self._child(slot)
        child.send(pickle.dumps((import_folders(), job.work)))
        if job.done():  # it was cancelled before the process was there
            self._stop(job)
        while (frame := child.read()) is not None:
            yield frame
        raise Lost(*child.death())

    def _end(self, slot: int) -> None:
        if slot in self._processes:
            self._processes.pop(slot).kill()

    def _child(self, slot: int) -> Child:
        """The process of that slot, which has started."""
        with self._changed:
            if self._closed:
                raise WorkerError("the workers have been ended")
            child = self._processes.get(slot)
            if child is None or not child.alive:
                if not self._processes:
                    self._note(f"starting up to {self.workers} worker processes; threads of each: {self._threads}")
                folder = Path(self._temporary.name)
                child = Child("edgeprune.execute.worker", [str(folder)], self._environment(slot), folder / f"{slot}.log")
                self._processes[slot] = child
        child.wait_ready()
        return child

    def _environment(self, slot: int) -> dict[str, str]:
        environment = {"OMP_NUM_THREADS": str(self._threads)} | os.environ | {"PYTHONPATH": os.pathsep.join(import_folders())}
        return environment | ({"CUDA_VISIBLE_DEVICES": self._gpus[slot]} if self._gpus else {})


class Child:
    """A process of ours that is given frames and answers with frames; see :mod:`edgeprune.execute.worker`."""

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str], log: Path, folder: Path | None = None) -> None:
        self._log, self._ready, self._oom_kills, self._writing = log, False, oom_kills(), threading.Lock()
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,  # its closing ends the process: none outlives this one
                stdout=subprocess.PIPE,
                stderr=written,
                env=environment,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        threading.Thread(target=self._reap, name=f"process {self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until it has started.  Raises :class:`WorkerError` when it cannot, :class:`Lost` when it was killed."""
        if self._ready:
            return
        if self.read() == READY:
            self._ready = True
            return
        how, memory = self.death()
        if self._process.returncode < 0:
            raise Lost(how, memory)
        raise WorkerError(f"a worker cannot be started: {how}")

    def send(self, frame: bytes) -> None:
        """Give it a frame.  One that has died takes none, and :meth:`read` says so."""
        assert self._process.stdin is not None
        self._oom_kills = oom_kills()
        with suppress(OSError, ValueError), self._writing:
            write(self._process.stdin, frame)

    def read(self) -> bytes | None:
        """Its next frame; None when it has died."""
        assert self._process.stdout is not None
        try:
            return read(self._process.stdout)
        except (OSError, ValueError):
            return None

    def death(self) -> tuple[str, bool]:
        """How it died, and whether that was for lack of memory."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.end()
        code = self._process.returncode
        if code >= 0:
            return f"process {self.pid} ended with exit status {code}{self._last_words()}", False
        kills = oom_kills()
        memory = code == -signal.SIGKILL and kills is not None and kills > (self._oom_kills or 0)
        why = ", for the machine ran out of memory" if memory else ""
        return f"process {self.pid} was ended by {signal.Signals(-code).name}{why}", memory

    def kill(self) -> None:
        """Kill it and all that it started."""
        if self.alive:
            end_tree(self.pid, group=True)

    def leave(self, limit_s: float) -> None:
        """Let it end by itself, or kill it after ``limit_s`` seconds."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        self.end()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.kill()
        self._process.wait()

    def _reap(self) -> None:
        """When it has ended, end what it started in its process group: that may hold its pipes open."""
        self._process.wait()
        end_tree(self.pid, group=True)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


def _shares(workers: int, gpus: float) -> list[str]:
    """The CUDA devices of each worker, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = [part for part in asked.split(",") if part] if asked is not None else [str(index) for index in range(torch.cuda.device_count())]
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"{gpus:g} GPUs a candidate cannot be shared out", remedy="Give a whole number, or a part of one: 0.5.")
    if gpus * workers > len(seen):
        raise InputError(
            f"{workers} workers with {gpus:g} GPUs each need more than the {len(seen)} CUDA devices of this machine",
            remedy="Give fewer workers, or fewer GPUs a candidate.",
        )
    count = max(1, int(gpus))
    return [",".join(seen[int(slot * gpus) : int(slot * gpus) + count]) for slot in range(workers)]
