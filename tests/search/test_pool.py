"""Several devices of one kind share all that a run measures."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import SPREAD, FakeDevice
from measured import device_info
from points_task import points_task
from torch import nn

from edgeprune import Budget, prune
from edgeprune.bench import Artifact, BenchOptions, Comparison, KernelTime, Measurement
from edgeprune.cost.kernels import kernels
from edgeprune.cost.table import Table
from edgeprune.devices import add_group, add_target
from edgeprune.errors import ConnectionLostError, DeviceBusyError, DeviceError, RunnerError, TargetError
from edgeprune.export import formats
from edgeprune.graph import analyze
from edgeprune.report.html import page
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import DeviceWaiting, Event, PlanMeasured, Progress, Warned
from edgeprune.search import Options, Result
from edgeprune.search.events import SILENT, EventStream
from edgeprune.search.measure.backend import Asked
from edgeprune.search.measure.device import table_of
from edgeprune.search.measure.paired import PairedMeasurement
from edgeprune.search.measure.pool import PoolBackend
from edgeprune.search.plan.planner import all_choices
from edgeprune.verdict import Verdict

A, B, C = "ssh://a", "ssh://b", "ssh://c"
OPTIONS = Options(engine="torchscript", formats=(), objective="magnitude", step=8, epochs=0.1, measurements=6)


@dataclass
class Lab:
    """Boards that are played: times in proportion to a file's size and to how ``slow`` a board is.  ``unlike``: facts of a board that the
    others do not have. ``meanwhile``: called in a board's thread, with its address, for every request. ``done``: (board, request)."""

    slow: dict[str, float] = field(default_factory=dict)
    unlike: dict[str, dict[str, Any]] = field(default_factory=dict)
    meanwhile: Callable[[str, str], None] = lambda board, request: None
    done: list[tuple[str, str]] = field(default_factory=list)
    connected: set[str] = field(default_factory=set)

    def open(self, target: str, engine: str, on_event: Any, accelerator: str | None = None) -> Played:
        self.meanwhile(target, "open")
        self.connected.add(target)
        return Played(self, target, on_event)

    def who(self, request: str) -> list[str]:
        return [board for board, what in self.done if what == request]


class Played(FakeDevice):
    def __init__(self, lab: Lab, target: str, on_event: Any) -> None:
        self.lab, self.target, self.on_event = lab, target, on_event
        facts = {"machine": target, "runtimes": {"torchscript": ("torch", "2.9"), "tflite": ("ai-edge-litert", "2.3.0")}}
        self.info = replace(device_info(), **facts | lab.unlike.get(target, {}))

    def _ask(self, request: str) -> None:
        self.lab.meanwhile(self.target, request)
        self.on_event({"event": "upload", "name": request, "sent": 1, "total": 1})
        self.lab.done.append((self.target, request))

    def _measured(self, artifact: Artifact) -> Measurement:
        slow, found = self.lab.slow.get(self.target, 1.0), super()._measured(artifact)
        return replace(found, device=self.info.identity, **{name: slow * getattr(found, name) for name in SPREAD})

    def measure(self, artifacts: Sequence[Artifact], options: BenchOptions) -> list[Measurement]:
        self._ask("measure")
        return super().measure(artifacts, options)

    def compare(self, baseline: Artifact, candidates: Sequence[Artifact], options: BenchOptions) -> Comparison:
        self._ask("compare")
        return super().compare(baseline, candidates, options)

    def table(self, files: dict[str, bytes], engine: str, options: BenchOptions) -> dict[str, KernelTime]:
        self._ask("table")
        slow = self.lab.slow.get(self.target, 1.0)
        return {name: KernelTime(slow * time.median_ns, 1.0, 0.0) for name, time in super().table(files, engine, options).items()}

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._ask("outputs")
        outputs = formats.find(artifact.engine).run(artifact.path, tuple(map(torch.from_numpy, inputs)))
        return [value.detach().numpy() for value in outputs]

    def close(self) -> None:
        self.lab.connected.discard(self.target)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, client_home: Path) -> Lab:
    found = Lab()
    monkeypatch.setattr("edgeprune.search.measure.board.open_device", found.open)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory(tmp_path / "run")
    yield directory
    directory.close()


