"""What every executor does, wherever work runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing

import pytest
import works

from edgeprune.errors import DeviceError, TrainingStoppedError
from edgeprune.execute import Executor, InProcess, executor_of

PLACES = ["1", "2", pytest.param("ray", marks=pytest.mark.device)]


@pytest.fixture(scope="module", params=PLACES)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with closing(executor_of(request.param)) as made:
        yield made


@pytest.fixture
def elsewhere(executor: Executor) -> Executor:
    if isinstance(executor, InProcess):
        pytest.skip("work of the same process")
    return executor


def test_results_and_messages_come_each_to_its_own_place(executor: Executor) -> None:
    heard: dict[int, list[object]] = {number: [] for number in range(5)}
    found = [executor.submit(f"square {n}", works.square, n, receive=heard[n].append) for n in heard]
    assert [future.result() for future in found] == [0, 1, 4, 9, 16]
    assert heard == {number: list(range(number)) for number in heard}


def test_the_same_arguments_give_the_same_bytes_as_here(executor: Executor) -> None:
    found = [executor.submit(f"seed {seed}", works.trained, seed).result() for seed in (1, 2)]
    assert found == [InProcess().submit("here", works.trained, seed).result() for seed in (1, 2)]


def test_a_shared_value_is_one_object_of_a_worker(executor: Executor) -> None:
    value = {"weights": [1.0, 2.0]}
    first, second = executor.share(value), executor.share(value)
    assert first.get() is value
    found, one, other = executor.submit("same", works.same, first, second).result()
    assert found == value
    assert one == other


def test_a_function_of_the_moment_can_be_sent(executor: Executor) -> None:
    here = 5

    class Answer:
        def __init__(self, value: int) -> None:
            self.value = value

    found = executor.submit("closure", lambda number, send: Answer(number + here), 2).result()
    assert isinstance(found, Answer)
    assert found.value == 7


def test_an_error_keeps_its_class_its_remedy_and_its_notes(executor: Executor) -> None:
    with pytest.raises(TrainingStoppedError) as caught:
        executor.submit("refuses", works.refuses).result()
    assert (caught.value.message, caught.value.remedy) == ("batch 3 is gone", "Bring it back.")
    assert caught.value.__notes__[0] == "It was there."


def test_an_exception_of_the_users_keeps_its_class_and_attributes(executor: Executor) -> None:
    error = executor.submit("own", works.raises_its_own).exception()
    assert type(error).__name__ == "NeedsTwo"
    assert (str(error), error.second) == ("one and two", "two")  # type: ignore[union-attr]
    system = executor.submit("system", works.raises_os_error).exception()
    assert isinstance(system, FileNotFoundError)
    assert system.filename == "/nowhere/at/all"


def test_an_error_is_not_tried_again(executor: Executor, tmp_path) -> None:
    assert isinstance(executor.submit("once", works.fails_and_counts, tmp_path).exception(), ValueError)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_traceback_of_the_worker_is_kept(elsewhere: Executor) -> None:
    error = elsewhere.submit("own", works.raises_its_own).exception()
    assert error is not None
    assert "raises_its_own" in str(error.__cause__)


def test_no_more_work_runs_at_a_time_than_there_are_workers(elsewhere: Executor, tmp_path) -> None:
    found = [elsewhere.submit(f"beside {n}", works.counts_others, tmp_path).result for n in range(2 * elsewhere.workers + 1)]
    assert max(result() for result in found) <= elsewhere.workers


def test_cancelling_ends_work_that_has_begun_and_wakes_who_waits(elsewhere: Executor, tmp_path) -> None:
    begun = threading.Event()
    future = elsewhere.submit("sleeps", works.sleeps, tmp_path, receive=lambda _: begun.set())
    assert begun.wait(60)
    assert future.running()
    assert future.cancel()
    assert wait([future], timeout=10).done
    assert future.cancelled()
    (name,) = (path.name for path in tmp_path.iterdir())
    works.gone(*map(int, name.split()))
    assert elsewhere.submit("after", works.square, 3).result() == 9


def test_what_receives_messages_may_fail(elsewhere: Executor) -> None:
    def fails(_: object) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        elsewhere.submit("square", works.square, 2, receive=fails).result()
    assert elsewhere.submit("after", works.square, 3).result() == 9


def test_a_worker_opens_no_device(elsewhere: Executor) -> None:
    with pytest.raises(DeviceError, match="local: was to be opened in a worker, and devices belong to"):
        elsewhere.submit("device", works.opens_a_device).result()
