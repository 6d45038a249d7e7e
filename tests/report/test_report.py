"""The report of a run: its figures, its labels, and a page that needs nothing else."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from edgeprune.report import console_table, write_report

RUN: dict[str, Any] = {
    "task": "digits <b>",
    "target": "pi5",
    "created": "2026-11-24 10:00",
    "measured": True,
    "metric_name": "accuracy",
    "dense": {
        "metric": 92.6,
        "latency_ms": 2.0,
        "low_ms": 1.98,
        "high_ms": 2.03,
        "peak_bytes": 20_000_000,
        "energy_mj": 40.0,
        "energy_method": "INA219",
        "file_bytes": 3_400_000,
        "macs": 125_500_000,
        "parameters": 853_018,
    },
    "pruned": {
        "metric": 91.9,
        "latency_ms": 0.95,
        "low_ms": 0.94,
        "high_ms": 0.97,
        "peak_bytes": 12_000_000,
        "energy_mj": 19.0,
        "energy_method": "INA219",
        "file_bytes": 1_500_000,
        "macs": 55_000_000,
        "parameters": 400_000,
    },
    "ratio": {"value": 0.474, "low": 0.47, "high": 0.48},
    "budget": {
        "latency": {"text": "50%", "limit": 1.0},
        "memory": {"text": "10MB", "limit": 1e7, "met": False},
        "max_drop": {"text": "1.5", "limit": 1.5},
    },
    "device": {"model": "Raspberry Pi 5", "runtime": "tflite 2.14", "threads": 4, "temperature": None},
    "versions": {"edgeprune": "0.1.0"},
    "groups": [{"name": "layer1.0.conv1", "kept": 9, "total": 16}, {"name": "layer3.8.conv1", "kept": 40, "total": 64}],
    "candidates": [
        {"predicted_ms": 0.9, "measured_ms": 1.08, "low_ms": 1.05, "high_ms": 1.1, "ratio": 0.54},
        {"predicted_ms": 0.96, "measured_ms": 0.95, "low_ms": 0.94, "high_ms": 0.97, "ratio": 0.474},
        {"predicted_ms": 0.99, "measured_ms": None},
    ],
    "history": [
        {"epoch": 0, "step": 0, "loss": None, "learning_rate": None, "score": 80.0},
        {"epoch": 1, "step": 195, "loss": 2.3, "learning_rate": 0.05, "score": 85.5},
        {"epoch": 2, "step": 390, "loss": 1.3, "learning_rate": 0.0, "score": 91.9},
    ],
    "warnings": ["the clock was not fixed"],
}


def run(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(RUN) | changes


def html(summary: dict[str, Any], tmp_path) -> str:
    write_report(summary, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text, without tags, its spaces made single."""
    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    return " ".join(" ".join(parts).split())


def console(summary: dict[str, Any]) -> str:
    stream = StringIO()
    console_table(summary, Console(file=stream, width=160, color_system=None))
    return " ".join(stream.getvalue().replace("│", " ").replace("┃", " ").split())


@pytest.fixture(params=["html", "console"])
def shown(request: pytest.FixtureRequest, tmp_path):
    return (lambda summary: words(html(summary, tmp_path))) if request.param == "html" else console


def test_before_and_after_with_intervals_and_ratio(shown) -> None:
    text = shown(run())
    assert "digits <b> on pi5" in text
    assert "accuracy 92.60 91.90 -0.70" in text
    assert "latency, median (measured) 2 ms [1.98 ms, 2.03 ms] 950 µs [940 µs, 970 µs] 47.4 % [47.0, 48.0]" in text
    assert "peak memory 20 MB 12 MB 60.0 %" in text
    assert "energy an inference (INA219) 40 mJ 19 mJ 47.5 %" in text
    assert "file size 3.4 MB 1.5 MB 44.1 %" in text
    assert "multiply-accumulates 126 M 55 M 43.8 %" in text
    assert "parameters 853 k 400 k 46.9 %" in text
    assert "the clock was not fixed" in text


