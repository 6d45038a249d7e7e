"""The process that talks to Ray: ``python -m edgeprune.execute.broker``, started by :mod:`edgeprune.execute.onray`.

Ray ends the process that uses it when its head is gone, tries for ever where nobody answers, and writes what it likes on stderr: none of
this reaches the process that started this one.  On stdin comes an :class:`Ask`, then orders; on stdout go answers, all of them pickled, in
frames as those of :mod:`edgeprune.execute.worker`.  It ends with all that it started when stdin closes.
"""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from edgeprune.errors import WorkerError
from edgeprune.execute.answers import CHECK_S, Answer, Ask, Cancel, Do, Joined, Keep, Refused
from edgeprune.execute.node import Versions, versions
from edgeprune.execute.pool import Lost
from edgeprune.execute.worker import READY, own_pipes, read, write
from edgeprune.host import cores, end_tree, free_memory, oom_kills

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
"""Set for this process, and for the cluster that it starts: no statistics, patience on slow machines, no orphans."""

CANCEL_S = 10.0
"""Work that is cancelled and has not ended by then is killed by Ray: not before, since Ray 2.60 ends this process when work that it kills
ends by itself at the same time (a failed check of its task manager)."""

HEAD_PATIENCE = 5
"""So many times, two seconds apart, the head may not answer before it counts as gone."""


