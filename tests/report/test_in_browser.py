"""The pages in a real browser: nothing runs off the page on a phone or in print, and axe-core has nothing serious to say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from edgeprune.report import write_report
from edgeprune.report.failure import write_failure
from edgeprune.runs.events import EventFile, PlanMeasured

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
pytestmark = [pytest.mark.soak, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")]

MODEL = {"metric": 92.6, "metric_error": 0.5, "latency_ms": 2.0, "low_ms": 1.98, "high_ms": 2.03, "macs": 1e6, "parameters": 1e5}
RUN: dict[str, Any] = {
    "task": "a-long-name-of-a-network",
    "target": "ssh://somebody@a-long-name-of-a-host.example:2222",
    "measured": True,
    "metric_name": "accuracy",
    "metric_unit": "%",
    "dense": MODEL,
    "pruned": MODEL | {"latency_ms": 0.95, "low_ms": 0.94, "high_ms": 0.97},
    "ratio": {"value": 0.474, "low": 0.47, "high": 0.48},
    "budget": {"latency": {"text": "50%", "limit": 1.0}, "max_drop": {"text": "1.5", "limit": 1.5}},
    "device": {"model": "Raspberry Pi 5"},
    "versions": {"edgeprune": "0.2.0"},
    "groups": [{"name": f"features.{number}.block.0.convolution", "kept": 9, "total": 16} for number in range(12)],
    "layers": [
        {
            **{"name": f"features.{number}.block.0.convolution", "kind": "conv2d", "inputs": [3, 3], "outputs": [1024, 512]},
            **{"weights": [4320000, 2430000], "macs": [9000000, 5000000], "latency_ms": [0.2, 0.1]},
        }
        for number in range(12)
    ],
    "candidates": [{"predicted_ms": 0.9, "measured_ms": 1.08, "low_ms": 1.05, "high_ms": 1.1, "ratio": 0.54}],
    "history": [{"epoch": number, "step": 9, "loss": 1.0, "learning_rate": 0.1, "score": 90.0 + number} for number in range(3)],
    "samples": {name: [factor * (1 + number / 100) for number in range(101)] for name, factor in (("dense", 2.0), ("pruned", 1.0))},
    "sessions": [{"name": "dense", "temperature_c": [45.0, 61.2], "clock_mhz": [2400, 1800], "samples": 1234}],
    "artifacts": {"tflite": {"file": "pruned.tflite", "bytes": 1500, "sha256": "ab" * 32, "written_at": "2026-11-24T10:00:00Z"}},
    "origin": {"command": "edgeprune prune recipe.py --latency 50%", "recipe SHA-256": "cd" * 32},
    "warnings": ["dense: the clock was not fixed"],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=["report", "failure"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "report":
        write_report(RUN, tmp_path / "report.html")
    else:
        (tmp_path / "run.json").write_text('{"state": "infeasible", "error": "too slow\\nTake another.", "inputs": {"task": "t"}}')
        EventFile(tmp_path)(PlanMeasured(1, {"latency": 2.0}, {"latency": 1.5}, 1.5))
        write_failure(tmp_path)
    return tmp_path / "report.html"


@pytest.mark.parametrize(("width", "scheme", "media"), [(1280, "light", "screen"), (390, "dark", "screen"), (640, "light", "print")])
def test_the_page_fits_and_can_be_read_by_all(browser: Any, page: Path, width: int, scheme: str, media: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requested: list[str] = []
    tab = context.new_page()
    tab.on("request", lambda one: requested.append(one.url))
    tab.goto(page.as_uri())
    tab.emulate_media(media=media)
    assert requested == [page.as_uri()], "the page needs nothing else"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cells = tab.evaluate("[...document.querySelectorAll('.figures td')].map(one => one.getBoundingClientRect().right)")
    assert all(right <= width for right in cells), "before and after are seen without scrolling"
    for details in tab.query_selector_all("details"):
        details.evaluate("one => { one.open = true }")
    tab.evaluate(resources.files(axe).joinpath("axe.min.js").read_text())
    found = tab.evaluate("axe.run()")
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []
    assert len(found["passes"]) > 15
    context.close()