def test_budgets_are_judged(shown) -> None:
    text = shown(run())
    assert "Budget missed, as measured: memory" in text
    assert "50% = 1 ms" in text
    met = run()
    del met["budget"]["memory"]
    assert "Every budget is met, as measured" in shown(met)
    slower = run()
    slower["pruned"]["latency_ms"] = 1.01
    assert "Budget missed, as measured: latency, memory" in shown(slower)
    exact = run(budget={"max_drop": {"text": "0.7", "limit": 0.7}})
    assert "Every budget is met" in shown(exact)
    worse = run(budget={"max_drop": {"text": "0.5", "limit": 0.5}})
    assert "Budget missed, as measured: max drop" in shown(worse)


def test_predictions_are_labelled(shown) -> None:
    text = shown(run(measured=False, budget={"latency": {"text": "1ms", "limit": 1.0}}))
    assert "latency, median (predicted, not measured)" in text
    assert "Every budget is met, as predicted, not measured" in text
    assert "as measured" not in text


def test_without_a_meter_energy_is_called_modelled(shown) -> None:
    summary = run()
    summary["pruned"]["energy_method"] = None
    assert "energy an inference (no meter: modelled)" in shown(summary)


@pytest.mark.parametrize(
    ("energy", "source"),
    [
        ({"energy_measured": False, "energy_method": "from the power of the profile"}, "modelled"),
        ({"energy_measured": True, "energy_method": "no meter but the battery's gauge"}, "measured"),
        ({"energy_method": "no meter, 4 W"}, "modelled"),  # as version 0.2.0 wrote it
        ({"energy_method": "INA219"}, "measured"),
    ],
)
def test_where_the_energy_comes_from_is_recorded(energy: dict[str, Any], source: str, shown) -> None:
    summary = run(budget={"energy": {"text": "40J", "limit": 40_000.0}})
    summary["pruned"].update(energy)
    assert f"Every budget is met, as {source}" in shown(summary)


def test_what_a_day_takes_of_the_battery(shown) -> None:
    battery = {"capacity_mwh": 2000.0, "inferences_per_day": 86_400.0, "source": "profile wear-os"}
    text = shown(run(battery=battery))
    assert "battery that 86,400 inferences take a day (measured energy) 48 % 22.8 % 47.5 %" in text  # 40 mJ x 86,400 of 7,200 J
    assert "battery life on these alone (2,000 mWh, profile wear-os) 2.08 days 4.39 days 210.5 %" in text
    modelled = run(battery=battery)
    modelled["pruned"]["energy_measured"] = False
    assert "take a day (modelled energy) 48 %" in shown(modelled)
    unknown = run(battery=battery)
    unknown["pruned"]["energy_mj"] = unknown["dense"]["energy_mj"] = None
    assert "mWh, profile wear-os) – – –" in shown(unknown)
    assert "battery" not in shown(run())


def test_what_is_missing_is_a_dash_and_nothing_is_claimed(shown) -> None:
    text = shown({})
    assert "file size – – –" in text
    assert "No budget was set" in text
    assert "Not judged: energy" in shown({"budget": {"energy": {"text": "40mJ", "limit": 40.0}}})


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path) -> None:
    page = html(run(), tmp_path)
    assert "<b>" not in page
    assert not re.search(r"<(script|link|img|iframe)|https?://|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_the_page_is_well_formed(tmp_path) -> None:
    page = html(run(), tmp_path)
    body = page[page.index("<body>") : page.index("</html>")]
    ElementTree.fromstring(body)


def charts(page: str) -> list[ElementTree.Element]:
    pytest.importorskip("vl_convert", reason="charts need vl-convert-python")
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]


def chart(page: str, name: str) -> ElementTree.Element:
    return next(one for one in charts(page) if name in one.get("aria-label", ""))


def place(mark: ElementTree.Element) -> tuple[float, float]:
    """Where a chart's mark stands, in pixels of its plot: y grows downwards."""
    x, y = re.match(r"translate\(([-.\d]+),([-.\d]+)\)", mark.get("transform", "")).groups()  # type: ignore[union-attr]
    return float(x), float(y)