class Broker:
    """Connected to the cluster that ``ask`` says, or to one that it starts."""

    def __init__(self, ask: Ask, tell: Any) -> None:
        import ray

        self.ray, self.ask, self._tell, self._writing = ray, ask, tell, threading.Lock()
        self._refs: dict[str, Any] = {}
        self._running: dict[str, Any] = {}
        environment = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        runtime: dict[str, Any] = {"env_vars": environment} | ({"working_dir": ask.package} if ask.package else {})
        common = {"runtime_env": runtime, "log_to_driver": False, "logging_level": "ERROR"}
        if ask.address:
            ray.init(address=ask.address, **common)
        else:
            store = max(80_000_000, min(1_000_000_000, free_memory() // 20))
            own = ray.util.get_node_ip_address()
            start = {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": store, "_node_ip_address": own}
            ray.init(address="local", _temp_dir=ask.folder, **start, **common)
        self._work = ray.remote(num_returns="streaming", max_retries=0, num_cpus=1, num_gpus=ask.gpus or 0)(_work)

    def tell(self, answer: Answer) -> None:
        """Send an answer."""
        with self._writing:
            self._tell(pickle.dumps(answer))

    def join(self) -> Joined:
        """The nodes, each with what it needs.  Raises :class:`WorkerError` for one without, and where none can do the work."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        slots = {node["NodeID"]: self._slots(node["Resources"]) for node in alive}
        able = self._checked([node for node in alive if slots[node["NodeID"]]])
        if not able:
            gpus = f" and {self.ask.gpus:g} GPUs" if self.ask.gpus else ""
            names = ", ".join(str(node["NodeManagerHostname"]) for node in alive)
            raise WorkerError(f"no node of the cluster has a core{gpus} for a candidate: {names}", remedy="Ask for less, or add nodes.")
        own = self.ray.util.get_node_ip_address()
        here = any(node["NodeManagerAddress"] == own for node in able)
        workers = sum(slots[node["NodeID"]] for node in able)
        return Joined(workers, tuple(str(node["NodeManagerHostname"]) for node in able), here)

    def _slots(self, resources: dict[str, float]) -> int:
        gpus = self.ask.gpus
        return int(min(resources.get("CPU", 0.0), resources.get("GPU", 0.0) / gpus if gpus else float("inf")))

    def _checked(self, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that are still there: a node that has just died is listed for a while."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        known = self.ray.exceptions
        look = self.ray.remote(num_cpus=0, max_retries=0)(_versions)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node for node in nodes
        }
        there, left = self.ray.wait(list(asked), num_returns=len(asked), timeout=CHECK_S)
        if left:
            names = ", ".join(_name(asked[ref]) for ref in left)
            raise WorkerError(f"{names} did not answer within {CHECK_S:g} s", remedy="Take it out of the cluster: ray stop.")
        found = []
        for ref in there:
            try:
                differ(versions(), self.ray.get(ref), _name(asked[ref]))
            except (known.NodeDiedError, known.TaskUnschedulableError, known.WorkerCrashedError, known.LocalRayletDiedError):
                continue
            except known.RuntimeEnvSetupError as error:
                raise WorkerError(f"{_name(asked[ref])} cannot prepare the recipe's folder: {_first_line(error)}") from error
            found.append(asked[ref])
        return found

    def do(self, order: Do) -> None:
        """Follow an attempt to its end."""
        place, kills = "", oom_kills()
        try:
            self._running[order.attempt] = frames = self._work.remote(order.work, dict(self._refs), versions())
            for ref in frames:
                kind, data = self.ray.get(ref)
                if kind == "place":
                    place = data
                elif kind == "versions":
                    differ(versions(), data, place)
                else:
                    self.tell(Answer(order.attempt, data))
            self.tell(Answer(order.attempt))
        except WorkerError as error:
            self.tell(Answer(order.attempt, error=error))
        except self.ray.exceptions.RayError as error:
            self.tell(Answer(order.attempt, error=self._lost(error, place, kills)))
        finally:
            self._running.pop(order.attempt, None)

    def _lost(self, error: Exception, place: str, kills: int | None) -> Lost | WorkerError:
        """What Ray's error means."""
        known = self.ray.exceptions
        where, now = place or "its worker", oom_kills()
        ended_here = kills is not None and now is not None and now > kills and place.endswith(f" {socket.gethostname()}")
        if isinstance(error, known.RuntimeEnvSetupError):
            return WorkerError(f"a node cannot prepare the recipe's folder: {_first_line(error)}")
        if isinstance(error, known.OutOfMemoryError) or ended_here:
            return Lost(f"{where} was ended, for the node ran out of memory", True)
        if isinstance(error, known.NodeDiedError):
            return Lost(f"the node of {where} is gone", False)
        return Lost(f"{where} was ended (Ray: {type(error).__name__})", False)

    def obey(self, order: Keep | Do | Cancel) -> None:
        """Carry out an order without waiting for its end."""
        match order:
            case Keep(key, data):
                if key not in self._refs:
                    self._refs[key] = self.ray.put(data)
            case Do():
                threading.Thread(target=self.do, args=(order,), daemon=True).start()
            case Cancel(attempt):
                self._cancel(attempt)
                threading.Timer(CANCEL_S, self._cancel, (attempt, True)).start()

    def _cancel(self, attempt: str, force: bool = False) -> None:
        if (frames := self._running.get(attempt)) is not None:
            self.ray.cancel(frames, force=force)

    def watch(self) -> None:
        """Say so and end when the head is gone: Ray itself would end this process after a minute."""
        host, _, port = self.ray.get_runtime_context().gcs_address.rpartition(":")
        missed = 0
        while missed < HEAD_PATIENCE:
            time.sleep(2.0)
            try:
                socket.create_connection((host, int(port)), 5.0).close()
                missed = 0
            except OSError:
                missed += 1
        gone = WorkerError(
            f"the head of the Ray cluster at {host}:{port} no longer answers",
            remedy="Start it again, or do without: the run continues with any --workers.",
        )
        self.tell(Answer(None, error=gone))


def differ(own: Versions, theirs: Versions, name: str) -> None:
    """Raise :class:`WorkerError` where a node has other versions than this machine."""
    if missing := theirs.get("missing"):
        raise WorkerError(
            f"{name} cannot import {missing}", remedy="Install the same edgeprune, and what the recipe imports, on every node."
        )
    other = [f"{what} is {theirs.get(what)} there and {version} here" for what, version in own.items() if theirs.get(what) != version]
    if other:
        raise WorkerError(f"{name} would make other candidates: {'; '.join(other)}", remedy="Install the same versions on every node.")


# What runs on a node is pickled by value, for this is __main__: it can say that edgeprune is not there.


def _versions() -> Versions:
    try:
        from edgeprune.execute.node import versions

        return versions()
    except ImportError as error:
        return {"missing": error.name or str(error)}


def _work(work: bytes, refs: dict[str, Any], wanted: Versions) -> Iterator[tuple[str, Any]]:
    import os
    import socket

    import ray

    yield "place", f"process {os.getpid()} on node {socket.gethostname()}"
    found = _versions()
    if found != wanted:
        yield "versions", found
        return
    from edgeprune.execute.node import frames

    for frame in frames(work, lambda key: ray.get(refs[key])):
        yield "frame", frame


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def main() -> None:
    """Obey until stdin closes or the head is gone."""
    source, answers = own_pipes()
    os.environ.update(SETTINGS)
    write(answers, READY)
    ask: Ask = pickle.loads(read(source) or b"")
    orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def take() -> None:
        while (data := read(source)) is not None:
            orders.put(data)
        if ask.address:
            threading.Timer(10.0, os._exit, (1,)).start()
            orders.put(None)
            return
        shutil.rmtree(ask.folder, ignore_errors=True)
        end_tree(os.getpid(), group=True)

    threading.Thread(target=take, daemon=True).start()
    try:
        broker = Broker(ask, lambda data: write(answers, data))
        broker.tell(Answer(None))
        broker.tell(Answer(None, joined=broker.join()))
    except WorkerError as error:
        write(answers, pickle.dumps(Answer(None, error=error)))
        return
    except Exception as error:
        refused = Refused(f"{type(error).__name__}: {_first_line(error)}")
        write(answers, pickle.dumps(Answer(None, error=refused)))
        raise

    def watch() -> None:
        broker.watch()
        orders.put(None)

    threading.Thread(target=watch, daemon=True).start()
    while (data := orders.get()) is not None:
        broker.obey(pickle.loads(data))
    threading.Timer(10.0, os._exit, (1,)).start()
    if ask.address:
        broker.ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
