"""The search on a device that is played: what a run measures, recalls after an interruption, and takes from earlier runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from measured import MEASURED
from played_device import PlayedDevice
from points_task import points_task
from torch import Tensor, nn

from edgeprune import Budget, prune
from edgeprune.bench import BenchOptions, Measurement
from edgeprune.cost.table import Grid, Table, point_key
from edgeprune.devices.events import OnEvent
from edgeprune.errors import InfeasibleBudgetError, ProfileError
from edgeprune.graph import analyze
from edgeprune.runs.directory import RunDirectory, record_sha256
from edgeprune.runs.events import BudgetJudged, DeviceCooling, DeviceWaiting, Event, PlanMeasured, PlanReused, Progress, SessionEnded
from edgeprune.runs.finished import read_run
from edgeprune.search import Options, Result
from edgeprune.search.events import EventStream
from edgeprune.search.measure.archive import Archive, structure
from edgeprune.search.measure.device import DeviceBackend
from edgeprune.search.measure.paired import PairedMeasurement

OPTIONS = Options(engine="torchscript", formats=(), step=16, epochs=2, measurements=4)
BUDGET = Budget(latency="50%")
FACTS = {
    **{"engine": "torchscript", "threads": 1, "key": "played", "profile": None, "runtimes": {"torchscript": ["torch", "1"]}},
    **{"board": "played", "cpu": "x", "arch": "x86_64", "cores": 1, "os": "none"},
}


class Played(DeviceBackend):
    """Latency in proportion to the file's size, from the first tuned model on times ``slower``.  ``energy_mj``: what its meter says."""

    slower, energy_mj, asked = 1.0, None, list[str]()

    @property
    def facts(self) -> dict[str, Any]:
        return FACTS

    def _measured(self, path: Path, factor: float = 1.0) -> Measurement:
        size = path.stat().st_size
        times = dict.fromkeys(("latency_ms", "low_ms", "high_ms", "p90_ms", "p99_ms"), factor * size / 1e3)
        return replace(MEASURED, **times, peak_bytes=size, file_bytes=size, energy_mj=self.energy_mj)

    def measure_dense(self, path: Path) -> Measurement:
        return self._measured(path)

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        known = self._run.recall(key)
        if known is None:
            self.asked.append(key)
            before, after = (
                self._measured(dense),
                self._measured(path, self.slower if any(one.startswith("final") for one in self.asked) else 1.0),
            )
            ratio = after.latency_ms / before.latency_ms
            known = PairedMeasurement(ratio, ratio, ratio, before, after).to_json()
            self._run.record(key, known)
        return PairedMeasurement.from_json(known)

    def table(self, grids: Sequence[Grid]) -> Table:
        found = Table.open(self._run.path / "table.json")
        found.add({point_key(point): 1.0 + point[1] * point[2] / 100 for point in found.missing(grids)})
        return found

    def check_outputs(self, path: Path, inputs: Sequence[Tensor], expected: Any, tolerance: float) -> None:
        pass


