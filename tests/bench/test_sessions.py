"""Sessions of one file under a load that comes in bursts: what other programs did must not be taken for a change of the model."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from edgeprune.targets.runner import measure, stats
from edgeprune.targets.runner.others import Others, machine_ticks, process_ticks
from edgeprune.targets.runner.throttle_guard import ThrottleGuard

from edgeprune.bench import Artifact, BenchOptions, Measurement, open_device
from edgeprune.bench.compare import between_sessions, distrust
from edgeprune.bench.limits import parse_gate
from edgeprune.testing.models import dense_tflite

CORES = 2
FACTS = {
    **{"peak_bytes": 1, "rss_peak_bytes": 2, "load_ms": 1.0, "first_ms": 1.0, "file_bytes": 1, "energy_mj": None, "energy_method": None},
    **{"runtime": "r", "runtime_version": "1", "threads": 1, "device": "d"},
}


class Machine:
    """A machine of two processors on which another program computes in bursts, and slows a model down by 10 to 60 % meanwhile."""

    BUSY: Sequence[float] = (0.1, 1, 4, 8)
    IDLE: Sequence[float] = (0.2, 2, 6)

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.taken = random.Random(seed), 0.0, 0.0
        self.busy, self.until = False, self.random.uniform(0, max(self.IDLE))
        self.slow = 1.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time go on, and the other program with it."""
        end = self.now + seconds
        while self.now < end:
            step = min(end, self.until) - self.now
            self.taken += step if self.busy else 0.0
            self.now += step
            if self.now >= self.until:
                self.busy = not self.busy
                self.until += self.random.choice(self.BUSY if self.busy else self.IDLE)
                self.slow = self.random.uniform(1.1, 1.6) if self.busy else 1.0


class LoadedModel:
    """A model of 5 ms a run."""

    pid = 0

    def __init__(self, machine: Machine, ns: float) -> None:
        self.machine, self.ns = machine, ns * (1 + machine.random.gauss(0, 0.005))

    def block(self, time_ns: int, skip: int = 0) -> list[int]:
        samples: list[int] = []
        while sum(samples) < time_ns:
            samples.append(int(self.ns * self.machine.slow * (1 + abs(self.machine.random.gauss(0, 0.004)))))
            self.machine.pass_by(samples[-1] / 1e9)
        return samples


