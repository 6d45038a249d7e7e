"""Searches that go on in one thread while others work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from edgeprune.errors import TrainingError
from edgeprune.execute import InProcess, Send, Shared, ignore
from edgeprune.search.work import Steps, Work, Workers


class Threads:
    """An executor of this process's threads."""

    workers, here = 2, True

    def __init__(self) -> None:
        self.pool, self.futures = ThreadPoolExecutor(2), list[Future[Any]]()

    def share(self, value: Any) -> Shared[Any]:
        return InProcess().share(value)

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any, receive: Send = ignore) -> Future[Any]:
        self.futures.append(self.pool.submit(function, *arguments, receive))
        return self.futures[-1]

    def close(self) -> None:
        self.pool.shutdown()


@pytest.fixture
def threads() -> Iterator[Threads]:
    executor = Threads()
    yield executor
    executor.close()


def searched(name: str, log: list[str], work: Callable[[Send], None], receive: Send = ignore) -> Steps[str]:
    log.append(f"search {name}")
    yield from Work(name, lambda send: (work(send), log.append(f"train {name}"))[1], (), receive).steps()
    log.append(f"measure {name}")
    return name


def test_one_search_goes_on_while_the_work_of_another_lasts(threads: Threads) -> None:
    log, measured = list[str](), Event()

    def first() -> Steps[str]:
        found = yield from searched("a", log, lambda _: None)
        measured.set()
        return found

    workers = Workers(threads)
    found = workers.run(workers.together([first(), searched("b", log, lambda _: (measured.wait(30), None)[1])]))
    assert found == ["a", "b"]
    assert log.index("measure a") < log.index("train b") < log.index("measure b")


def test_nothing_is_searched_or_measured_while_others_train_where_that_disturbs(threads: Threads) -> None:
    log = list[str]()
    workers = Workers(threads, quiet=True)
    workers.run(workers.together([searched(name, log, lambda _: None) for name in "abc"]))
    assert log[:3] == ["search a", "search b", "search c"]
    assert set(log[3:6]) == {"train a", "train b", "train c"}
    assert log[6:] == ["measure a", "measure b", "measure c"]
    assert not Workers(InProcess(), quiet=True).quiet


def test_alone_one_search_ends_before_the_next_begins() -> None:
    log, workers = list[str](), Workers()
    workers.run(workers.together([searched(name, log, lambda _: None) for name in "ab"]))
    assert log == [f"{step} {name}" for name in "ab" for step in ("search", "train", "measure")]


def test_messages_come_in_order_and_before_the_result(threads: Threads) -> None:
    log, workers = list[str](), Workers(threads)

    def told(send: Send) -> None:
        for number in range(3):
            send(str(number))

    workers.run(searched("a", log, told, log.append))
    assert [part for part in log if part in ("0", "1", "2")] == ["0", "1", "2"]
    assert log[-1] == "measure a"


def test_an_error_of_one_search_ends_the_others_as_an_interruption(threads: Threads) -> None:
    ended, release = list[BaseException](), Event()

    def failing() -> Steps[None]:
        yield from Work("bad", lambda _: None).steps()
        raise TrainingError("the loss is nan")

    def other() -> Steps[None]:
        try:
            yield from Work("good", lambda _: (release.wait(30), None)[1]).steps()
        except BaseException as error:
            ended.append(error)
            release.set()
            error.add_note("kept in b")
            raise

    workers = Workers(threads)
    with pytest.raises(TrainingError) as raised:
        workers.run(workers.together([failing(), other()]))
    assert [str(error) for error in ended] == ["what ran beside it ended with: the loss is nan"]
    assert isinstance(ended[0], KeyboardInterrupt)
    assert raised.value.__notes__ == ["kept in b"]
