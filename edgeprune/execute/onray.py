"""Work on a Ray cluster: one that runs, or one of this machine alone that is started and ended here."""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from edgeprune.errors import WorkerError
from edgeprune.execute.answers import CHECK_S, Answer, Ask, Cancel, Do, Joined, Keep, Refused
from edgeprune.execute.executor import ignore
from edgeprune.execute.pool import Job, Lost, Pool
from edgeprune.execute.processes import Child, Note
from edgeprune.execute.ship import zipped
from edgeprune.packing import import_folders

REACH_S: Final = 10.0
CONNECT_S: Final = 60.0
"""How long a head that something answers for may take to be one of Ray's, which imports Ray."""
START_S: Final = 600.0
"""How long a cluster of this machine may take to start: 25 s, and minutes on a slow machine."""


class Ray(Pool):
    """A cluster at ``address`` (host:port of its head; this machine is one of its nodes), or one of this machine where that is empty.

    ``gpus_per_task``: see :class:`Processes`. ``folder_of_recipe``: sent to the nodes, which import from it. Raises :class:`WorkerError`
    where Ray is not installed, no cluster answers, or a node has other versions of Python, PyTorch or edgeprune; :class:`RecipeError` for a
    folder that cannot be sent.
    """

    _otherwise = "use processes of this machine: --workers 2"

    def __init__(
        self, address: str = "", *, gpus_per_task: float | None = None, folder_of_recipe: Path | None = None, note: Note = ignore
    ) -> None:
        super().__init__(1)
        if find_spec("ray") is None:
            raise WorkerError("Ray is not installed", remedy="Install it: pip install 'edgeprune[ray]'; or give a number of processes.")
        head = _reached(address) if address else ""
        self._temporary = TemporaryDirectory(prefix="ray-", dir=_short(), ignore_cleanup_errors=True)
        folder = Path(self._temporary.name)
        shipped = folder_of_recipe.resolve() if folder_of_recipe is not None and address else None
        self._folders = ([str(shipped)] if shipped else []) if address else import_folders()
        self._attempts, self._waiting = itertools.count(), dict[str, queue.SimpleQueue[Answer]]()
        self._current: dict[int, str] = {}
        self._gone: WorkerError | None = None
        try:
            package = str(zipped(shipped, folder / "recipe.zip")) if shipped else None
            note(f"joining the Ray cluster at {head}" if address else "starting a Ray cluster of this machine, which takes half a minute")
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(import_folders())}
            where = folder if address else None  # Ray lets workers import from the folder where it is called: on nodes that is not theirs
            self._broker = Child("edgeprune.execute.broker", [], environment, folder / "broker.log", where)
            joined = self._join(Ask(head, str(folder / "ray"), package, gpus_per_task))
        except BaseException:
            self.close()
            raise
        self.workers, self.here = joined.workers, joined.here
        nodes = ", ".join(sorted(set(joined.nodes)))
        note(f"{joined.workers} {'worker' if joined.workers == 1 else 'workers'} on {nodes}")
        threading.Thread(target=self._listen, name="ray", daemon=True).start()

    def close(self) -> None:
        """See :class:`Executor`."""
        super().close()
        if hasattr(self, "_broker"):
            self._broker.leave(15.0)
        self._temporary.cleanup()

    def _join(self, ask: Ask) -> Joined:
        """What the broker says of the cluster.  Raises :class:`WorkerError`."""
        try:
            self._broker.wait_ready()
        except Lost as lost:
            raise WorkerError(f"Ray cannot be started: {lost.how}") from None
        self._broker.send(pickle.dumps(ask))
        self._told(ask, CONNECT_S if ask.address else START_S)
        joined = self._told(ask, 2 * CHECK_S).joined
        assert joined is not None
        return joined

    def _told(self, ask: Ask, limit_s: float) -> Answer:
        """The next answer, which is not an error.  Raises :class:`WorkerError`, also when there is none within ``limit_s`` seconds."""
        late = threading.Timer(limit_s, self._broker.kill)
        late.start()
        data = self._broker.read()
        late.cancel()
        what = f"the cluster at {ask.address}" if ask.address else "a cluster of this machine"
        if data is None:
            how = f"no answer within {limit_s:g} s, or Ray gave up: {self._broker.death()[0]}"
            raise WorkerError(f"{what} cannot be used: {how}", remedy=_remedy(ask.address))
        answer: Answer = pickle.loads(data)
        if isinstance(answer.error, Refused):
            raise WorkerError(f"{what} cannot be used: {answer.error.message}", remedy=_remedy(ask.address))
        if answer.error is not None:
            raise answer.error
        return answer

    def _keep(self, key: str, data: bytes) -> None:
        self._broker.send(pickle.dumps(Keep(key, data)))

    def _frames(self, slot: int, job: Job) -> Iterator[bytes]:
        attempt = f"{job.key}#{next(self._attempts)}"
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        with self._changed:
            if self._gone is not None:
                raise self._gone
            self._waiting[attempt], self._current[slot] = answers, attempt
        self._broker.send(pickle.dumps(Do(attempt, job.work)))
        if job.done():  # it was cancelled before it was begun
            self._stop(job)
        try:
            while (answer := answers.get()).error is None and answer.frame is not None:
                yield answer.frame
            if answer.error is not None:
                raise answer.error
        finally:
            with self._changed:
                self._waiting.pop(attempt, None)
                self._current.pop(slot, None)

    def _end(self, slot: int) -> None:
        if (attempt := self._current.get(slot)) is not None:
            self._broker.send(pickle.dumps(Cancel(attempt)))
            self._waiting[attempt].put(Answer(attempt, error=Lost("it was cancelled")))

    def _listen(self) -> None:
        """Give every answer to who waits for it; what nobody waits for any more is dropped."""
        while (data := self._broker.read()) is not None:
            answer: Answer = pickle.loads(data)
            if answer.attempt is None:
                break
            with self._changed:
                waiting = self._waiting.get(answer.attempt)
            if waiting is not None:
                waiting.put(answer)
        else:
            answer = Answer(None, error=WorkerError("the connection to the Ray cluster ended", remedy=_remedy("")))
        assert isinstance(answer.error, WorkerError)
        with self._changed:
            self._gone = answer.error
            for name, waiting in self._waiting.items():
                waiting.put(Answer(name, error=self._gone))


def _reached(address: str) -> str:
    """``address`` with the host's number, once something answers there."""
    host, _, port = address.rpartition(":")
    try:
        number = socket.gethostbyname(host)
        if number.startswith("127."):  # Ray knows machines by the addresses that others see
            number = _own_address()
        socket.create_connection((number, int(port)), REACH_S).close()
    except OSError as error:
        raise WorkerError(f"no Ray cluster answers at ray://{address}: {error}", remedy=_remedy(address)) from None
    return f"{number}:{port}"


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only a route is looked up (RFC 5737)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _remedy(address: str) -> str:
    if not address:
        return "Run the command again with --workers and a number of processes."
    return (
        "Start one there (ray start --head --port=6379), and make this machine a node of it (ray start --address=HEAD:6379 --num-cpus=0). "
        "The port is that of the head, not Ray Client's 10001."
    )


def _short() -> str | None:
    """A folder whose paths are short enough for Ray's sockets, which have 107 bytes; None is the system's own."""
    import tempfile

    return None if len(tempfile.gettempdir()) < 16 else "/tmp"
