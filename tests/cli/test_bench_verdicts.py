"""Gates, comparisons of stored results, and the JUnit report."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from junit_layout import check_layout

from edgeprune.bench import Measurement, Ratio
from edgeprune.bench.compare import ASSUMED, Spread, between_sessions, compare_results, known_spread, load_results
from edgeprune.bench.junit import Case, Suite, junit_xml
from edgeprune.bench.limits import parse_gate
from edgeprune.errors import IncomparableError, InputError

PLAIN = Measurement(
    *(
        "m",
        10.0,
        9.9,
        10.1,
        11.0,
        12.0,
        tuple(range(9_500_000, 10_600_000, 100_000)),
        20_000_000,
        30_000_000,
        1.0,
        1.0,
        5_000_000,
        None,
        None,
        "r",
        "1",
        2,
        "d",
        "precise",
    ),
    *(True, {"governor": "performance", "limit_mhz": 1800.0}),
)
BASE = replace(PLAIN, peak_bytes=19_000_000, file_bytes=5_000_000)


def state(text: str, item: Measurement = PLAIN, ratio: tuple[float, float, float] = (1.0, 0.99, 1.01)) -> str:
    return parse_gate(text).judge(item, BASE, Ratio.judge("m", *ratio)).state


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency:10.2ms", "passed"),
        ("latency:10.1ms", "passed"),
        ("latency:10ms", "inconclusive"),
        ("latency:9.8ms", "failed"),
        ("memory:20MB", "passed"),
        ("memory:19.9MB", "failed"),
        ("memory:106%", "passed"),
        ("memory:105%", "failed"),
        ("size:5MB", "passed"),
        ("size:99%", "failed"),
        ("energy:40mJ", "inconclusive"),
        ("latency:102%", "passed"),
        ("latency:98%", "failed"),
    ],
)
def test_limits(text: str, expected: str) -> None:
    assert state(text) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ((1.10, 1.06, 1.14), "failed"),
        ((1.06, 1.04, 1.08), "inconclusive"),
        ((1.02, 1.00, 1.04), "passed"),
        ((0.50, 0.10, 1.05), "passed"),
        ((1.00, 0.00, math.inf), "inconclusive"),
        ((math.nan, math.nan, math.nan), "inconclusive"),
    ],
)
def test_slower_fails_only_when_all_of_the_interval_is_beyond_the_limit(ratio: tuple[float, float, float], expected: str) -> None:
    assert state("slower:5%", ratio=ratio) == expected


def test_energy_is_judged_by_its_interval() -> None:
    item = replace(PLAIN, energy_mj=40.0, energy_low_mj=38.0, energy_high_mj=42.0)
    assert [state(f"energy:{limit}mJ", item) for limit in (37, 40, 42)] == ["failed", "inconclusive", "passed"]
    assert state("energy:50%", item) == "inconclusive"  # the baseline has none


def test_a_meter_that_failed_is_not_called_missing() -> None:
    item = replace(PLAIN, energy_error="battery: no current")
    before = item.to_json() | {"warnings": ["energy was not measured: battery: no current"]}
    del before["energy_error"]  # as version 0.2.0 stored it
    for one in (item, Measurement.from_json(before)):
        assert parse_gate("energy:40mJ").judge(one).message == "energy was not measured: battery: no current"
    assert "there is no meter" in parse_gate("energy:40mJ").judge(PLAIN).message


def unreliable(item: Measurement) -> Measurement:
    """Throttled to the end."""
    return replace(item, unreliable=True, throttled=("heat",))


@pytest.mark.parametrize(
    ("item", "why"), [(replace(PLAIN, samples_ns=PLAIN.samples_ns[:5]), "5 runs are too few"), (unreliable(PLAIN), "throttled (heat)")]
)
def test_a_latency_that_cannot_be_trusted_decides_nothing(item: Measurement, why: str) -> None:
    for limit in ("1ms", "1s"):
        judged = parse_gate(f"latency:{limit}").judge(item)
        assert (judged.state, why in judged.message) == ("inconclusive", True)
    other = replace(BASE, latency_ms=50.0, low_ms=49.0, high_ms=51.0)
    for a, b in ((item, other), (other, item)):
        ratio = between_sessions(a, b).ratio
        assert ratio.verdict == "inconclusive"
        judged = parse_gate("slower:5%").judge(b, a, ratio)
        assert (judged.state, why in judged.message) == ("inconclusive", True)
    assert parse_gate("memory:20MB").judge(item).state == "passed"


def test_a_median_that_did_not_settle_decides_only_beyond_the_middle_of_its_runs() -> None:
    item = replace(PLAIN, stable=False)  # runs from 9.5 to 10.5 ms
    assert [state(f"latency:{limit}ms", item) for limit in (9.0, 9.8, 10.2, 11.0)] == ["failed", "inconclusive", "inconclusive", "passed"]
    slower = replace(BASE, latency_ms=10.9, low_ms=10.8, high_ms=11.0)
    known = Spread(0.002, 30)
    assert between_sessions(BASE, slower, spread=known).ratio.low > 1.05
    assert between_sessions(item, slower, spread=known).ratio.low < 1.05


@pytest.mark.parametrize("text", ["slower", "slower:", "slower:5ms", "slower:-5%", "latency:15", "memory:20ms", "speed:1x", ""])
def test_what_is_not_a_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_gate(text)


def test_only_relative_gates_need_a_baseline() -> None:
    needing = [text for text in ("slower:5%", "memory:110%", "memory:1MB", "latency:1ms") if parse_gate(text).needs_baseline]
    assert needing == ["slower:5%", "memory:110%"]


# results of two sessions


def test_a_ratio_of_two_sessions_holds_both_intervals() -> None:
    change = between_sessions(PLAIN, replace(PLAIN, latency_ms=20.0, low_ms=19.9, high_ms=20.1))
    ratio = change.ratio
    assert ratio.ratio == pytest.approx(2.0)
    assert 1.7 < ratio.low < 19.9 / 10.0 < 20.1 / 10.0 < ratio.high < 2.4
    assert (ratio.verdict, change.differences) == ("slower", {})
    assert between_sessions(replace(PLAIN, latency_ms=20.0, low_ms=19.9, high_ms=20.1), PLAIN).ratio.verdict == "faster"
    assert between_sessions(PLAIN, PLAIN).ratio.verdict == "inconclusive"  # what is assumed of sessions is wider than a verdict allows
    assert between_sessions(PLAIN, PLAIN, spread=Spread(0.002, 30)).ratio.verdict == "same"


def test_the_spread_between_sessions_is_in_the_interval() -> None:
    other = replace(PLAIN, latency_ms=10.5, low_ms=10.4, high_ms=10.6)
    assert between_sessions(PLAIN, other, spread=Spread(0.001, 30)).ratio.verdict == "slower"
    assert between_sessions(PLAIN, other, spread=Spread(0.02, 30)).ratio.verdict == "inconclusive"
    assert Spread(0.02, 30).half_width == pytest.approx(2.750 * 2**0.5 * 0.02, rel=1e-3)  # Student's t, a standard table


def test_the_spread_is_pooled_over_models_and_assumed_when_little_is_known() -> None:
    e = math.e
    assert known_spread([[1.0, e], [5.0]]) == ASSUMED
    assert known_spread([]) == ASSUMED
    pooled = known_spread([[1.0, e**2], [7.0 * e, 7.0 / e, 7.0, 7.0, 7.0], [3.0]])
    assert pooled.freedom == 5
    assert pooled.deviation == pytest.approx(((2.0 + 2.0) / 5) ** 0.5)


@pytest.mark.parametrize("bounds", [(5.0, 15.0), (0.0, 10.1), (9.9, math.inf)])
def test_wide_intervals_are_not_a_verdict(bounds: tuple[float, float]) -> None:
    low, high = bounds
    assert between_sessions(PLAIN, replace(PLAIN, low_ms=low, high_ms=high)).ratio.verdict == "inconclusive"


def test_all_differences_are_reported_and_force_continues() -> None:
    other = replace(PLAIN, threads=4, runtime_version="2", before={"governor": "ondemand", "limit_mhz": 1500.0})
    with pytest.raises(IncomparableError) as caught:
        between_sessions(PLAIN, other)
    for told in ("thread counts: 2 and 4", "runtimes: r 1 and r 2", "governors: performance and ondemand", "limits: 1800.0 and 1500.0"):
        assert told in caught.value.message
    assert set(between_sessions(PLAIN, other, force=True).differences) == {"thread counts", "runtimes", "clock governors", "clock limits"}


def test_results_with_several_thread_counts_are_paired() -> None:
    four = replace(PLAIN, threads=4)
    changes = compare_results([PLAIN, four], [four, PLAIN])
    assert [(change.a.threads, change.b.threads) for change in changes] == [(2, 2), (4, 4)]
    with pytest.raises(IncomparableError, match="thread counts"):
        compare_results([PLAIN], [four])


def test_files_of_results(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"measurements": [PLAIN.to_json()], "comparisons": []}))
    assert load_results(path) == [PLAIN]
    pair = {"measurements": [BASE.to_json(), PLAIN.to_json()]}
    path.write_text(json.dumps({"measurements": [], "comparisons": [pair]}))
    assert load_results(path) == [PLAIN]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"measurements": [{}]}', '{"measurements": [1]}', '{"devices": []}', "\udcff"])
def test_files_that_hold_no_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError):
        load_results(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_results(tmp_path / "missing.json")


def test_a_junit_report_keeps_the_layout_and_every_state() -> None:
    cases = [
        Case(f"case {state} <&\"'>", "m", state, f"why\x00 {state} \ud800 ä", 0.5) for state in ("passed", "failed", "error", "skipped")
    ]
    text = junit_xml([Suite("pi4", cases, {"device": "a <board>"}), Suite("pi5", [])])
    root = ET.fromstring(text.encode("utf-8"))
    check_layout(root)
    first = root.findall("testsuite")[0].findall("testcase")
    assert [case.attrib["name"] for case in first] == [case.name for case in cases]
    assert [[inner.tag for inner in case] for case in first] == [["system-out"], ["failure"], ["error"], ["skipped"]]
    failure = first[1].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "why? failed ? ä"
    assert root.attrib["time"] == "2.000"