class Counted:
    """The kernel's accounts of a :class:`Machine`."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.begin, self.taken = machine, machine.now, machine.taken

    def share(self) -> float:
        return (self.machine.taken - self.taken) / max(self.machine.now - self.begin, 1e-9) / CORES


def session(machine: Machine, monkeypatch: pytest.MonkeyPatch, ns: float = 5e6, **times_s: float) -> Measurement:
    monkeypatch.setattr(measure, "time", machine)
    monkeypatch.setattr(measure, "Others", lambda _: Counted(machine))
    guard = ThrottleGuard(probe=dict, clock=type("Clock", (), {"monotonic": machine.monotonic, "sleep": machine.pass_by}))
    found = measure.sample(LoadedModel(machine, ns), measure.Options(min_time_s=0.5, max_time_s=2.0), guard)
    times = {f"{name}_ms": found[f"{name}_ns"] / 1e6 for name in ("low", "high", "p90", "p99")}
    kept = {name: found[name] for name in ("stable", "stop_reason", "others")}
    return Measurement("m", found["median_ns"] / 1e6, **times, samples_ns=tuple(found["samples_ns"]), **kept, **FACTS)


def test_of_a_hundred_pairs_of_sessions_under_load_two_at_most_are_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts: Counter[str] = Counter()
    medians = []
    for seed in range(100):
        machine = Machine(seed)
        pair = []
        for _ in range(2):
            pair.append(session(machine, monkeypatch))
            machine.pass_by(machine.random.uniform(1, 20))
        medians.append(max(item.latency_ms for item in pair) / min(item.latency_ms for item in pair))
        verdicts[between_sessions(*pair).ratio.verdict] += 1
    assert sum(ratio > 1.1 for ratio in medians) > 20  # the load does drive them apart
    assert verdicts["faster"] + verdicts["slower"] <= 2


class Light(Machine):
    """Another program computes for a twentieth of a second now and then, as on a desktop that nobody uses."""

    BUSY, IDLE = (0.05,), (1, 2, 6)


class Quiet(Machine):
    """Nothing else runs."""

    IDLE = (1e9,)


@pytest.mark.parametrize("kind", [Quiet, Light])
def test_on_an_ordinary_machine_a_model_that_is_30_percent_slower_is_called_slower(
    kind: type[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts: Counter[tuple[str, str]] = Counter()
    for seed in range(20):
        machine = kind(seed)
        base, same, slow = (session(machine, monkeypatch, ns, min_time_s=1.0, max_time_s=10.0) for ns in (5e6, 5e6, 6.5e6))
        verdicts["slow", between_sessions(base, slow).ratio.verdict] += 1
        verdicts["fast", between_sessions(slow, base).ratio.verdict] += 1
        verdicts["same", between_sessions(base, same).ratio.verdict] += 1
    assert verdicts["slow", "slower"] == verdicts["fast", "faster"] == 20
    assert verdicts["same", "faster"] == verdicts["same", "slower"] == 0


def test_load_can_only_have_made_a_model_slower() -> None:
    times = dict.fromkeys(("latency_ms", "low_ms", "high_ms", "p90_ms", "p99_ms"), 10.0)
    item = Measurement("m", samples_ns=(10_000_000,) * 10, stable=True, stop_reason="precise", others=0.2, **times, **FACTS)
    states = [parse_gate(f"latency:{limit}ms").judge(item).state for limit in (10, 9, 7, 5)]
    assert states == ["passed", "inconclusive", "inconclusive", "failed"]
    assert parse_gate("latency:1ms").judge(replace(item, others=0.5)).state == "inconclusive"
    busy = replace(item, others=None, before={"loadavg": 3.0, "cores": 2})
    assert "something else was running" in str(distrust(busy))
    assert parse_gate("latency:5ms").judge(busy).state == "inconclusive"
    assert distrust(replace(busy, others=0.0)) is None  # the kernel's accounts know better than an average over a minute


def test_what_others_take_is_what_the_kernel_counts_less_our_own(tmp_path: Path) -> None:
    stat, own = tmp_path / "proc" / "stat", tmp_path / "proc" / str(os.getpid()) / "stat"
    own.parent.mkdir(parents=True)
    assert Others([], str(tmp_path)).share() is None
    stat.write_text("cpu  100 0 50 900 5 0 0 10 7 0\ncpu0 1\n")
    own.write_text("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 10 5 1 1 20 0 1\n")
    assert machine_ticks(str(tmp_path)) == 160
    assert process_ticks(os.getpid(), str(tmp_path)) == 17
    counted = Others([], str(tmp_path))
    time.sleep(0.02)
    own.write_text("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 20 5 1 1 20 0 1\n")
    stat.write_text("cpu  110 0 50 900 5 0 0 10 7 0\ncpu0 1\n")
    assert counted.share() == 0.0  # all of it is our own
    stat.write_text("cpu  900 0 50 900 5 0 0 10 7 0\n")
    assert counted.share() == 1.0


def test_the_median_lies_inside_its_interval_by_its_making() -> None:
    generator = random.Random(5)
    for _ in range(200):
        blocks = [
            [generator.choice([100, 160]) + generator.random() for _ in range(generator.randint(1, 9))]
            for _ in range(generator.randint(1, 12))
        ]
        low, high = stats.clustered_interval(blocks)
        assert low <= stats.median([value for block in blocks for value in block]) <= high


def test_an_interval_of_blocks_holds_the_true_median_as_often_as_it_says() -> None:
    generator = random.Random(6)
    held = 0
    for _ in range(300):
        blocks = [[100 + shift + generator.gauss(0, 1) for _ in range(20)] for shift in (generator.gauss(0, 1) for _ in range(15))]
        low, high = stats.clustered_interval(blocks)
        held += low <= 100 <= high
    assert held >= 0.92 * 300


LOAD = """
import random, time
random.seed(2)
while True:
    end = time.time() + random.choice([0.1, 1, 4, 8])
    while time.time() < end:
        pass
    time.sleep(random.choice([0.2, 2, 6]))
"""


@pytest.mark.soak
def test_sessions_under_a_real_load_are_not_called_different(tmp_path: Path) -> None:
    """Minutes long: fifteen sessions, more than a hundred pairs."""
    import numpy as np

    path = tmp_path / "m.tflite"
    path.write_bytes(dense_tflite(np.ones((256, 256), np.float32)))
    options = BenchOptions(threads=1, min_time_s=0.5, max_time_s=2.0, warmup_s=0.5, energy=False)
    load, results = subprocess.Popen([sys.executable, "-c", LOAD]), list[Measurement]()
    try:
        for _ in range(15):
            with open_device("local:") as device:
                results += device.measure([Artifact(path)], options)
    finally:
        load.kill()
        load.wait()
    verdicts = Counter(between_sessions(a, b).ratio.verdict for a, b in itertools.combinations(results, 2))
    assert verdicts["faster"] + verdicts["slower"] <= 2, verdicts
