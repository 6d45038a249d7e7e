"""Energy of one inference: from meters that are simulated, and from a device whose draw makes a step."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from edgeprune.targets.runner import energy
from edgeprune.targets.runner.meters import Meter, MeterError, PowerMeter, stream


class _Clock:
    """Time that passes only when something sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The clock of what measures energy."""
    made = _Clock()
    monkeypatch.setattr(energy, "time", made)
    return made


class _Simulated(Meter):
    """Draws 1 W idle and 3 W while ``busy``; its clock is that of the test."""

    name, covers = "simulated", "everything"
    busy = False

    def __init__(self, clock: _Clock, period_s: float, noise: list[float] | None = None) -> None:
        self.clock, self.period_s, self._noise = clock, period_s, iter(noise or [0.0] * 100)
        self.closed = False

    def start(self) -> None:
        self._begin = self.clock.monotonic()

    def stop(self) -> float:
        watts = (3.0 if self.busy else 1.0) + next(self._noise)
        self.busy = False
        return watts * (self.clock.monotonic() - self._begin)

    def close(self) -> None:
        self.closed = True


def _work(meter: _Simulated, run_s: float = 0.001) -> Callable[[int], int]:
    def run(time_ns: int) -> int:
        meter.busy = True
        meter.clock.sleep(time_ns / 1e9)
        return round(time_ns / 1e9 / run_s)

    return run


def test_energy_is_that_of_one_inference_above_idle(clock: _Clock) -> None:
    meter = _Simulated(clock, 0.005)
    found = energy.measure_energy(_work(meter), 0.25, meter=meter)
    assert found["energy_mj"] == pytest.approx(2.0, rel=0.1)
    assert found["energy_low_mj"] <= found["energy_mj"] <= found["energy_high_mj"]
    assert "simulated: everything, idle of 1.00 W subtracted, 5 windows of 0.05 s" in found["energy_method"]
    assert meter.closed


def test_a_noisy_meter_has_a_wide_interval(clock: _Clock) -> None:
    noise = [0.0, 1.0, 0.0, -1.0, 0.0, 0.8, 0.0, -0.8, 0.0, 0.0]
    meter = _Simulated(clock, 0.005, noise)
    found = energy.measure_energy(_work(meter), 0.25, meter=meter)
    assert found["energy_high_mj"] - found["energy_low_mj"] > 1.5
    assert found["energy_low_mj"] <= 2.0 <= found["energy_high_mj"]


def test_windows_are_whole_periods_and_a_meter_may_be_too_slow() -> None:
    assert energy.window_s(0.2, 0.001) == (pytest.approx(0.2), 5)
    assert energy.window_s(0.2, 0.09) == (pytest.approx(0.45), 5)
    assert energy.window_s(0.2, 3.0) == (pytest.approx(15.0), 4)
    with pytest.raises(MeterError, match=r"every 5\.0 s is too slow"):
        energy.window_s(0.2, 5.0)


def test_an_energy_below_idle_is_not_energy(clock: _Clock) -> None:
    meter = _Simulated(clock, 0.005, [0.0, -2.5] * 5)
    found = energy.measure_energy(_work(meter), 0.25, meter=meter)
    assert found["energy_mj"] is None
    assert "did not draw more than idling" in found["energy_error"]


def test_a_meter_that_fails_is_reported_and_gives_no_energy(clock: _Clock) -> None:
    meter = _Simulated(clock, 9.0)
    found = energy.measure_energy(_work(meter), 0.25, meter=meter)
    assert found["energy_mj"] is None
    assert found["energy_error"].startswith("simulated: ")
    assert energy.measure_energy(_work(meter), 0.25, wanted=False) == energy.NOTHING


class _Step:
    """Draws 1 W, and 4 W while it works; ``told(age_s)`` is what it drew that long ago."""

    def __init__(self) -> None:
        self._steps = [(0.0, 1.0)]

    def told(self, age_s: float = 0.0) -> float:
        moment = time.monotonic() - age_s
        return next(watts for begin, watts in reversed(self._steps) if begin <= moment)

    def run(self, time_ns: int) -> int:
        """Inferences of 0.1 ms each."""
        begin = time.monotonic()
        self._steps.append((begin, 4.0))
        time.sleep(time_ns / 1e9)
        self._steps.append((time.monotonic(), 1.0))
        return round((time.monotonic() - begin) / 1e-4)


class _StepMeter(PowerMeter):
    """Tells what a step draws, as old as ``age_s``."""

    name, covers, period_s = "step", "everything", 0.04

    def __init__(self, step: _Step, age_s: float) -> None:
        super().__init__()
        self.watts = lambda: step.told(age_s)


@pytest.mark.parametrize("age_s", [0.0, 0.04], ids=["at once", "a period late"])
def test_neither_the_begin_nor_the_end_of_a_window_counts_as_idle(age_s: float) -> None:
    wanted = pytest.approx(0.3, rel=0.08)  # 3 W above idle for 0.1 ms; an edge is a fifth of a window
    for _ in range(4):  # a delay of the machine moves one measurement, an edge that counts as idle moves all
        step = _Step()
        found = energy.measure_energy(step.run, 0.5, meter=_StepMeter(step, age_s))
        if found["energy_mj"] == wanted and "idle of 1.0" in found["energy_method"]:
            break
    assert found["energy_mj"] == wanted
    assert "idle of 1.0" in found["energy_method"]


@pytest.mark.parametrize("columns", ["power_w", "energy_j"])
def test_only_lines_from_inside_a_window_count(columns: str) -> None:
    step, ended = _Step(), threading.Event()
    reader, writer = os.pipe()

    def tell() -> None:
        total, last = 0.0, time.monotonic()
        while not ended.wait(0.03):
            total, last = total + step.told() * (time.monotonic() - last), time.monotonic()
            os.write(writer, f"{step.told() if columns == 'power_w' else total:.6f}\n".encode())

    thread = threading.Thread(target=tell)
    thread.start()
    meter = stream.StreamMeter(reader, "a pipe", stream.Lines([columns]))
    try:
        found = energy.measure_energy(step.run, 0.5, meter=meter)
    finally:
        ended.set()
        thread.join()
        os.close(writer)
    assert found["energy_mj"] == pytest.approx(0.3, rel=0.06), found["energy_error"]
