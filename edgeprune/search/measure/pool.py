"""Several devices of one kind, which share all that is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

from torch import Tensor

from edgeprune.bench import BenchOptions, Measurement
from edgeprune.bench.info import DeviceFacts
from edgeprune.cost.table import Point
from edgeprune.cost.width import Widths
from edgeprune.devices import named_targets, resolve_targets
from edgeprune.engines import CPU
from edgeprune.errors import DeviceError, TargetError
from edgeprune.graph import Analysis
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import EventStream
from edgeprune.search.measure.archive import Archive
from edgeprune.search.measure.backend import Asked, described
from edgeprune.search.measure.board import Board
from edgeprune.search.measure.crew import Crew
from edgeprune.search.measure.device import CHUNK, DeviceBackend, archive_of, check_device_engine, table_of
from edgeprune.search.measure.paired import PairedMeasurement, Part
from edgeprune.search.measure.rounds import FIRST_LOOK, Round, Sharing
from edgeprune.search.precision import Precision

EQUAL, ALIKE = 0.03, 0.15
"""By how much of the slowest board's latency of the dense model the others' may be shorter for boards to count as equal; and for what they
measure to be corrected by it, beyond which they are refused."""


def check_pool(target: str) -> None:
    """Refuse a ``target`` that is unknown, or names one device twice.  Raises :class:`TargetError`."""
    for one, other in combinations(named_targets(target), 2):
        if one.name == other.name:
            raise TargetError(f"{one.name} is named twice", remedy="Name every device once: it measures one model at a time.")
        if one.address == other.address:
            raise TargetError(f"{one.name} and {other.name} are the same address, {one.address}", remedy="Name every device once.")


@dataclass(frozen=True)
class Member:
    """A board of the pool.  ``dense_ms``: what the dense model takes there."""

    facts: DeviceFacts
    dense_ms: float


@dataclass(frozen=True)
class Members:
    """The pool as it was when its run began, by target.  ``decides``: the one whose dense model is slowest, and where tuned models are
    measured: a budget that is met there is met by the others."""

    decides: str
    boards: dict[str, Member]

    def scale(self, target: str) -> float:
        """What times of that board are multiplied by to be those of the one that decides."""
        scale = self.boards[self.decides].dense_ms / self.boards[target].dense_ms
        return scale if scale > 1.0 + EQUAL else 1.0


class PooledArchive(Archive):
    """The archives of all boards, by target."""

    def __init__(self, parts: Mapping[str, Archive], decides: str) -> None:
        self._parts, self._decides = parts, decides

    def find(self, widths: Mapping[str, int]) -> PairedMeasurement | None:
        """What any of the boards measured of these widths."""
        found = ((target, part.find(widths)) for target, part in self._parts.items())
        return next((replace(pair, board=pair.board or target) for target, pair in found if pair is not None), None)

    def add(self, widths: Mapping[str, int], pair: PairedMeasurement) -> None:
        """Keep it with the board whose latencies it has."""
        self._parts[(pair.board or self._decides).partition(", ")[0]].add(widths, pair)

    def observed(self) -> list[tuple[Widths, float, float | None]]:
        """The latest of every board."""
        return [one for part in self._parts.values() for one in part.observed()]


class PoolBackend(DeviceBackend):
    """The device table and the rounds of every comparison are shared out between boards of one kind, one thread each; this thread alone
    records.

    Boards are compared before they measure for a run: what they are, then how long the dense model takes. Ratios are made of the rounds of
    all, each with the dense model of its own board; the slowest board decides what is absolute: it is its latency of a tuned model that is
    judged, and the others' times of kernels are corrected to its own where they differ.
    """

    def __init__(self, run: RunDirectory, target: str, engine: str | None, options: BenchOptions, events: EventStream) -> None:
        check_device_engine(engine)
        names = [one.name for one in resolve_targets(target)]
        self._run, self.target, self._events = run, ", ".join(names), events
        begun = run.recall_as("device", DeviceFacts)
        engine = begun["engine"] if begun else engine
        self._crew = Crew(names, lambda name, heard: Board(name, engine, options, heard), events)
        self._facts: dict[Board, DeviceFacts] = {}
        self._options, self.measurements = options, 0
        if members := run.recall_as("pool", Members):
            self._join(members)

    def _join(self, members: Members) -> None:
        """Only boards that were there when the run began measure for it."""
        self._crew.boards = [board for board in self._crew.boards if board.target in members.boards]
        self._facts = {board: members.boards[board.target].facts for board in self._crew.boards}
        self._slowest_first(members)
        for board, facts in self._facts.items():
            board.known = facts

    def _slowest_first(self, members: Members) -> None:
        """Where there are more boards than rounds, and one has gone away, the slowest one measures."""
        self._crew.boards.sort(key=lambda board: -members.boards[board.target].dense_ms)

    @property
    def at_once(self) -> int:
        """One, unless there are boards for the fewest rounds of several."""
        return max(1, len(self._crew.boards) // FIRST_LOOK)

    @property
    def is_remote(self) -> bool:
        """Whether none of the boards is this machine."""
        return all(board.is_remote for board in self._crew.all)

    @property
    def facts(self) -> DeviceFacts:
        """Those of the board that decides; of any of them before that is known: all are of one kind."""
        known = self._run.recall_as("device", DeviceFacts)
        if known is None:
            self._meet()
            known = next(iter(self._facts.values()))
            self._run.record("device", known)
        return known

    def _meet(self) -> None:
        """Probe every board.  Raises :class:`TargetError` for those of another kind."""
        if not self._facts:
            found = self._crew.each(Board.probe)
            _refuse_unlike({board.target: facts for board, facts in found.items()})
            self._facts = found

    @property
    def _members(self) -> Members:
        members = self._run.recall_as("pool", Members)
        assert members is not None, "the dense model is measured before all else"
        return members

    @property
    def _deciding(self) -> Board:
        return next(board for board in self._crew.all if board.target == self._members.decides)

    def measure_dense(self, path: Path) -> Measurement:
        """The dense model by itself, on every board; the slowest measurement.  Raises :class:`DeviceError` when they differ by too much."""
        known = self._run.recall_by("dense", Measurement.from_json)
        if known is None:
            self._events.begin("measuring", f"the dense model on {self.target}")
            self._meet()
            found = self._measure_each(path)
            slowest = max(found, key=lambda board: found[board].latency_ms)
            self._check_equal({board.target: one.latency_ms for board, one in found.items()}, slowest.target)
            boards = {board.target: Member(self._facts[board], one.latency_ms) for board, one in found.items()}
            members = Members(slowest.target, boards)
            self._run.record("pool", asdict(members))
            self._slowest_first(members)
            self._run.record("device", self._facts[slowest])
            known = found[slowest]
            self._run.record("dense", known.to_json())
        return known

    def _measure_each(self, path: Path) -> dict[Board, Measurement]:
        """By every board; twice where they differ, of which the shorter counts: something else may have run on one of them."""
        found = self._crew.each(lambda board: board.measure(path))
        times = [one.latency_ms for one in found.values()]
        again = self._crew.each(lambda board: board.measure(path)) if min(times) < (1.0 - EQUAL) * max(times) else found
        self.measurements += len(found) + (len(again) if again is not found else 0)
        return {board: min(found[board], one, key=lambda one: one.latency_ms) for board, one in again.items()}

    def _check_equal(self, dense_ms: Mapping[str, float], slowest: str) -> None:
        """Say, or refuse, by how much boards differ."""
        for target, ms in dense_ms.items():
            share = 1.0 - ms / dense_ms[slowest]
            shown = f"the dense model takes {ms:.4g} ms on {target} and {dense_ms[slowest]:.4g} ms on {slowest}, {100 * share:.0f} % apart"
            if share > ALIKE:
                raise DeviceError(
                    f"{shown}: these boards are not alike",
                    remedy="Look at their clocks, cooling and what else runs there (edgeprune probe), or leave one of them out.",
                )
            if share > EQUAL:
                self._events.warn(f"{shown}: what {target} measures is corrected by that")

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        """By all boards; the latencies are those of the one that decides, or of the slowest that is there when that has gone."""
        known = self._run.recall_by(key, PairedMeasurement.from_json)
        if known is None:
            asked = Asked(key, path, stop_at)
            ((_, known, _),) = self._compared(dense, iter([(0, asked)]))
            self._keep(key, known, stop_at)
        return known

    def measure_pairs(self, dense: Path, asked: Iterable[Asked]) -> list[PairedMeasurement]:
        """By all boards, the first of them first."""
        found: dict[int, PairedMeasurement] = {}

        def missing() -> Iterator[tuple[int, Asked]]:
            for number, one in enumerate(asked if self.is_remote else list(asked)):
                known = self._run.recall_by(one.key, PairedMeasurement.from_json)
                if known is None:
                    yield number, one
                else:
                    found[number] = known

        for (number, one), pair, boards in self._compared(dense, missing()):
            found[number] = replace(pair, board=", ".join(board.target for board in boards))
            self._keep(one.key, found[number], one.stop_at)
        return [found[number] for number in sorted(found)]

    def _compared(
        self, dense: Path, asked: Iterator[tuple[int, Asked]]
    ) -> Iterator[tuple[tuple[int, Asked], PairedMeasurement, Sequence[Board]]]:
        """Comparisons whose rounds the boards share, as they are complete, with the boards that measured them."""
        sharing = Sharing[Board](asked, self._options, len(self._crew.boards))

        def work(board: Board, task: tuple[int, Round]) -> tuple[Part, float]:
            begin = time.monotonic()
            return board.one_round(dense, task[1]), time.monotonic() - begin

        for board, (number, task), (part, seconds) in self._crew.run(sharing.next_for, lambda board, _: sharing.lose(board), work):
            if (done := sharing.add(number, board, part, seconds)) is not None:
                order = self._crew.boards
                yield (number, task.asked), done.result(order), done.boards(order)

    def archive(self, analysis: Analysis, precision: Precision) -> Archive:
        """What earlier runs measured on any of the boards."""
        name, members = "" if precision == self.precision else precision.name, self._members
        parts = {target: archive_of(one.facts, analysis, name) for target, one in members.boards.items()}
        return PooledArchive(parts, members.decides)

    def _known_times(self, keys: Sequence[str]) -> dict[str, float]:
        """Of these kernels what earlier runs measured on any of the boards, the one that decides last."""
        members, found = self._members, dict[str, float]()
        for target in sorted(members.boards, key=lambda target: target == members.decides):
            known, scale = table_of(members.boards[target].facts).times, members.scale(target)
            found |= {key: scale * known[key] for key in keys if key in known}
        return found

    def _timed(self, points: Sequence[Point]) -> Iterator[dict[str, float]]:
        """These kernels' times, as on the board that decides."""
        members, boards = self._members, len(self._crew.boards)
        parts = boards * math.ceil(len(points) / (CHUNK * boards))
        chunks = [points[len(points) * part // parts : len(points) * (part + 1) // parts] for part in range(parts)]
        for board, _, times in self._crew.share(filter(None, chunks), lambda board, chunk: board.time(chunk)):
            table_of(self._facts[board]).add(times)
            yield {key: members.scale(board.target) * ms for key, ms in times.items()}

    def description(self) -> dict[str, str | int | None]:
        """The kind of device, the boards, and which of them decides."""
        members = self._members
        return described(", ".join(members.boards), self.facts) | {"judged on": members.decides}

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Callable[[], Sequence[Tensor]], tolerance: float) -> None:
        """On the board that decides, as :meth:`Board.check_outputs`."""
        for _ in self._crew.share([path], lambda board, _: board.check_outputs(path, inputs, expected, tolerance), self._deciding):
            pass

    def release(self) -> None:
        """Let go of all boards until the next measurement."""
        self._crew.release()


def _kind(facts: DeviceFacts) -> dict[str, object]:
    """What boards of one kind have in common, by name."""
    runtime, version = facts["runtimes"].get(facts["engine"], ("none", ""))
    return {
        "board": facts["board"] or facts["cpu"],
        "processor": facts["cpu"],
        "architecture": facts["arch"],
        "cores": facts["cores"],
        "engine": facts["engine"],
        "accelerator": facts.get("accelerator", CPU),
        "adapter": facts.get("adapter", ""),
        "runtime": f"{runtime} {version}",
        "threads": facts["threads"],
    }


def _refuse_unlike(boards: Mapping[str, DeviceFacts]) -> None:
    """Raise :class:`TargetError` that names what differs, or two names of one machine."""
    for (one, facts), (other, others) in combinations(boards.items(), 2):
        mine, its = _kind(facts), _kind(others)
        if unlike := [f"{what} {mine[what]} and {its[what]}" for what in mine if mine[what] != its[what]]:
            raise TargetError(
                f"{one} and {other} are not of one kind: {', '.join(unlike)}",
                remedy="Give devices of one kind, with the same runtime (edgeprune setup); or start a run for each kind.",
            )
        if facts["machine"] == others["machine"]:
            raise TargetError(
                f"{one} and {other} are one machine: both have the machine id {facts['machine']}",
                remedy="Name every device once; copies of one system image need ids of their own (systemd-machine-id-setup).",
            )