def pool(run: RunDirectory, target: str = f"{A},{B}", events: EventStream = SILENT) -> PoolBackend:
    return PoolBackend(run, target, "tflite", BenchOptions(), events)


def searched(tmp_path: Path, target: str = f"{A},{B}", **given: Any) -> Result:
    given = {"budget": Budget(latency="50%"), "options": OPTIONS, "runs": tmp_path / "runs"} | given
    return prune(points_task(96), target, **given)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]


def test_boards_measure_at_the_same_time(lab: Lab, tmp_path: Path) -> None:
    """Each waits for the other with every dense model, part of the table and first round: one after another, they would wait in vain."""
    together, counts = threading.Barrier(2, timeout=60), dict[tuple[str, str], int]()

    def meanwhile(board: str, request: str) -> None:
        counts[board, request] = counts.get((board, request), 0) + 1
        if request in ("measure", "table") or (request == "compare" and counts[board, request] == 1):
            together.wait()

    lab.meanwhile = meanwhile
    result = searched(tmp_path)
    assert result.met
    compared = lab.who("compare")
    assert abs(compared.count(A) - compared.count(B)) <= len(result.figures.candidates) + 1, "no board waits for another's round"
    assert not lab.connected


def test_each_record_says_which_board_measured_it(lab: Lab, tmp_path: Path) -> None:
    told: list[Event] = []
    result = searched(tmp_path, listener=told.append)
    kept = [record["value"]["board"] for record in records(result.run) if record["key"].startswith("candidate")]
    assert set(kept) == {f"{A}, {B}"}
    assert [one.board for one in result.figures.candidates] == [event.board for event in told if isinstance(event, PlanMeasured)]
    assert sorted(one.board or "" for one in result.figures.candidates) == sorted(kept)
    assert result.figures.target == f"{A}, {B}"
    assert result.summary["device"]["judged on"] in (A, B)
    assert "measured by" in page(result.figures)
    assert any(isinstance(event, PlanMeasured) and f"on {A}, {B}:" in event.text for event in told)
    assert {event.stage for event in told if isinstance(event, Progress)} >= {f"sending table to {A}", f"sending table to {B}"}


def test_a_board_alone_is_searched_on_as_ever(lab: Lab, tmp_path: Path) -> None:
    result = searched(tmp_path, A)
    assert {board for board, _ in lab.done} == {A}
    assert all(one.board is None for one in result.figures.candidates)
    assert "pool" not in {record["key"] for record in records(result.run)}


def test_a_group_is_a_pool(lab: Lab, tmp_path: Path) -> None:
    for name, address in (("pi5a", A), ("pi5b", B)):
        add_target(name, address)
    add_group("shelf", ["pi5a", "pi5b"])
    lab.open, opened = (lambda target, **given: opened({"pi5a": A, "pi5b": B}[target], **given)), lab.open  # type: ignore[method-assign]
    result = searched(tmp_path, "shelf")
    assert result.figures.target == "pi5a, pi5b"


def test_a_run_that_was_ended_measures_nothing_twice(lab: Lab, tmp_path: Path) -> None:
    def interrupted(event: Event) -> None:
        if isinstance(event, PlanMeasured):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, listener=interrupted)
    (run,) = (tmp_path / "runs").iterdir()
    before = [record["key"] for record in records(run)]
    assert [key for key in before if key.startswith("candidate")]
    lab.done.clear()
    searched(tmp_path, resume=run)
    assert not lab.who("measure")
    assert not lab.who("table")
    keys = [record["key"] for record in records(run) if record["key"].startswith("candidate")]
    assert len(keys) == len(set(keys)), "nothing was measured twice"


def test_a_later_run_takes_what_any_board_measured(lab: Lab, tmp_path: Path) -> None:
    searched(tmp_path)
    lab.done.clear()
    again = searched(tmp_path)
    assert again.figures.reused_measurements > 0
    assert not lab.who("table")
    assert {one.board for one in again.figures.candidates} == {f"{A}, {B}"}