def bars(drawn: ElementTree.Element, colour: str) -> list[float]:
    """The lengths of the bars of one colour, by the path that draws them, whose first step to the right ends before the rounded corner."""
    found = [one.get("d", "") for one in drawn.iter("path") if one.get("fill") == f"var(--{colour})"]
    steps = [re.search(r"(?:h|L)([.\d]+)", path) for path in found]
    return [float(step[1]) for step in steps if step]


def test_bars_are_as_long_as_the_channels_kept(tmp_path) -> None:
    drawn = chart(html(run(), tmp_path), "kept channels")
    kept, total = bars(drawn, "main"), bars(drawn, "track")
    assert len(kept) == len(total) == 2
    assert [value / max(total) for value in (*total, *kept)] == pytest.approx([16 / 64, 1, 9 / 64, 40 / 64], abs=0.02)


def points(drawn: ElementTree.Element, attribute: str, colour: str) -> list[float]:
    """The heights of the marks of one colour: rings have a stroke and no fill, dots a fill; the legend's stand elsewhere."""
    marks = [one for one in drawn.iter("path") if one.get(attribute) == f"var(--{colour})" and one.get("transform")]
    return [place(one)[1] for one in marks if "A" in one.get("d", "") and not one.get("d", "").startswith("M5,0")]


def test_candidates_stand_at_their_latency_with_interval_and_limit(tmp_path) -> None:
    page = html(run(), tmp_path)
    drawn = chart(page, "2 plans" if "of 2 plans" in page else "3 plans")
    rings, dots = points(drawn, "stroke", "soft")[:3], points(drawn, "fill", "main")[:2]
    limit = next(place(line)[1] for line in drawn.iter("line") if line.get("stroke") == "var(--bad)")
    assert (len(dots), len(rings)) == (2, 3)
    assert dots[0] < limit < dots[1]
    assert (rings[0] - limit) / (dots[1] - limit) == pytest.approx((1 - 0.9) / (1 - 0.95), rel=0.02)
    intervals = [line for line in drawn.iter("line") if line.get("stroke") == "var(--main)" and line.get("stroke-width") == "2"]
    assert len(intervals) == 2
    assert abs(float(intervals[0].get("y2", ""))) / (dots[1] - dots[0]) == pytest.approx((1.10 - 1.05) / (1.08 - 0.95), rel=0.02)
    assert "budget" in "".join(drawn.itertext())
    assert "-16.7 %" in page
    assert "not measured" in words(page)


def test_training_curves_leave_out_what_is_unknown_and_show_what_they_are_judged_by(tmp_path) -> None:
    page = html(run(), tmp_path)
    accuracy, loss = chart(page, "accuracy by epoch"), chart(page, "loss by epoch")
    assert (len(points(accuracy, "fill", "main")), len(points(loss, "fill", "main"))) == (3, 2)
    lines = {one.get("stroke"): place(one)[1] for one in accuracy.iter("line") if one.get("stroke-dasharray")}
    assert {"dense", "floor"} <= set(accuracy.itertext())
    low, high = points(accuracy, "fill", "main")[1:]  # 85.5 and 91.9
    slope = (high - low) / (91.9 - 85.5)
    assert lines["var(--soft)"] == pytest.approx(low + slope * (92.6 - 85.5), abs=1.0)
    assert lines["var(--bad)"] == pytest.approx(low + slope * (91.1 - 85.5), abs=1.0)


@pytest.mark.parametrize("score", [91.0, 0.0, -3.5, 1e-9])
def test_a_flat_curve_can_be_drawn(score: float, tmp_path) -> None:
    history = [{"epoch": epoch, "score": score, "loss": None} for epoch in range(3)]
    assert len(points(chart(html(run(history=history), tmp_path), "accuracy by epoch"), "fill", "main")) == 3


LAYERS = [
    {
        "name": "a'b",
        "kind": "conv2d",
        "inputs": [3, 3],
        "outputs": [16, 9],
        "weights": [432, 243],
        "macs": [9000, 5000],
        "latency_ms": [2.0, 1.0],
    },
    {"name": "block", "kind": "add", "inputs": [16, 0], "outputs": [16, 0], "weights": [0, 0], "macs": [0, 0], "latency_ms": [0.5, 0.0]},
]


