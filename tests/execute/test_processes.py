"""Processes of this machine: one that dies costs its own work alone, and none outlives what started it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import works

from edgeprune.errors import InputError, RecipeError, WorkerError, WorkerLostError
from edgeprune.execute import Processes

TESTS = Path(works.__file__).parent


@pytest.fixture
def pool() -> Iterator[Processes]:
    with closing(Processes(2)) as made:
        yield made


def test_a_worker_that_is_killed_costs_its_own_work_which_is_begun_again(pool: Processes, tmp_path: Path) -> None:
    heard: list[object] = []
    dying = pool.submit("dies", works.dies_once, tmp_path, receive=heard.append)
    others = [pool.submit(f"square {n}", works.square, n) for n in range(6)]
    assert dying.result() == "done"
    assert heard == ["begun", "begun"]
    assert [other.result() for other in others] == [n * n for n in range(6)]


def test_a_kill_in_the_middle_of_a_message_is_survived(pool: Processes, tmp_path: Path) -> None:
    heard: list[bytes] = []
    assert pool.submit("dies", works.dies_writing, tmp_path, receive=heard.append).result() > 0
    assert all(message == bytes(3_000_000) for message in heard)


@pytest.mark.parametrize(
    ("work", "argument", "how"),
    [
        (works.dies_always, signal.SIGSEGV, r"process \d+ was ended by SIGSEGV$"),
        (works.leaves, 3, r"process \d+ ended with exit status 3: out of luck$"),
    ],
    ids=["signal", "exit"],
)
def test_work_that_kills_every_worker_is_given_up_by_name(pool: Processes, work, argument: int, how: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WorkerLostError) as caught:
        pool.submit("latency-50pct", work, argument).result()
    assert caught.value.message.startswith("latency-50pct was given up after 3 attempts, each of which lost its worker; at last process ")
    assert re.search(how, caught.value.message)
    assert caught.value.resumable
    assert pool.submit("after", works.square, 3).result() == 9


def test_a_worker_that_died_while_it_had_no_work_is_replaced(pool: Processes) -> None:
    process = pool.submit("pid", works.pid).result()
    os.kill(process, signal.SIGKILL)
    works.gone(process)
    assert pool.submit("pid", works.pid).result() != process


def test_what_ran_out_of_memory_is_named_as_that(pool: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's count of processes that it ended so is a stand-in here; the last test here lets it really end one."""
    counts = iter(range(100))
    monkeypatch.setattr("edgeprune.execute.processes.oom_kills", lambda: next(counts))
    with pytest.raises(WorkerLostError, match="was ended by SIGKILL, for the machine ran out of memory") as caught:
        pool.submit("large", works.dies_always, signal.SIGKILL).result()
    assert caught.value.remedy is not None
    assert caught.value.remedy.startswith("Give fewer workers")


def test_work_that_waits_is_cancelled_without_a_trace(tmp_path: Path) -> None:
    with closing(Processes(1)) as pool:
        first = pool.submit("sleeps", works.sleeps, tmp_path)
        waiting = pool.submit("never", works.sleeps, tmp_path / "missing")
        assert waiting.cancel()
        assert first.cancel()
        assert pool.submit("after", works.square, 2).result() == 4


def test_closing_ends_all_work_and_all_workers(tmp_path: Path) -> None:
    pool = Processes(2)
    found = [pool.submit(f"sleeps {n}", works.sleeps, tmp_path) for n in range(4)]
    while len(list(tmp_path.iterdir())) < 2:
        pass
    pool.close()
    assert all(future.cancelled() for future in found)
    works.gone(*(int(part) for path in tmp_path.iterdir() for part in path.name.split()))
    with pytest.raises(WorkerError, match="late cannot be begun: the workers have been ended"):
        pool.submit("late", works.square, 1)


def test_what_cannot_be_sent_is_named(pool: Processes) -> None:
    with pytest.raises(RecipeError, match=r"^lock cannot be sent to other processes: TypeError"):
        pool.submit("lock", works.square, threading.Lock())
    with pytest.raises(RecipeError, match="cannot be sent to other processes"):
        pool.share(threading.Lock())
    with pytest.raises(RecipeError, match="a result of type lock cannot be sent back from a worker"):
        pool.submit("lock", works.gives_a_lock).result()


def test_the_cores_are_shared_out_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, expected in ((None, 3), ("2", 2)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False) if asked is None else monkeypatch.setenv("OMP_NUM_THREADS", asked)
        monkeypatch.setattr("edgeprune.execute.processes.cores", lambda: 7)
        with closing(Processes(2)) as pool:
            assert pool.submit("variable", works.variable, "OMP_NUM_THREADS").result() == str(expected)


def test_cuda_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    for gpus, workers, expected in ((1, 2, {"4", "5"}), (2, 2, {"4,5", "6,7"}), (0.5, 2, {"4"})):
        with closing(Processes(workers, gpus_per_task=gpus)) as pool:
            found = [pool.submit(f"seen {n}", works.variable, "CUDA_VISIBLE_DEVICES", 0.3) for n in range(workers)]
            assert {future.result() for future in found} == expected
    with pytest.raises(InputError, match="3 workers with 2 GPUs each need more than the 4 CUDA devices"):
        Processes(3, gpus_per_task=2)
    with pytest.raises(InputError, match=r"1\.5 GPUs a candidate cannot be shared out"):
        Processes(2, gpus_per_task=1.5)


DRIVER = """
import signal, sys, works
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from pathlib import Path
from edgeprune.execute import Processes
pool = Processes(2)
found = [pool.submit(f"sleeps {n}", works.sleeps, Path(sys.argv[1])) for n in range(2)]
[future.result() for future in found]
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_driver_and_ctrl_c_is_the_drivers(tmp_path: Path, number: int) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while len(list(tmp_path.iterdir())) < 2:
            assert driver.poll() is None
        os.killpg(driver.pid, number)
        driver.wait(60)
        works.gone(*(int(part) for path in tmp_path.iterdir() for part in path.name.split()))
    finally:
        driver.kill()


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes have 200 MB: its file of processes."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    group = (root / "memory" if old else root) / f"edgeprune-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text("200000000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group / "cgroup.procs"
    group.rmdir()


def test_the_system_ends_a_worker_for_its_memory_and_this_is_said(little_memory: Path) -> None:
    processes: list[int] = []

    def confine(process: int) -> None:
        processes.append(process)
        little_memory.write_text(str(process))

    with (
        closing(Processes(2)) as pool,
        pytest.raises(WorkerLostError, match=r"process \d+ was ended by SIGKILL, for the machine ran out of memory"),
    ):
        pool.submit("large", works.takes_memory, receive=confine).result()
    works.gone(*processes)
    assert len(processes) == 3


@pytest.mark.soak
def test_the_converter_of_a_worker_ends_with_it(tmp_path: Path) -> None:
    heard: queue.Queue[tuple[int, int]] = queue.Queue()
    with closing(Processes(1)) as pool:
        pool.submit("exports", works.starts_the_converter, receive=heard.put)
        worker, converter = heard.get()
        os.kill(worker, signal.SIGKILL)
        works.gone(worker, converter)
        worker, converter = heard.get()  # of the next attempt
    works.gone(worker, converter)
