"""Windows in which a device was throttled do not count: the state comes from files that a board shows, time from a clock of the test."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from edgeprune.targets.runner import affinity, compare, measure, table
from edgeprune.targets.runner.probes import conditions, throttle
from edgeprune.targets.runner.protocol import RunnerError
from edgeprune.targets.runner.throttle_guard import ThrottleGuard, reasons

CALM = {"throttled": [], "limit_mhz": 1800.0, "clocks_mhz": [1800.0], "governor": "performance", "temperatures_c": {"cpu": 50.0}}


def _tree(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


class Script:
    """States of a device, one after another, the last for ever; and a clock that only sleeping moves."""

    def __init__(self, *states: dict) -> None:
        self.states, self.now = list(states), 0.0

    def probe(self) -> dict:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def guard(self, limit_c: float | None = None, patience_s: float = 60.0) -> ThrottleGuard:
        return ThrottleGuard(limit_c, patience_s, self.probe, self)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"throttled": ["under-voltage"]}, ["under-voltage"]),
        ({"limit_mhz": 1200.0}, ["the clock limit fell from 1800 to 1200 MHz"]),
        ({"clocks_mhz": [600.0, 600.0]}, ["the clock is 600 MHz where 1800 are allowed"]),
        ({"clocks_mhz": [600.0], "governor": "ondemand"}, []),
        ({"temperatures_c": {"cpu": 81.0}}, ["cpu is at 81.0 C, the limit is 80.0 C"]),
        ({"temperatures_c": {"cpu": 71.0}, "limits_c": {"cpu": 70.0}}, ["cpu is at 71.0 C, the limit is 70.0 C"]),
        ({"occurred": ["throttled"]}, ["throttled meanwhile"]),
        ({"events": {"core_throttle_count": 3}}, ["throttling was counted in core_throttle_count"]),
    ],
)
def test_what_holds_a_device_back(change: dict, expected: list[str]) -> None:
    assert reasons(CALM, CALM | change, limit_c=80.0) == expected


def test_what_happened_before_does_not_count() -> None:
    old = CALM | {"occurred": ["throttled"], "events": {"core_throttle_count": 3}}
    assert reasons(old, old) == []
    assert reasons(old, old | {"events": {"core_throttle_count": 4}}) != []


def test_a_window_that_was_throttled_is_discarded_after_a_cooldown() -> None:
    hot = CALM | {"throttled": ["throttled"]}
    script = Script(CALM, CALM, hot, hot, hot, CALM)
    guard = script.guard()
    assert guard.passes(3)
    assert not guard.passes(4)
    assert (guard.discarded, guard.cooldown_s, guard.causes, guard.unreliable) == (4, 3.0, ["throttled"], False)
    assert guard.passes(1)
    report = guard.report()
    assert (report["before"], report["after"], report["throttled"], report["discarded"]) == (CALM, CALM, ["throttled"], 4)


def test_a_device_must_cool_below_its_limit_before_it_continues() -> None:
    script = Script(CALM, *({"temperatures_c": {"cpu": degrees}} for degrees in (81.0, 79.0, 78.0, 76.0, 76.0)))
    guard = script.guard(limit_c=80.0)
    assert not guard.passes(1)
    assert guard.cooldown_s == 3.0


def test_a_hot_device_is_waited_for_before_anything_is_measured() -> None:
    guard = Script({"temperatures_c": {"cpu": 90.0}}, {"temperatures_c": {"cpu": 85.0}}, CALM).guard(limit_c=80.0)
    assert (guard.cooldown_s, guard.unreliable, guard.discarded) == (2.0, False, 0)


def test_a_device_that_never_recovers_is_measured_and_reported() -> None:
    script = Script(CALM, CALM | {"throttled": ["under-voltage"]})
    guard = script.guard(patience_s=10.0)
    assert guard.passes(5)
    assert (guard.unreliable, guard.causes, guard.discarded, guard.cooldown_s) == (True, ["under-voltage"], 0, 10.0)
    assert guard.report()["unreliable"] is True
    assert guard.passes(5)
    assert script.now == 10.0


class _Blocks:
    """A model each of whose blocks takes 10 ms and tells its number."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.count = 0

    def block(self, time_ns: int, skip: int = 0) -> list[int]:
        self.count += 1
        return [10_000_000 + self.count] * 3


