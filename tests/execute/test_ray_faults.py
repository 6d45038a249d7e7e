"""Faults of a real Ray cluster of two nodes: what is lost, and what the user is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import works

import edgeprune
from benchmarks.cluster.nodes import Nodes, ray_cluster
from edgeprune.errors import RecipeError, WorkerError, WorkerLostError, may_succeed
from edgeprune.execute import Executor, executor_of

pytestmark = pytest.mark.soak


def until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + 300
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_cluster() as made:
        made.add()
        yield made


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> Iterator[Executor]:
    with closing(executor_of(nodes.address)) as made:
        yield made


def begun(executor: Executor, folder: Path, count: int = 2) -> tuple[list[tuple[int, str]], list]:  # type: ignore[type-arg]
    """Work that waits, one on each node: the process and the node of each, and the futures."""
    heard: dict[int, tuple[int, str]] = {}
    found = [executor.submit(f"waits {n}", works.waits, folder, n, receive=lambda said, n=n: heard.update({n: said})) for n in range(count)]
    until(lambda: len(heard) == count)
    return [heard[n] for n in range(count)], found


def test_the_cluster_works_on_both_nodes(cluster: Executor, tmp_path: Path) -> None:
    assert cluster.workers == 2
    places, found = begun(cluster, tmp_path)
    assert places[0][1] != places[1][1]
    (tmp_path / "go").touch()
    assert [future.result() for future in found] == [0, 1]


def test_a_killed_worker_costs_its_own_work_which_is_begun_again(cluster: Executor, tmp_path: Path) -> None:
    places, found = begun(cluster, tmp_path)
    os.kill(places[0][0], signal.SIGKILL)
    (tmp_path / "go").touch()
    assert [future.result() for future in found] == [0, 1]


def test_work_that_kills_every_worker_is_given_up_by_name(cluster: Executor) -> None:
    with pytest.raises(WorkerLostError, match=r"^latency-50pct was given up after 3 attempts.* process \d+ on node \S+ was ended"):
        cluster.submit("latency-50pct", works.dies_always, signal.SIGKILL).result()


def test_what_a_recipe_imports_comes_to_the_nodes(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_it.py").write_text("import os\n\ndef read(send):\n    return open('words.txt').read(), os.getcwd()\n")
    (tmp_path / "words.txt").write_text("beside it")
    monkeypatch.syspath_prepend(tmp_path)
    read = import_module("beside_it").read
    with closing(executor_of(nodes.address, folder_of_recipe=tmp_path)) as executor:
        text, folder = executor.submit("reads", read).result()
    assert text == "beside it"
    assert folder != str(tmp_path)


def test_a_node_without_the_data_is_named_by_the_tasks_own_error(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(8))
    node = nodes.add(IMAGES=str(tmp_path))
    try:
        with closing(executor_of(nodes.address)) as three:
            found = [three.submit(f"reads {n}", works.reads_data) for n in range(9)]
            errors = [future.exception() for future in found]
            assert None in errors
            error = next(error for error in errors if error)
            assert isinstance(error, RecipeError)
            assert "the training data of task images raised FileNotFoundError" in error.message
            assert error.__notes__[-1].startswith("Raised by process")
            assert " on node " in error.__notes__[-1]
    finally:
        nodes.kill(node)


def test_a_node_with_another_version_is_refused_by_name(nodes: Nodes, tmp_path: Path) -> None:
    package = Path(edgeprune.__file__).parent
    shutil.copytree(package, tmp_path / "edgeprune", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "edgeprune" / "version.py").write_text((package / "version.py").read_text() + "# another\n")
    node = nodes.add(PYTHONPATH=str(tmp_path))
    try:
        with pytest.raises(WorkerError, match=r"^node \S+ \(\S+\) would make other candidates: edgeprune's code is \w+ there and \w+ here"):
            executor_of(nodes.address)
    finally:
        nodes.kill(node)


def test_a_killed_node_costs_its_own_work_which_is_done_elsewhere(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.add()
    with closing(executor_of(nodes.address)) as three:
        assert three.workers == 3
        places, found = begun(three, tmp_path, 3)
        assert node.node_id in {place[1] for place in places}
        nodes.kill(node)
        (tmp_path / "go").touch()
        assert [future.result() for future in found] == [0, 1, 2]


DRIVER = """
import sys, works
from pathlib import Path
from edgeprune.execute import executor_of
pool = executor_of(sys.argv[1])
found = [pool.submit(f"sleeps {n}", works.sleeps, Path(sys.argv[2])) for n in range(2)]
[future.result() for future in found]
"""


def killed_driver(address: str, folder: Path) -> list[psutil.Process]:
    """Let a driver begin two pieces of work, kill it, and give what it had started that was not a worker."""
    environment = os.environ | {"PYTHONPATH": str(Path(works.__file__).parent)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address, str(folder)], env=environment, start_new_session=True)
    try:
        until(lambda: len(list(folder.iterdir())) == 2 or driver.poll() is not None)
        started = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
    driver.wait()
    works.gone(*(int(part) for path in folder.iterdir() for part in path.name.split()))
    return started


def test_nothing_outlives_a_killed_driver_on_the_nodes(cluster: Executor, nodes: Nodes, tmp_path: Path) -> None:
    works.gone(*(process.pid for process in killed_driver(nodes.address, tmp_path)))
    assert cluster.submit("after", works.square, 3).result() == 9


def test_a_cluster_of_this_machine_ends_with_its_driver(tmp_path: Path) -> None:
    started = killed_driver("ray", tmp_path)
    assert len(started) > 4
    works.gone(*(process.pid for process in started))


def test_a_worker_that_takes_all_memory_is_named_as_that(tmp_path: Path) -> None:
    used = psutil.virtual_memory()
    threshold = (used.total - used.available) / used.total + 0.08
    with (
        ray_cluster(RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100") as small,
        closing(executor_of(small.address)) as executor,
        pytest.raises(WorkerLostError, match="for the node ran out of memory") as caught,
    ):
        executor.submit("large", works.takes_memory).result()
    assert "more memory" in str(caught.value.remedy)


def test_a_head_that_dies_ends_all_work_with_one_message(tmp_path: Path) -> None:
    with ray_cluster() as made:
        made.add()
        with closing(executor_of(made.address)) as executor:
            _, found = begun(executor, tmp_path)
            made.kill_head()
            for future in found:
                error = future.exception()
                assert isinstance(error, WorkerError)
                assert "the head of the Ray cluster at" in error.message
                assert may_succeed(error)
            late = executor.submit("late", works.square, 2).exception()
            assert isinstance(late, WorkerError)