def test_a_board_that_goes_away_is_left_out_and_its_work_done_by_the_others(lab: Lab, tmp_path: Path) -> None:
    gone = threading.Event()

    def meanwhile(board: str, request: str) -> None:
        if board == B and request == "compare":
            gone.set()
        if board == B and gone.is_set():
            raise ConnectionLostError("the connection to ssh://b was lost")

    lab.meanwhile, told = meanwhile, list[Event]()
    result = searched(tmp_path, listener=told.append)
    assert result.met
    assert gone.is_set()
    (warned,) = (event.message for event in told if isinstance(event, Warned))
    assert warned == f"{B} is left out, and measuring goes on with {A}: the connection to ssh://b was lost"
    assert {one.board for one in result.figures.candidates} == {A}


def test_a_board_in_use_when_the_run_begins_is_left_out_of_it(lab: Lab, tmp_path: Path) -> None:
    def meanwhile(board: str, request: str) -> None:
        if board == A:
            raise DeviceBusyError("the device is in use by somebody")

    lab.meanwhile = meanwhile
    result = searched(tmp_path)
    assert {board for board, _ in lab.done} == {B}
    lab.meanwhile = Lab.meanwhile
    lab.done.clear()
    searched(tmp_path, resume=result.run)
    assert A not in {board for board, _ in lab.done}, "nothing that it measures could be compared"


def test_the_last_board_s_loss_is_the_usual_error(lab: Lab, run: RunDirectory, dense: Path) -> None:
    def meanwhile(board: str, request: str) -> None:
        if request == "measure":
            raise ConnectionLostError(f"the connection to {board} was lost")

    lab.meanwhile = meanwhile
    backend = pool(run)
    for _ in range(2):  # also when it is asked again
        with pytest.raises(ConnectionLostError, match="was lost"):
            backend.measure_dense(dense)


def test_what_fails_on_a_board_ends_the_run_after_what_the_others_had_begun(
    lab: Lab, run: RunDirectory, dense: Path, smaller: Path
) -> None:
    backend, failed = pool(run), threading.Event()
    backend.measure_dense(dense)

    def meanwhile(board: str, request: str) -> None:
        if board == A:
            failed.set()
            raise RunnerError("the runtime refuses the model")
        assert failed.wait(60)

    lab.meanwhile = meanwhile
    asked = [Asked(f"candidate-{number}", smaller) for number in range(4)]
    with pytest.raises(RunnerError, match="refuses"):
        backend.measure_pairs(dense, asked)
    assert lab.done.count((B, "compare")) == 1, "the round that it had begun"
    assert not any(run.recall(one.key) for one in asked), "rounds are no measurement before there are enough"
    backend.release()
    assert not lab.connected


def test_an_interrupted_board_lets_go_of_its_device_when_done(lab: Lab, run: RunDirectory, dense: Path, smaller: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, DeviceWaiting):
            raise KeyboardInterrupt

    backend, going_on = pool(run, events=EventStream(stop)), threading.Event()
    backend.measure_dense(dense)
    devices = {board.target: board._device for board in backend._crew.all}

    def meanwhile(board: str, request: str) -> None:
        devices[board].on_event({"event": "waiting", "holder": "a bench"})
        assert going_on.wait(60)

    lab.meanwhile = meanwhile
    with pytest.raises(KeyboardInterrupt):
        backend.measure_pairs(dense, [Asked("a", smaller), Asked("b", smaller)])
    backend.release()
    assert lab.connected == {A, B}, "both still measure"
    going_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("measuring on"):
            thread.join(60)
    assert not lab.connected


