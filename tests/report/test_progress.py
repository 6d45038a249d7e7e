"""What a person sees of a run: the phases with their times, the rounds of a measurement, nothing that stands still for long."""

from __future__ import annotations

import re
import time
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from edgeprune.report import console_table
from edgeprune.report.columns import columns
from edgeprune.report.progress import Lines, Phases, ProgressBars
from edgeprune.runs.events import PLANS, ROUNDS, Event, Noted, PhaseStarted, Progress, RunEnded, Warned

EVENTS: list[Event] = [
    PhaseStarted("exporting", "dense to tflite"),
    Progress(PLANS, 1, 8),
    PhaseStarted("connecting", "to pi5"),
    Progress(ROUNDS, 3, 8, detail="49.1 % [47, 52]"),
    Noted("a note"),
    Warned("a warning"),
    RunEnded("done", 3.0),
]


def lines(volume: str = "normal", events: list[Event] = EVENTS) -> list[str]:
    told: list[str] = []
    with Lines(told.append, volume) as tell:  # type: ignore[arg-type]
        for event in events:
            tell(event)
    return told


def test_lines_say_when_each_phase_began() -> None:
    told = lines()
    assert [text.partition(" ")[2] for text in told] == ["exporting dense to tflite", "connecting to pi5", "a note", "warning: a warning"]
    assert all(re.fullmatch(r"\d+:\d\d", text.partition(" ")[0]) for text in told)


def test_quiet_tells_warnings_and_verbose_every_step() -> None:
    assert [text.partition(" ")[2] for text in lines("quiet")] == ["warning: a warning"]
    assert any("plan 2: round 3 of 8, 49.1 % [47, 52]" in text for text in lines("verbose"))


def test_what_goes_on_is_told_again_after_a_silence() -> None:
    told: list[str] = []
    with Lines(told.append, silence_s=0.05) as tell:
        tell(PhaseStarted("measuring", "the dense model"))
        tell(Progress(ROUNDS, 2, 8, detail="49.1 % [47, 52]"))
        deadline = time.monotonic() + 10
        while len(told) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert re.fullmatch(r"\d:\d\d \.\.\. measuring the dense model, [\d.]+ s: round 2 of 8, 49.1 % \[47, 52\]", told[-1])
    count = len(told)
    time.sleep(0.2)
    assert len(told) == count, "nothing is told after the end"


def test_a_terminal_keeps_the_time_of_each_phase_and_shows_the_rounds() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, color_system=None)
    with Bars(console=console, auto_refresh=False) as bars:
        show = ProgressBars(bars)
        for event in EVENTS[:4]:
            show(event)
        names = [task.description for task in bars.tasks]
        assert names == ["measuring plans", "connecting to pi5", "plan 2: round 3 of 8, 49.1 % [47, 52]"]
        for event in EVENTS[4:]:
            show(event)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"exporting dense to tflite, [\d.]+ s", printed)
    assert re.search(r"connecting to pi5, [\d.]+ s", printed)
    assert "warning: a warning" in printed


def test_bars_without_a_count_show_their_time_in_80_columns() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, color_system=None)
    with Bars(*columns(), console=console, auto_refresh=False) as bars:
        show = ProgressBars(bars)
        for event in EVENTS[:4]:
            show(event)
        console.print(bars)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "/?" not in shown
    assert re.search(r"connecting to pi5 +\S+ +0 s", shown)
    assert "plan 2: round 3 of 8, 49.1 % [47, 52]" in shown
    assert "…" not in shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.24, "0.2 s"), (42.0, "42 s"), (125.0, "2 min 5 s")])
def test_times_are_short(seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    phases, now = Phases(), time.monotonic()
    phases.take(PhaseStarted("scoring", "channels"))
    phases.begun = now
    monkeypatch.setattr("edgeprune.report.progress.time.monotonic", lambda: now + seconds)
    assert phases.line() == f"scoring channels, {shown}"


MODEL = {
    **{"metric": 98.0, "metric_error": 0.9, "latency_ms": 0.145, "low_ms": 0.1449, "high_ms": 0.1456, "peak_bytes": 876544},
    **{
        "energy_mj": 2.1,
        "energy_method": "no meter, modelled: 12.9 W x latency + 4.6 pJ/MAC + 162 pJ/byte",
        "file_bytes": 2e5,
        "macs": 7e6,
    },
}


def test_the_final_table_has_no_broken_words_in_80_columns() -> None:
    run = {
        **{"task": "t", "metric_name": "accuracy", "metric_unit": "%", "metric_error_method": "binomial, 250 samples", "measured": True},
        **{"dense": MODEL, "pruned": MODEL, "ratio": {"value": 0.474, "low": 0.471, "high": 0.477}},
        "warnings": [f"{name}: {share}% of the runs were stalls" for name in ("dense", "pruned") for share in (1.5, 2.1)],
    }
    stream = StringIO()
    console_table(run, Console(file=stream, width=80, color_system=None))
    text = stream.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for word in ("multiply-accumulates", "[145 µs, 146 µs]", "[47.1, 47.7]", "98.0 ± 0.9 %"):
        assert word in text
    assert text.count("of the runs were stalls") == 1
    assert "(dense, pruned)" in text