def test_where_the_latency_goes_and_what_was_cut(tmp_path) -> None:
    groups = [{"name": "gone", "kept": 0, "total": 8}, *RUN["groups"]]
    page = html(run(layers=LAYERS, layers_measured=True, groups=groups), tmp_path)
    text = words(page)
    assert "single layers measured on the device" in text
    assert "Together the layers take 2.5 ms before and 1 ms after" in text
    assert "a'b conv2d 3 16 → 9 432 → 243 9 k → 5 k 2 ms 1 ms 50 %" in text
    assert "block add 16 → 0 16 → 0 – – 500 µs 0 ms 0 %" in text
    assert "Blocks gone: gone." in text
    assert "layer1.0.conv1 16 9 56 %" in text
    drawn = chart(page, "latency of 2 layers")
    before, after = bars(drawn, "before"), bars(drawn, "main")
    assert [one / max(before) for one in before[:2]] == pytest.approx([1, 0.25], abs=0.03)
    assert after[0] / max(before) == pytest.approx(0.5, abs=0.03)
    assert "a'b" in "".join(drawn.itertext())


def test_many_layers_are_drawn_as_the_slowest_and_the_rest(tmp_path) -> None:
    layers = [LAYERS[0] | {"name": f"layer{number}", "latency_ms": [float(number), 1.0]} for number in range(60)]
    page = html(run(layers=layers), tmp_path)
    names = "".join(chart(page, "layers before and after").itertext())
    assert "37 others" in names
    assert "layer59" in names
    assert "layer3latency" not in names
    assert words(page).count("layer3 conv2d") == 1, "the table has them all"


def test_samples_sessions_origin_and_files(tmp_path) -> None:
    percentiles = [1.0 + number / 100 for number in range(101)]
    sessions = [{"name": "dense", "temperature_c": [45.0, 61.2], "clock_mhz": [2400, 1800], "throttled": ["soft limit"], "samples": 1234}]
    tflite = {"file": "pruned.tflite", "bytes": 1500, "sha256": "ab" * 32, "written_at": "2026-11-24T10:00:00Z"}
    text = words(
        html(
            run(
                samples={"pruned": percentiles},
                sessions=sessions,
                origin={"command": "edgeprune prune r.py --latency 50%", "recipe SHA-256": "cd" * 32, "random seed": "7"},
                artifacts={"tflite": tflite},
                inputs=[{"shape": [1, 3, 8, 8], "dtype": "float32"}],
            ),
            tmp_path,
        )
    )
    assert "pruned 1 ms 1.5 ms 1.9 ms 1.99 ms 2 ms" in text
    assert "dense 1,234 45 → 61 2400 → 1800 not reported soft limit" in text
    assert "edgeprune prune r.py --latency 50%" in text
    assert "cd" * 32 in text
    assert "random seed 7" in text
    assert "pruned.tflite tflite 1,500 abababababababab" in text
    for language in ("Python, pruned.tflite", "C++, pruned.tflite", "Kotlin on Android, pruned.tflite", "C, pruned.tflite"):
        assert language in text
    assert 'np.zeros((1, 3, 8, 8), "float32")' in text
    assert "192 numbers" in text


def test_the_verdict_comes_first_and_warnings_come_last_each_once(tmp_path) -> None:
    warnings = ["dense: 2.1% of the runs were stalls", "pruned: 1.5% of the runs were stalls", "the clock was not fixed"]
    page = html(run(warnings=warnings), tmp_path)
    headings = re.findall(r"<h2>(.*?)[ <]", page)
    assert headings[-1] == "Warnings"
    text = words(page)
    assert text.index("Budget missed") < text.index("Before and after")
    assert text.count("of the runs were stalls") == 1
    assert "(dense, pruned)" in text


def test_without_the_chart_library_the_tables_say_everything(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.report.vega.available", lambda: False)
    text = words(html(run(layers=LAYERS), tmp_path))
    assert "pip install vl-convert-python" in text
    assert "a'b conv2d" in text
    assert "-16.7 %" in text