def test_a_candidate_is_made_while_another_one_is_measured(lab: Lab, run: RunDirectory, dense: Path, smaller: Path) -> None:
    """The last round of the first one waits for the second one to be made."""
    backend, begun, made = pool(run), itertools.count(1), threading.Event()
    backend.measure_dense(dense)

    def meanwhile(board: str, request: str) -> None:
        if next(begun) == BenchOptions().rounds:
            assert made.wait(60)

    def asked() -> Iterator[Asked]:
        yield Asked("first", smaller)
        made.set()
        yield Asked("second", smaller)

    lab.meanwhile = meanwhile
    pairs = backend.measure_pairs(dense, asked())
    assert [pair.board for pair in pairs] == [f"{A}, {B}"] * 2
    assert [pair.rounds for pair in pairs] == [8, 8]


@pytest.mark.parametrize(("stop_at", "rounds"), [(None, 8), (0.9, 4)])
def test_two_boards_do_half_the_rounds_each(
    stop_at: float | None, rounds: int, lab: Lab, run: RunDirectory, dense: Path, smaller: Path
) -> None:
    """Each round waits for one of the other board: one after another, they would wait in vain."""
    backend, together = pool(run), threading.Barrier(2, timeout=60)
    backend.measure_dense(dense)
    lab.meanwhile = lambda board, request: together.wait() and None
    (pair,) = backend.measure_pairs(dense, [Asked("one", smaller, stop_at)])
    assert [lab.who("compare").count(board) for board in (A, B)] == [rounds // 2] * 2
    assert pair.rounds == rounds
    assert len({part.model.device for part in pair.parts}) == 2
    assert pair.stopped_early == (stop_at is not None)
    assert PairedMeasurement.from_json(json.loads(json.dumps(pair.to_json()))) == pair


def test_a_board_lost_in_the_middle_leaves_no_round_behind(lab: Lab, run: RunDirectory, dense: Path, smaller: Path) -> None:
    backend, asked = pool(run), itertools.count(1)
    backend.measure_dense(dense)

    def meanwhile(board: str, request: str) -> None:
        if board == B and next(asked) == 3:
            raise ConnectionLostError("the connection to ssh://b was lost")

    lab.meanwhile = meanwhile
    pair = backend.measure_pair("final", dense, smaller)
    assert lab.who("compare").count(B) == 2, "two rounds were done"
    assert len(pair.log_ratios) == pair.rounds == lab.who("compare").count(A) >= 8, "all that count are those of the other"
    (left,) = backend._crew.boards
    assert left.target == A
    assert pair.model.device == pair.dense.device == left.measure(dense).device


def test_the_slowest_board_s_latencies_are_those_of_a_final_model(lab: Lab, run: RunDirectory, dense: Path, smaller: Path) -> None:
    """Its own, from its half of the rounds; the ratio is of all, and another session's rounds join by board."""
    lab.slow = {A: 1.0, B: 1.1}
    backend = pool(run)
    slowest = backend.measure_dense(dense)
    pair, more = backend.measure_pair("final", dense, smaller), backend.measure_pair("final-2", dense, smaller)
    assert pair.model.device == slowest.device
    assert pair.model.latency_ms == pytest.approx(1.1 * smaller.stat().st_size / 1e3)
    assert pair.beside[0].model.latency_ms == pytest.approx(smaller.stat().st_size / 1e3)
    together = pair.together(more)
    assert [part.model.device for part in together.parts] == [part.model.device for part in pair.parts]
    assert together.rounds == 16
    assert together.model.samples_ns == pair.model.samples_ns + more.model.samples_ns
    assert together.low <= pair.ratio <= together.high


@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        ({"board": "Raspberry Pi 4", "cpu": "cpu"}, "board board and Raspberry Pi 4"),
        ({"cores": 2}, "cores 4 and 2, threads 4 and 2"),
        ({"runtimes": {"tflite": ("ai-edge-litert", "2.2.0")}}, "runtime ai-edge-litert 2.3.0 and ai-edge-litert 2.2.0"),
        ({"arch": "armv7l"}, "architecture aarch64 and armv7l"),
    ],
)
def test_boards_of_another_kind_are_refused(unlike: dict[str, Any], said: str, lab: Lab, run: RunDirectory) -> None:
    lab.unlike[B] = unlike
    with pytest.raises(TargetError, match=f"{A} and {B} are not of one kind: {said}"):
        _ = pool(run).facts
    assert run.recall("device") is None


