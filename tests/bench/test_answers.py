"""What a device answers is believed only when it is complete, of the right types and consistent; and so is what was stored."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anything import VALUES, failure
from edgeprune.targets.runner import stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.bench import DeviceInfo, Measurement
from edgeprune.bench.answers import kernel_answers, model_answers, output_arrays, ratio_of
from edgeprune.bench.compare import load_results
from edgeprune.errors import DeviceError, InputError, RunnerError
from edgeprune.files import parse_json

BLOCKS = [[160_000 + 10 * (index + 7 * block) for index in range(20)] for block in range(8)]
SAMPLES = [sample for block in BLOCKS for sample in block]
ANSWER: dict[str, Any] = {
    **{"name": "m.tflite", **stats.summary(SAMPLES, BLOCKS), "stable": True, "settled": True, "stop_reason": "precise", "warmup_s": 0.1},
    **{
        "sampled_s": 0.5,
        "others": 0.01,
        "runtime": "ai-edge-litert",
        "runtime_version": "2.3.0",
        "threads": 1,
        "cpus": [],
        "import_ms": 50.0,
    },
    **{"load_ms": 1.0, "first_ms": 0.5, "cold_ms": 51.5, "peak_bytes": 80_000, "rss_peak_bytes": 30_000_000, "weights_bytes": 30_000},
    **{"arena_bytes": None, "operators": None, "energy_mj": None, "energy_low_mj": None, "energy_high_mj": None, "energy_method": None},
    **{"before": {"loadavg": 0.1, "cores": 4, "governor": "performance", "limit_mhz": 1800.0, "temperatures_c": {"a": 40.0}}, "after": {}},
    **{"discarded": 0, "cooldown_s": 0.0, "throttled": [], "unreliable": False, "note": ""},
}
LOGS = [math.log(0.5) + 0.01 * index for index in (-2, -1, 0, 1, 2, 0, 1, -1)]


def measured(answer: dict[str, Any]) -> Measurement:
    (one,) = model_answers({"models": [answer]}, ["m.tflite"], "the board")
    return Measurement.from_answer(one, (39_000, "0" * 64), "id", "the board")


def changed(**fields: Any) -> dict[str, Any]:
    return copy.deepcopy(ANSWER) | fields


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ANSWER.items() if key != name}


def test_the_truth_is_believed() -> None:
    item = measured(ANSWER)
    assert item.latency_ms == pytest.approx(stats.median(SAMPLES) / 1e6)
    assert item.low_ms <= item.latency_ms <= item.high_ms
    assert Measurement.from_json(json.loads(json.dumps(item.to_json()))) == item
    assert measured(changed(more="of a newer runner", file_bytes=-1)) == item


TIMES = ("median_ns", "low_ns", "high_ns", "p90_ns", "p99_ns")
FORGED: dict[str, dict[str, Any]] = {
    "negative": changed(**dict.fromkeys(TIMES, -5e6)),
    "zero": changed(**dict.fromkeys(TIMES, 0.0), samples_ns=[0] * 160),
    "one nanosecond": changed(**dict.fromkeys(TIMES, 1.0)),
    "upside down": changed(low_ns=ANSWER["high_ns"] * 10, high_ns=ANSWER["low_ns"] / 10),
    "an interval narrower than its samples make": changed(low_ns=ANSWER["median_ns"], high_ns=ANSWER["median_ns"]),
    "a median beside its samples": changed(median_ns=ANSWER["median_ns"] * 0.99, low_ns=1.0),
    "a tail beside its samples": changed(p99_ns=ANSWER["p99_ns"] * 2),
    "text for a number": changed(median_ns="160000"),
    "true for a number": changed(median_ns=True),
    "text for true": changed(stable="yes"),
    "not a number": changed(drift=math.nan),
    "infinite": changed(high_ns=math.inf),
    "thousands of digits": changed(peak_bytes=10**4000),
    "a negative peak": changed(peak_bytes=-1),
    "no memory": changed(peak_bytes=0),
    "a negative process": changed(rss_peak_bytes=-1),
    "no samples": changed(samples_ns=[], windows=[]),
    "samples that are not whole": changed(samples_ns=[1.5] * 160),
    "a negative sample": changed(samples_ns=[-1, *SAMPLES[1:]]),
    "windows of more than there are": changed(windows=[*ANSWER["windows"], 5]),
    "negative energy": changed(energy_mj=-1.0, energy_method="meter"),
    "energy outside its interval": changed(energy_mj=5.0, energy_low_mj=6.0, energy_high_mj=7.0, energy_method="meter"),
    "no governor but a list": changed(before={"governor": []}),
    "a load of text": changed(before={"loadavg": "high"}),
    "conditions that are a list": changed(after=[]),
    "operators without times": changed(operators=[{"name": "a"}]),
    "throttled by numbers": changed(throttled=[1]),
    "no name": without("name"),
    **{f"no {name}": without(name) for name in ANSWER if name not in ("name", "energy_error")},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_what_cannot_be_true_is_an_error_that_names_the_device(forged: dict[str, Any]) -> None:
    with pytest.raises(RunnerError, match="the board") as caught:
        measured(forged)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"models": None},
        {"models": {}},
        {"models": []},
        {"models": [1]},
        {"models": [ANSWER, ANSWER]},
        {"models": [changed(name="other")]},
    ],
)
def test_other_models_than_were_asked_for_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(RunnerError, match="the board"):
        model_answers(answer, ["m.tflite"], "the board")


@pytest.mark.parametrize("error", [{}, [], None, "no", {"kind": 1}, {"message": None}])
def test_a_malformed_error_is_an_error_all_the_same(error: Any) -> None:
    with pytest.raises(DeviceError, match=r"m\.tflite"):
        model_answers({"models": [{"name": "m.tflite", "error": error}]}, ["m.tflite"], "the board")


def test_a_ratio_is_what_its_rounds_make() -> None:
    mean, low, high = map(math.exp, stats.trimmed_interval(LOGS))
    good = {"name": "m", "ratio": mean, "low": low, "high": high, "log_ratios": LOGS}
    assert ratio_of(good, "the board").ratio == pytest.approx(mean)
    assert ratio_of({"name": "m", "ratio": 0.5, "low": 0.0, "high": None, "log_ratios": [math.log(0.5)]}, "the board").high is None
    for forged in ({"ratio": 0.1}, {"low": high}, {"high": low}, {"log_ratios": []}, {"log_ratios": None}, {"ratio": -1.0}, {"ratio": "1"}):
        with pytest.raises(RunnerError, match="the board"):
            ratio_of(good | forged, "the board")


@pytest.mark.parametrize(
    "kernels",
    [
        *(None, [], {}, {"a": {"median_ns": 1.0, "min_ns": 1.0, "spread": 0.0}}, {"a": 1, "b": 2}),
        *({"a": {"median_ns": value, "min_ns": 1.0, "spread": 0.0}, "b": {"error": {}}} for value in (-1.0, 0.0, 0.5, math.inf, "1", None)),
    ],
)
def test_a_table_has_exactly_the_kernels_that_were_asked_for(kernels: Any) -> None:
    with pytest.raises(RunnerError, match="the board"):
        kernel_answers({"kernels": kernels}, ["a", "b"], "the board")


@pytest.mark.parametrize("outputs", [None, {}, [1], ["%%%"], ["AAAA"], [""]])
def test_outputs_that_are_not_arrays(outputs: Any) -> None:
    with pytest.raises(RunnerError, match="the board"):
        output_arrays({"outputs": outputs}, "m.tflite", "the board")


PROBE: dict[str, Any] = {
    **{
        "cpu": "c",
        "arch": "aarch64",
        "cores": 4,
        "max_mhz": None,
        "features": [],
        "board": "b",
        "memory_bytes": 1,
        "os": "o",
        "kernel": "k",
    },
    **{"libc": "l", "python": "3.11", "python_path": "/p", "hostname": "h", "machine": "m", "meters": [], "conditions": {}},
    "runtimes": {"tflite": {"runtime": "r", "version": "1"}, "onnx": {"error": {"kind": "runtime", "message": "broken"}}},
}


def test_a_description_is_complete_and_of_the_right_types() -> None:
    info = DeviceInfo.from_probe("the board", PROBE)
    assert (info.runtimes, info.broken) == ({"tflite": ("r", "1")}, {"onnx": "broken"})
    for name in PROBE:
        with pytest.raises(RunnerError, match="the board"):
            DeviceInfo.from_probe("the board", {key: value for key, value in PROBE.items() if key != name})
    for forged in (
        {"cores": 0},
        {"cores": "4"},
        {"runtimes": {"tflite": []}},
        {"runtimes": {"tflite": {"version": 2}}},
        {"conditions": []},
    ):
        with pytest.raises(RunnerError, match="the board"):
            DeviceInfo.from_probe("the board", PROBE | forged)


# anything at all


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(ANSWER)), VALUES)
def test_no_field_of_an_answer_ends_in_anything_but_a_clear_error(name: str, value: Any) -> None:
    said = failure(lambda: measured(changed(**{name: value})))
    assert said is None or "the board" in said


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_no_answer_ends_in_anything_but_a_clear_error(value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: model_answers({"models": value}, ["m.tflite"], "the board"),
        lambda: kernel_answers({"kernels": value}, ["a"], "the board"),
        lambda: output_arrays({"outputs": value}, "m.tflite", "the board"),
        lambda: DeviceInfo.from_probe("the board", value),
        lambda: DeviceInfo.from_probe("the board", PROBE | {"runtimes": value, "conditions": value}),
        lambda: Measurement.from_json(value),
    ]
    for call in calls:
        assert failure(call) != ""


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "9" * 5000, "{", "\ufeff{}", '"\\ud800', b"\xff\xfe", "", "nul"])
def test_a_file_of_results_that_is_not_a_document(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"result\.json"):
        load_results(path)
    with pytest.raises((ValueError, TypeError)):
        Measurement(**parse_json(path.read_bytes()))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(measured(ANSWER).to_json())), VALUES)
def test_a_stored_result_that_was_changed_is_refused_or_still_true(name: str, value: Any) -> None:
    stored = measured(ANSWER).to_json()
    try:
        found = Measurement.from_json(stored | {name: value})
    except InputError:
        return
    assert found.low_ms <= found.latency_ms <= found.high_ms
    assert replace(found, name="m").to_json()
