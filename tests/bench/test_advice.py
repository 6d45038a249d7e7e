"""What a user is told about a measurement, the best number of threads, and options that reach the device."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from edgeprune.targets.runner.measure import ChildPrefetcher, LoadedModel, Options

from edgeprune.bench import Artifact, BenchOptions, Comparison, DeviceInfo, Measurement, Report, bench, comparable, open_device
from edgeprune.bench.advice import advice
from edgeprune.bench.answers import ModelAnswer
from edgeprune.devices import build_runner
from edgeprune.errors import IncomparableError, InputError, RunnerError

CALM = ModelAnswer(
    **dict.fromkeys(field.name for field in fields(ModelAnswer))
    | {
        "settled": True,
        "stable": True,
        "drift": 0.0,
        "outliers": 0.0,
        "throttled": (),
        "discarded": 0,
        "before": {"governor": "performance", "loadavg": 0.1, "cores": 4},
        "energy_error": None,
        "energy_low_mj": 1.0,
        "energy_high_mj": 2.0,
        "note": "",
        "accelerator": "cpu",
        "on_cpu": (),
    }
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stable": False}, ["did not settle", "tune"]),
        ({"settled": False, "stable": False}, ["still warming up", "longer warm-up"]),
        ({"drift": 0.12}, ["12% slower", "rest"]),
        ({"drift": -0.08}, ["8% faster"]),
        ({"outliers": 0.025}, ["2.5% of the runs were stalls", "affinity"]),
        ({"throttled": ["under-voltage"]}, ["under-voltage", "power supply"]),
        ({"throttled": ["throttled"], "discarded": 3}, ["throttled", "3 windows", "cooldown"]),
        ({"before": {"governor": "ondemand", "loadavg": 0.1, "cores": 4}}, ["ondemand", "tune"]),
        ({"before": {"governor": "performance", "loadavg": 3.6, "cores": 4}}, ["load average 3.6", "end it"]),
        ({"energy_error": "rapl: broken"}, ["energy was not measured: rapl: broken"]),
        ({"energy_low_mj": -0.5}, ["cannot be distinguished from 0"]),
        (
            {"accelerator": "gpu", "delegated": 0.4, "on_cpu": ("CAST", "TOPK_V2", "CAST")},
            ["gpu took only 40.0% of the operators", "2 CAST, 1 TOPK_V2"],
        ),
        ({"accelerator": "libx.so", "delegated": 0.0, "on_cpu": ("ADD",)}, ["libx.so took nothing", "1 ADD"]),
        ({"accelerator": "cuda", "delegated": None}, ["is not known"]),
        ({"note": "each sample is a mean"}, ["each sample is a mean"]),
    ],
)
def test_advice_says_what_and_what_to_do(change: dict, words: list[str]) -> None:
    (found,) = advice(replace(CALM, **change))
    assert all(word in found for word in words)


def test_a_calm_measurement_needs_no_advice() -> None:
    assert advice(CALM) == []
    assert advice(replace(CALM, before={"governor": "ondemand"}), ("governor performance",)) == []


def _measured(threads: int, latency_ms: float, spread: float = 0.01) -> Measurement:
    low, high = latency_ms * (1 - spread), latency_ms * (1 + spread)
    plain = Measurement("m", latency_ms, low, high, high, high, (1,), 10, 20, 1.0, 1.0, 5, None, None, "r", "1", 1, "d", "precise", True)
    return replace(plain, threads=threads)


@pytest.mark.parametrize(
    ("latencies", "best"),
    [({1: 10.0, 2: 6.0, 4: 4.0}, 4), ({1: 10.0, 2: 6.0, 4: 5.95}, 2), ({1: 5.0, 2: 6.0, 4: 9.0}, 1), ({2: 3.0}, None)],
)
def test_the_best_number_of_threads_is_the_least_of_the_fastest(latencies: dict[int, float], best: int | None) -> None:
    measured = tuple(_measured(threads, latency) for threads, latency in latencies.items())
    compared = tuple(Comparison((_measured(item.threads, 20.0), item), ()) for item in measured)
    info = DeviceInfo("local:", "c", "a", 4, None, (), "", 1, "o", "k", "l", "p", "q", "h", "m", {}, {}, ())
    assert Report(info, measured, ()).best_threads == Report(info, (), compared).best_threads == best


def test_every_figure_of_a_real_measurement_is_there(client_home: Path, dense_model: Path) -> None:
    options = BenchOptions(threads=1, min_time_s=0.1, max_time_s=0.3, warmup_s=0.2, affinity="0", profile=True)
    report = bench(dense_model, options=options)
    (found,) = report.measurements
    assert found.cpus == (0,)
    assert 0 < found.import_ms < found.cold_ms
    assert found.load_ms + found.first_ms < found.cold_ms
    assert 0.1 <= found.sampled_s < 1
    assert 0 < found.warmup_s < 1
    assert found.weights_bytes == 64 * 256 * 4
    assert (found.arena_bytes, found.operators) == (None, None)  # the interpreter tells neither
    assert {"temperatures_c", "throttled", "governor", "events"} <= set(found.before)
    assert 0 <= found.outliers < 1
    document = json.loads(json.dumps(report.to_json()))
    assert document["best_threads"] is None
    assert Measurement.from_json(document["measurements"][0]) == found


def test_the_whole_process_runs_on_the_processors_chosen(dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runner.pyz").write_bytes(build_runner()[1])
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "runner.pyz")])
    loaded = LoadedModel({"name": "m", "engine": "tflite", "path": str(dense_model)}, Options(threads=2, affinity="0"))
    try:
        tasks = list(Path(f"/proc/{loaded.child.pid}/task").glob("*/status"))
        assert {line.split()[1] for task in tasks for line in task.read_text().splitlines() if line.startswith("Cpus_allowed_list")} == {
            "0"
        }
    finally:
        loaded.child.close()


def test_other_processors_are_not_compared() -> None:
    with pytest.raises(IncomparableError, match="processors"):
        comparable(_measured(1, 1.0), replace(_measured(1, 1.0), cpus=(0, 1)))


def test_what_the_device_cannot_do_is_said(client_home: Path, dense_model: Path) -> None:
    with pytest.raises(InputError, match="affinity 'fast'"):
        BenchOptions(affinity="fast")
    with open_device("local:") as device:
        with pytest.raises(RunnerError, match="no processor 999"):
            device.measure([Artifact(dense_model)], BenchOptions(affinity="0,999"))
        with pytest.raises(RunnerError, match="this device has no meter pmic"):
            device.measure([Artifact(dense_model)], BenchOptions(threads=1, min_time_s=0.1, max_time_s=0.1, meter="pmic"))
    with pytest.raises(InputError, match="unknown engine 'npu'"):
        _ = Artifact(dense_model, engine_name="npu").engine


def test_the_next_models_process_is_ready_when_the_present_one_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runner.pyz").write_bytes(build_runner()[1])
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "runner.pyz")])
    prefetcher = ChildPrefetcher(Options(), 2)
    first = prefetcher.take()
    seen: list[int] = []
    prefetcher.ahead(lambda: seen.append(first.pid))
    second = prefetcher.take()
    assert seen == [first.pid]
    assert second.pid != first.pid
    prefetcher.ahead(lambda: seen.append(second.pid))  # no third model: no third process
    prefetcher.close()
    for child in (first, second):
        assert child.call("ready") == {}
        child.close()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    spare = ChildPrefetcher(Options(), 2)
    spare.ahead(lambda: seen.append(len(children.read_text().split())))
    assert seen[-1] == len(before.split()) + 1
    spare.close()
    assert children.read_text() == before