class Interrupting:
    """Stops the run at the first note that begins with ``text``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        if text.startswith(self.text):
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgeprune.search.measure.opening.DeviceBackend", Played)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Played, "asked", [])


def run(tmp_path: Path, **given: Any) -> Result:
    given = {"budget": BUDGET, "options": OPTIONS, "runs": tmp_path / "runs"} | given
    return prune(points_task(96), "local:", **given)


def keys(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (path / "measurements.jsonl").read_text().splitlines()]


def test_a_resumed_search_goes_the_way_it_began(tmp_path: Path) -> None:
    """What the run itself, or another, added to the archive meanwhile once changed the program, the plan and its training."""
    straight = keys(run(tmp_path, options=replace(OPTIONS, reuse=False)).run)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, listener=Interrupting("fine-tuning"))
    (broken,) = (path for path in (tmp_path / "runs").iterdir() if "final-0" not in " ".join(keys(path)))
    archive = Archive.of("played", 1, analyze(points_task(96).model, (torch.zeros(1, 8),)))
    for widths, _, _ in archive.observed():
        odd = {name: max(16, width - 16) for name, width in widths.items()}
        archive.add(
            odd, PairedMeasurement(0.9, 0.9, 0.9, MEASURED, replace(MEASURED, high_ms=90.0, p90_ms=90.0, p99_ms=90.0, latency_ms=90.0))
        )
    resumed = keys(run(tmp_path, resume=broken).run)
    assert [key for key in resumed if not key.startswith("known")] == [key for key in straight if not key.startswith("known")]


def test_what_cannot_be_reached_is_refused_before_anything_is_scored_or_trained(tmp_path: Path) -> None:
    for options in (OPTIONS, replace(OPTIONS, schedule="iterative"), replace(OPTIONS, schedule="online")):
        with pytest.raises(InfeasibleBudgetError, match="the least is") as raised:
            run(tmp_path, budget=Budget(parameters="0.1%"), options=options, listener=Interrupting("scoring"))
        (said,) = raised.value.__notes__
        assert said.startswith("The run is kept in")
        assert "Continue" not in said  # it would fail again


def test_what_a_run_measures_reuses_and_judges_is_told(tmp_path: Path) -> None:
    told: list[Event] = []
    run(tmp_path)
    result = run(tmp_path, listener=told.append)
    assert any(isinstance(event, PlanReused) for event in told)
    (session,) = (event for event in told if isinstance(event, SessionEnded))
    assert (session.number, session.ratio) == (1, result.summary["ratio"]["value"])
    (judged,) = (event for event in told if isinstance(event, BudgetJudged))
    assert (judged.kind, judged.limit, judged.verdict) == ("latency", "50%", result.verdict)


def test_what_a_device_waits_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(target: str, engine: str | None, on_event: OnEvent, **given: object) -> PlayedDevice:
        on_event({"event": "waiting", "holder": "a bench"})
        on_event({"event": "upload", "name": "net", "sent": 5, "total": 10})
        on_event({"event": "cooling", "causes": ["heat"]})
        on_event({"event": "folder", "path": "/tmp/x"})
        on_event({"event": "round", "number": 1, "rounds": 8})
        on_event({"event": "round", "number": 2, "rounds": 8, "ratio": 0.4914, "low": 0.47, "high": 0.52})
        return PlayedDevice(on_event)

    monkeypatch.setattr("edgeprune.search.measure.board.open_device", opened)
    told: list[Event] = []
    directory = RunDirectory(tmp_path / "run")
    assert DeviceBackend(directory, "pi5", "tflite", BenchOptions(), EventStream(told.append)).facts["engine"] == "tflite"
    directory.close()
    rounds = [Progress("round", 1, 8), Progress("round", 2, 8, detail="49.1 % [47, 52]")]
    assert told[1:] == [DeviceWaiting("pi5", "a bench"), Progress("sending net", 5, 10), DeviceCooling("pi5", ["heat"]), *rounds]


def flat(self: Played, grids: Sequence[Grid]) -> Table:
    """A table by which no width is any faster."""
    found = Table.open(self._run.path / "table.json")
    found.add({point_key(point): 1.0 for point in found.missing(grids)})
    return found


def test_a_device_has_the_last_word_on_what_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the narrowest plan takes is measured before the budget is refused."""
    monkeypatch.setattr(Played, "table", flat)
    told: list[Event] = []
    result = run(tmp_path, budget=Budget(latency="70%"), options=replace(OPTIONS, reuse=False), listener=told.append)
    assert result.met
    assert Played.asked[0].startswith("candidate")
    assert next(event for event in told if isinstance(event, PlanMeasured)).number == 0
    with pytest.raises(InfeasibleBudgetError, match=r"the narrowest plan was measured at .*; binding: latency") as raised:
        run(tmp_path, budget=Budget(latency="1%"), listener=Interrupting("scoring"))
    assert raised.value.share is not None
    assert raised.value.share > 1