def test_sampling_repeats_what_was_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = CALM | {"throttled": ["throttled"]}
    script = Script(CALM, CALM, hot, CALM)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: script.now))
    loaded = _Blocks()
    take = loaded.block

    def block(time_ns: int, skip: int = 0) -> list[int]:
        script.now += 0.1
        return take(time_ns, skip)

    loaded.block = block
    found = measure.sample(loaded, measure.Options(min_time_s=1.0, max_time_s=5.0), script.guard())
    numbers = {value - 10_000_000 for value in found["samples_ns"]}
    assert 1 in numbers  # seen before the throttling
    assert len(numbers) == 10
    assert loaded.count > 10
    assert numbers.isdisjoint(range(2, 2 + loaded.count - 10))
    assert (found["stop_reason"], found["stable"]) == ("precise", True)


@pytest.mark.parametrize(("run_s", "windows"), [(7.0, 6), (0.5, 20)])
def test_six_windows_at_least_have_an_interval(monkeypatch: pytest.MonkeyPatch, run_s: float, windows: int) -> None:
    script = Script(CALM)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: script.now))
    times = iter(range(10_000_000, 20_000_000, 500_000))

    def block(time_ns: int, skip: int = 0) -> list[int]:
        script.now += run_s
        return [next(times)]

    found = measure.sample(SimpleNamespace(block=block, pid=os.getpid()), measure.Options(max_time_s=10.0), script.guard())
    assert len(found["samples_ns"]) == windows
    assert (found["stop_reason"], found["stable"]) == ("time limit", False)


def test_a_round_that_was_throttled_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = CALM | {"throttled": ["throttled"]}
    script = Script(CALM, CALM, hot, CALM)
    rounds: list[str] = []

    class Loaded(_Blocks):
        warmup_s, settled = 0.0, True

        def __init__(self, model: dict, _: object) -> None:
            super().__init__()
            rounds.append(model["name"])
            self.child = SimpleNamespace(close=lambda: None)

        def warm_up(self, _: float) -> None:
            pass

        def facts(self) -> dict:
            return {}

    monkeypatch.setattr(compare, "LoadedModel", Loaded)
    monkeypatch.setattr(measure.Options, "guard", lambda *_: script.guard())
    found = compare.compare([{"name": "a"}, {"name": "b"}], measure.Options(rounds=6), lambda *_, **__: None)
    assert len(rounds) == 2 * (6 + 1)
    assert found["rounds"] == 7
    assert all((item["discarded"], item["throttled"]) == (20, ["throttled"]) for item in found["models"])
    assert len(found["models"][0]["samples_ns"]) == 6 * 10 * 3


# the files


def test_trip_points_cooling_devices_and_counters(tmp_path: Path) -> None:
    zone, cooling = "sys/class/thermal/thermal_zone0", "sys/class/thermal/cooling_device"
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    files = {f"{zone}/type": "cpu-thermal", f"{zone}/temp": "71000", f"{zone}/trip_point_0_type": "active"}
    files |= {f"{zone}/trip_point_0_temp": "50000", f"{zone}/trip_point_1_type": "passive", f"{zone}/trip_point_1_temp": "70000"}
    files |= {f"{cooling}0/type": "pwm-fan", f"{cooling}0/cur_state": "3", f"{cooling}1/type": "cpufreq-cpu0", f"{cooling}1/cur_state": "0"}
    _tree(tmp_path, files | {counter: "7", "var/lib/nvpmodel/status": "pmode:0002"})
    found = conditions(str(tmp_path))
    assert found["limits_c"] == {"thermal_zone0 cpu-thermal": 70.0}
    assert (found["throttled"], found["events"], found["nvpmodel"]) == ([], {counter: 7}, "pmode:0002")
    assert reasons(found, found) == ["thermal_zone0 cpu-thermal is at 71.0 C, the limit is 70.0 C"]
    _tree(tmp_path, {f"{cooling}1/cur_state": "2", counter: "8"})
    assert conditions(str(tmp_path))["throttled"] == ["cpufreq-cpu0 at level 2"]


