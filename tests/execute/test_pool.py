"""The order of work, and what becomes of answers that come too late, without any process."""

from __future__ import annotations

import pickle
import queue
from collections.abc import Iterator

import pytest

from edgeprune.errors import WorkerError, WorkerLostError
from edgeprune.execute import onray
from edgeprune.execute.answers import Answer, Cancel, Do, Joined, Keep
from edgeprune.execute.pool import Job, Lost, Pool
from edgeprune.execute.work import Done, Message


def nothing(send: object) -> None:
    """Work that a stand-in answers for."""


class Scripted(Pool):
    """Workers that answer with what the script of their work says: frames, or the loss of a worker."""

    def __init__(self, workers: int, **scripts: list[list[object]]) -> None:
        super().__init__(workers)
        self.scripts, self.begun = scripts, list[str]()

    def _frames(self, slot: int, job: Job) -> Iterator[bytes]:
        self.begun.append(job.key)
        for step in self.scripts[job.key].pop(0):
            if isinstance(step, Exception):
                raise step
            yield pickle.dumps(step)

    def _end(self, slot: int) -> None: ...

    def _keep(self, key: str, data: bytes) -> None: ...


def test_work_is_begun_in_the_order_of_submission() -> None:
    pool = Scripted(1, **{name: [[Done(name)]] for name in "abcde"})
    found = [pool.submit(name, nothing) for name in "abcde"]
    assert [future.result() for future in found] == pool.begun == list("abcde")


def test_a_lost_worker_costs_an_attempt_and_three_are_made() -> None:
    lost = Lost("process 1 was ended by SIGKILL")
    pool = Scripted(1, twice=[[Message(1), lost], [lost], [Message(2), Done(3)]], ever=[[lost], [lost], [lost]], silent=[[], [Done(1)]])
    heard: list[int] = []
    assert pool.submit("twice", nothing, receive=heard.append).result() == 3
    assert heard == [1, 2]
    with pytest.raises(WorkerLostError, match=r"^ever was given up after 3 attempts, .*; at last process 1 was ended by SIGKILL"):
        pool.submit("ever", nothing).result()
    assert pool.submit("silent", nothing).result() == 1


def test_of_two_answers_only_the_first_counts() -> None:
    job = Job("key", bytes, print, lambda _: None)
    job.settle("first")
    job.settle("second")
    job.settle(error=ValueError())
    assert job.result() == "first"
    assert not job.cancel()
    cancelled = Job("key", bytes, print, lambda _: None)
    assert cancelled.cancel()
    assert cancelled.cancel()
    cancelled.settle("late")
    assert cancelled.cancelled()


class Played:
    """A broker that the test plays: what it was sent is in ``orders``, what it answers in ``answers``."""

    def __init__(self, *_: object) -> None:
        self.orders: queue.Queue[Do | Cancel | Keep] = queue.Queue()
        self.answers: queue.Queue[bytes | None] = queue.Queue()
        self.tell(Answer(None), Answer(None, joined=Joined(2, ("a", "b"), False)))

    def tell(self, *answers: Answer) -> None:
        for answer in answers:
            self.answers.put(pickle.dumps(answer))

    def frame(self, attempt: str, frame: object) -> None:
        self.tell(Answer(attempt, pickle.dumps(frame)))

    def wait_ready(self) -> None:
        """It has started."""

    def send(self, data: bytes) -> None:
        self.orders.put(pickle.loads(data))

    def read(self) -> bytes | None:
        return self.answers.get()

    def kill(self) -> None: ...

    def leave(self, limit_s: float) -> None:
        self.answers.put(None)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[onray.Ray, Played]]:
    monkeypatch.setattr(onray, "Child", Played)
    ray = onray.Ray()
    broker = ray._broker
    assert isinstance(broker, Played)
    broker.orders.get()  # what was asked for
    yield ray, broker
    ray.close()


def test_what_a_worker_says_that_was_thought_dead_is_dropped(played: tuple[onray.Ray, Played]) -> None:
    ray, broker = played
    assert (ray.workers, ray.here) == (2, False)
    heard: list[str] = []
    future = ray.submit("plan", nothing, receive=heard.append)
    first = broker.orders.get()
    assert isinstance(first, Do)
    broker.tell(Answer(first.attempt, error=Lost("its node is gone")))
    second = broker.orders.get()
    assert isinstance(second, Do)
    assert second.attempt != first.attempt
    broker.frame(first.attempt, Message("late"))
    broker.frame(first.attempt, Done("late"))
    broker.frame(second.attempt, Message("right"))
    broker.frame(second.attempt, Done("right"))
    assert future.result() == "right"
    assert heard == ["right"]


def test_cancelling_frees_the_slot_at_once_and_ends_the_attempt(played: tuple[onray.Ray, Played]) -> None:
    ray, broker = played
    future = ray.submit("plan", nothing)
    order = broker.orders.get()
    assert isinstance(order, Do)
    assert future.cancel()
    assert broker.orders.get() == Cancel(order.attempt)
    after = ray.submit("after", nothing)
    order = broker.orders.get()
    assert isinstance(order, Do)
    broker.frame(order.attempt, Done(1))
    assert after.result() == 1


def test_when_the_head_is_gone_all_work_ends_and_none_is_begun(played: tuple[onray.Ray, Played]) -> None:
    ray, broker = played
    found = [ray.submit(f"plan {n}", nothing) for n in range(3)]
    broker.orders.get()
    broker.orders.get()
    broker.tell(Answer(None, error=WorkerError("the head is gone")))
    for future in found:
        with pytest.raises(WorkerError, match="the head is gone"):
            future.result()
    with pytest.raises(WorkerError, match="the head is gone"):
        ray.submit("late", nothing).result()


def test_a_broker_that_dies_is_the_end_of_all_work_too(played: tuple[onray.Ray, Played]) -> None:
    ray, broker = played
    future = ray.submit("plan", nothing)
    broker.orders.get()
    broker.answers.put(None)
    with pytest.raises(WorkerError, match="the connection to the Ray cluster ended"):
        future.result()