def test_a_plan_that_only_a_measurement_shows_to_fit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured of the narrowest plan corrects the predictions, and not by as much as they are wrong."""
    monkeypatch.setattr(Played, "table", flat)
    result = run(tmp_path, budget=Budget(latency="30%"), options=replace(OPTIONS, epochs=0.1))
    assert result.met
    assert result.figures.objectives == [], "no plan is predicted to be within the budget, and none can be compared"


def test_an_unknown_profile_begins_no_run(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="raspberry-pi-9"):
        prune(points_task(96), profile="raspberry-pi-9", budget=BUDGET, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_later_run_measures_no_plan_again_but_for_a_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    measured = [key for key in Played.asked if key.startswith("candidate")]
    Played.asked.clear()
    later = run(tmp_path)
    assert later.summary["reused_measurements"] >= 1
    assert not set(Played.asked) & set(measured)
    monkeypatch.setattr(Played, "energy_mj", 2.0)
    Played.asked.clear()
    metered = run(tmp_path, budget=Budget(latency="50%", energy="5mJ"))
    assert metered.summary["reused_measurements"] == 0
    assert [key for key in Played.asked if key.startswith("candidate")]


def test_a_tuned_model_that_misses_is_kept_when_no_narrower_one_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Played, "slower", 9.0)
    result = run(tmp_path, options=replace(OPTIONS, step=4))
    assert not result.met
    assert json.loads((result.run / "run.json").read_text())["state"] == "budget missed"
    assert all(path.is_file() for path in result.artifacts.values())


def test_a_tuned_model_that_misses_is_cut_by_as_much_as_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Played, "slower", 1.09)
    result = run(tmp_path, options=replace(OPTIONS, step=4))
    assert result.met
    assert [key[:7] for key in Played.asked if key.startswith("final")] == ["final-0", "final-1"]


def test_networks_of_other_inputs_or_strides_share_no_trials() -> None:
    def network(stride: int, size: int) -> str:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=stride), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        return structure(analyze(model, (torch.zeros(1, 3, size, size),)))

    assert network(1, 16) == network(1, 16)
    assert len({network(1, 16), network(1, 32), network(2, 16)}) == 3


def test_an_archive_of_other_bytes_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b"\xff\xfe\x00{}\n[1]\n")
    assert Archive(path).observed() == []


class InterruptingStep(Interrupting):
    """Stops the run at the third step of a stage whose name begins with ``text``."""

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage.startswith(self.text) and done == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given", "stage", "levels"),
    [
        ({"schedule": "online"}, "online training 3", "30%"),
        ({"schedule": "iterative"}, "fine-tuning", "30%"),
        ({"training": "scratch"}, "fine-tuning", "50%"),
        ({"schedule": "one-shot", "precision": ("fp32",)}, "fine-tuning", "60%"),
    ],
)
def test_every_way_of_training_continues_after_an_interruption(given: dict[str, Any], stage: str, levels: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=4, **given)
    whole = run(tmp_path, options=options, budget=Budget(latency=levels), runs=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, options=options, budget=Budget(latency=levels), runs=tmp_path / "broken", listener=InterruptingStep(stage))
    (broken,) = (tmp_path / "broken").iterdir()
    resumed = run(tmp_path, options=options, budget=Budget(latency=levels), resume=broken)
    assert resumed.plan == whole.plan
    for mine, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_run_keeps_the_hash_of_the_record_that_its_release_is_judged_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Played._measured

    def hashed(self: Played, path: Path, factor: float = 1.0) -> Measurement:
        return replace(measured(self, path, factor), file_sha256=sha256(path.read_bytes()).hexdigest())

    monkeypatch.setattr(Played, "_measured", hashed)
    found = read_run(run(tmp_path).run)
    exported = next(one for one in found.exported if one.format == "torchscript")
    kept = found.measured(exported.sha256)
    assert kept is not None
    assert exported.record_sha256 == record_sha256(kept[0].value)


class Doubtful(Played):
    """The first tuned model's interval holds the limit, however often it is measured; those of narrower ones do not."""

    def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
        found = super().measure_pair(key, dense, path, stop_at)
        if not key.startswith("final-0"):
            return found
        model = replace(found.model, latency_ms=0.498 * found.dense.latency_ms)
        return replace(found, ratio=0.498, low=0.485, high=0.51, model=replace(model, low_ms=model.latency_ms, high_ms=model.latency_ms))


def test_a_tuned_model_that_stays_undecided_is_pruned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.search.measure.opening.DeviceBackend", Doubtful)
    result = run(tmp_path)
    assert [key.rsplit("-", 1)[0] for key in keys(result.run) if key.startswith("final")] == ["final-0", "final-1"]
    assert "too near the latency limit to be decided: pruning again" in (result.run / "log.txt").read_text()
    assert result.summary["budget"]["latency"]["judged"]["high"] < 0.5
    assert result.met


def test_an_interval_that_is_all_noise_costs_no_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noisy(Played):
        def measure_pair(self, key: str, dense: Path, path: Path, stop_at: float | None = None) -> PairedMeasurement:
            found = super().measure_pair(key, dense, path, stop_at)
            return replace(found, low=0.3, high=0.7) if key.startswith("final") else found

    monkeypatch.setattr("edgeprune.search.measure.opening.DeviceBackend", Noisy)
    result = run(tmp_path)
    assert [key.rsplit("-", 1)[0] for key in keys(result.run) if key.startswith("final")] == ["final-0"]
    assert result.verdict == "undecided"