def test_one_machine_by_two_names_is_refused(lab: Lab, run: RunDirectory) -> None:
    lab.unlike[B] = {"machine": A}
    with pytest.raises(TargetError, match=f"{A} and {B} are one machine"):
        _ = pool(run).facts


def test_boards_that_are_much_slower_are_refused(lab: Lab, run: RunDirectory, dense: Path) -> None:
    lab.slow[B] = 1.3
    with pytest.raises(DeviceError, match=rf"ms on {A} and .* ms on {B}, 23 % apart: these boards are not alike"):
        pool(run).measure_dense(dense)
    assert run.recall("dense") is None, "a continued run looks again"
    lab.slow[B] = 1.0
    assert pool(run).measure_dense(dense)


def test_boards_that_are_a_little_slower_are_corrected(lab: Lab, run: RunDirectory, dense: Path, smaller: Path) -> None:
    lab.slow, told = {A: 1.0, B: 1.1}, list[Event]()
    backend = pool(run, events=EventStream(told.append))
    slowest = backend.measure_dense(dense)
    (warned,) = (event.message for event in told if isinstance(event, Warned))
    assert warned.endswith(f"9 % apart: what {A} measures is corrected by that")
    assert len(lab.who("measure")) == 4, "each looked twice"
    assert backend.description()["judged on"] == B
    assert slowest.latency_ms == pytest.approx(1.1 * dense.stat().st_size / 1e3)
    assert backend.facts["machine"] == B, "the record that a release compares the final measurement with"
    analysis = analyze(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).eval(), (torch.zeros(1, 64),))
    backend.kernel_times(kernels(analysis), all_choices(analysis, 8))
    table, parts = Table.open(run.path / "table.json"), {board.target: table_of(backend._facts[board]).times for board in backend._crew.all}
    assert set(parts[A]) | set(parts[B]) == set(table.times)
    assert not set(parts[A]) & set(parts[B]), "no kernel is measured twice"
    assert all(table.times[key] == pytest.approx(1.1 * ms) for key, ms in parts[A].items())
    assert all(table.times[key] == ms for key, ms in parts[B].items())
    assert backend.measure_pair("final", dense, smaller).model.device == slowest.device, "the slowest decides"


def test_an_absolute_limit_is_met_on_every_board(lab: Lab, tmp_path: Path) -> None:
    """Of candidates the ratio counts, whichever board measured them; of the final model the slowest board's own median."""
    lab.slow = {A: 1.0, B: 1.12}
    dense_ms = searched(tmp_path, B).figures.dense.latency_ms
    assert dense_ms is not None
    result = searched(tmp_path, budget=Budget(latency=f"{0.5 * dense_ms:.6f}ms"), options=replace(OPTIONS, reuse=False))
    assert result.verdict != Verdict.MISSED
    final = next(record["value"] for record in records(result.run) if record["key"].startswith("final"))
    assert final["board"] is None
    assert result.figures.pruned.latency_ms == final["model"]["latency_ms"] <= 0.5 * dense_ms
    assert result.figures.dense.latency_ms == pytest.approx(dense_ms)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{A},,{B}", "has no name beside a comma"),
        (f"{A},nobody", "unknown target 'nobody'"),
        (f"{A},one", f"{A} and one are the same address"),
        ("local:,local:", "local: is named twice"),
        ("local,local:", "local: is named twice"),
        (f"{A},{B},{A}", f"{A} is named twice"),
        (f"{A},ftp://x", "unknown kind 'ftp'"),
    ],
)
def test_targets_that_make_no_pool_are_refused_before_anything_begins(target: str, said: str, lab: Lab, tmp_path: Path) -> None:
    add_target("one", A)
    with pytest.raises(TargetError, match=said):
        searched(tmp_path, target)
    assert not (tmp_path / "runs").exists()


def test_a_microcontroller_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is a microcontroller"):
        searched(tmp_path, profile="nrf5340")