@pytest.mark.parametrize(
    ("trips", "limit"),
    [
        ([("passive", 70000), ("passive", 85000), ("critical", 115000)], 85.0),  # RK3588: the first only switches the governor on
        ([("passive", 95000), ("hot", 90000), ("critical", 105000)], 90.0),
        ([("hot", 100000), ("passive", 0)], 100.0),
        ([("active", 50000), ("critical", 110000)], None),
    ],
)
def test_the_limit_is_what_the_kernel_keeps_a_zone_below(tmp_path: Path, trips: list[tuple[str, int]], limit: float | None) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    files = {f"{zone}/type": "soc", f"{zone}/temp": "60000"}
    for index, (kind, value) in enumerate(trips):
        files |= {f"{zone}/trip_point_{index}_type": kind, f"{zone}/trip_point_{index}_temp": str(value)}
    _tree(tmp_path, files)
    assert conditions(str(tmp_path))["limits_c"].get("thermal_zone0 soc") == limit


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ``vcgencmd`` that answers what the file holds."""
    tool = tmp_path / "bin/vcgencmd"
    _tree(tmp_path, {"answer": "throttled=0x0", "bin/vcgencmd": f"#!/bin/sh\nexec /bin/cat {tmp_path}/answer"})
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    return tmp_path / "answer"


@pytest.mark.parametrize(
    ("answer", "throttled", "occurred"),
    [
        ("throttled=0x0", [], []),
        ("throttled=0x50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("throttled=0x80008", ["soft temperature limit"], ["soft temperature limit"]),
        ("error=1", None, None),
        ("", None, None),
    ],
)
def test_the_raspberry_pis_firmware(vcgencmd: Path, tmp_path: Path, answer: str, throttled: object, occurred: object) -> None:
    vcgencmd.write_text(answer + "\n")
    found = throttle.state(str(tmp_path))
    assert (found["throttled"], found["occurred"]) == (throttled, occurred)


# processors


def _cores(root: Path, name: str, values: list[int]) -> None:
    _tree(root, {f"sys/devices/system/cpu/cpu{index}/{name}": str(value) for index, value in enumerate(values)})


@pytest.mark.parametrize("name", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_big_and_little_processors(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _cores(tmp_path, name, [250] * 4 + [760] * 2 + [1024] * 2)
    monkeypatch.setattr(affinity.os, "sched_getaffinity", lambda _: set(range(7)))
    assert affinity.choose("big", str(tmp_path)) == [4, 5, 6]
    assert affinity.choose("little", str(tmp_path)) == [0, 1, 2, 3]
    assert affinity.choose("all", str(tmp_path)) == []
    assert affinity.choose("0,2-3", str(tmp_path)) == [0, 2, 3]


def test_processors_that_are_all_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity.os, "sched_getaffinity", lambda _: {0, 1})
    assert affinity.choose("big", str(tmp_path)) == []
    assert "does not report how fast the processors are: affinity big" in affinity.doubt("big", str(tmp_path))
    assert affinity.doubt("0,1", str(tmp_path)) == ""
    _cores(tmp_path, "cpu_capacity", [1024, 1024])
    assert affinity.choose("big", str(tmp_path)) == affinity.choose("little", str(tmp_path)) == [0, 1]
    assert affinity.doubt("big", str(tmp_path)) == ""
    for wrong, message in (("0,9", "no processor 9"), ("fast", "is not all, big, little")):
        with pytest.raises(RunnerError, match=message):
            affinity.choose(wrong, str(tmp_path))


def test_a_tables_windows_that_were_throttled_are_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
        for name in "abc":
            archive.writestr(name, name)
    hot = CALM | {"throttled": ["throttled"]}
    script = Script(CALM, CALM, hot, CALM)
    events: list[tuple[str, dict]] = []

    class Child:
        """The first window after the throttling would be ten times as long."""

        def __init__(self, *_: object) -> None:
            self.windows = 0

        def call(self, command: str, **fields: object) -> dict:
            if command == "load":
                return {"runtime": "r", "version": "1"}
            self.windows += "min_runs" in fields
            script.now += 1.0
            return {"samples": [1000 if self.windows == 2 else 100]}

        def close(self) -> None:
            pass

    monkeypatch.setattr(table, "Child", Child)
    monkeypatch.setattr(measure.Options, "guard", lambda *_: script.guard())
    found = table.table(str(tmp_path / "models.zip"), "tflite", 3, measure.Options(), lambda name, **fields: events.append((name, fields)))
    assert {name: (item["median_ns"], item["spread"]) for name, item in found["kernels"].items()} == dict.fromkeys("abc", (100, 0))
    assert (found["discarded"], found["throttled"]) == (1, ["throttled"])
    assert events[-1] == ("table", {"done": 9, "total": 9})


def test_cooling_down_is_reported() -> None:
    script, told = Script(CALM, CALM | {"throttled": ["throttled"]}, CALM), []
    guard = ThrottleGuard(None, 60.0, script.probe, script, lambda name, **fields: told.append((name, fields)))
    assert not guard.passes(1)
    assert told == [("cooling", {"causes": ["throttled"]})]
