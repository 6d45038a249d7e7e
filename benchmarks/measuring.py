"""How far the runner's figures can be trusted, measured on this machine.

    python benchmarks/measuring.py                    # everything, short
    python benchmarks/measuring.py --aa 100 --sessions 20 --write docs/measuring.md

Models: those of the folder ``tflite`` below ``EDGEPRUNE_DATA`` where it is set, and torchvision's MobileNetV2, exported once into the
user's cache.  Without ``litert-benchmark`` (of ai-edge-litert) or ``/usr/bin/time`` the parts that need them are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import platformdirs

from edgeprune.bench import Artifact, BenchOptions, Device, Ratio, open_device
from edgeprune.testing.models import dense_tflite

AGREEMENT_MODELS = ("kws_ref_model_float32", "pretrainedResnet", "pretrainedResnet_quant", "vww_96_int8")
PAIRS = 9
SMALL_MODELS = 20
SMALL_WINDOWS_S = (1.0, 3.0)
TIME = "/usr/bin/time"
MARKER = "<!-- measured -->"

# litert-benchmark with its results unrounded: it rounds milliseconds to 0.01, which is more than 3 % of a small model
THEIRS = "import sys, ai_edge_litert.tools.benchmark_litert_model as tool; tool.round = lambda value, digits: value; sys.exit(tool.main())"
BARE = """
import sys
from time import perf_counter_ns as clock
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
for detail in interpreter.get_input_details():
    interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
invoke = interpreter.invoke
for _ in range(20):
    invoke()
end, windows = clock() + 500_000_000, []
while clock() < end:
    begin = clock()
    for _ in range(10):
        invoke()
    windows.append((clock() - begin) / 10)
print(sorted(windows)[len(windows) // 2])
"""


def run_python(program: str, *arguments: str) -> str:
    """Standard output of a program in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def mobilenet() -> Path:
    """MobileNetV2 for 224x224, exported once."""
    folder = Path(platformdirs.user_cache_dir("edgeprune")) / "benchmarks"
    path = folder / "mobilenet_v2.tflite"
    if not path.exists():
        import torch
        from torchvision.models import mobilenet_v2

        from edgeprune.export import export

        torch.manual_seed(0)
        export(mobilenet_v2(weights=None).eval(), (torch.zeros(1, 3, 224, 224),), ["tflite"], folder, "mobilenet_v2")
    return path


def given_models() -> dict[str, Path]:
    """Models that this project did not make."""
    folder = Path(os.environ.get("EDGEPRUNE_DATA", "/nowhere")) / "tflite"
    return {name: folder / f"{name}.tflite" for name in AGREEMENT_MODELS if (folder / f"{name}.tflite").exists()}


def light_model(folder: Path) -> Path:
    """A model of some tens of microseconds."""
    given = given_models()
    if given:
        return given["kws_ref_model_float32"]
    path = folder / "light.tflite"
    path.write_bytes(dense_tflite(np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)))
    return path


def a_against_a(device: Device, count: int, model: Path) -> Iterator[str]:
    """A model compared with itself, each time in a session of its own: how often the interval contains 1, and how wide it is."""
    options = BenchOptions(threads=1, min_time_s=0.4, max_time_s=2.0, warmup_s=0.5, energy=False)
    ratios: list[Ratio] = []
    begin = time.monotonic()
    for number in range(count):
        ratios += device.compare(Artifact(model, "a"), [Artifact(model, "b")], options).ratios
        device.close()  # others may have the device in between
        progress(f"A/A {number + 1} of {count}: {sum(item.low <= 1 <= item.high for item in ratios)} contain 1")
    inside = sum(item.low <= 1 <= item.high for item in ratios)
    widths = sorted((item.high - item.low) / item.ratio for item in ratios)
    verdicts = ", ".join(f"{name} {number}" for name, number in Counter(item.verdict for item in ratios).most_common())
    yield f"| A/A, {model.stem}, {count} comparisons | the interval contains 1 in {inside}; verdicts: {verdicts} |"
    yield f"| width of its 99 % interval | median {statistics.median(widths):.2%}, largest {widths[-1]:.2%} |"
    yield f"| one such comparison takes | {(time.monotonic() - begin) / count:.1f} s |"


def stopping(device: Device, count: int, model: Path) -> Iterator[str]:
    """A model compared with itself: without a limit, at a limit that is its ratio, and where it takes 115 % of the limit."""
    options = BenchOptions(threads=1, min_time_s=0.4, max_time_s=2.0, warmup_s=0.5, energy=False)
    limits = {"without a limit": None, "at the limit": 1.0, "at 115 % of the limit": 1 / 1.15}
    found: dict[str, list[Ratio]] = {where: [] for where in limits}
    taken = dict.fromkeys(limits, 0.0)
    for number in range(count):
        for where, limit in limits.items():
            begin = time.monotonic()
            found[where] += device.compare(Artifact(model, "a"), [Artifact(model, "b")], replace(options, stop_at=limit)).ratios
            taken[where] += time.monotonic() - begin
            device.close()
        progress(f"stopping {number + 1} of {count}")
    for where, limit in limits.items():
        ratios = found[where]
        clear = sum(limit is not None and not item.low <= limit <= item.high for item in ratios)
        inside = sum(item.low <= 1 <= item.high for item in ratios)
        rounds = statistics.mean(len(item.log_ratios) for item in ratios)
        width = statistics.median((item.high - item.low) / item.ratio for item in ratios)
        yield f"| {where}, {count} comparisons | clear of it in {clear}; the interval contains 1 in {inside} |"
        yield f"| rounds, width of the interval, time of one | {rounds:.1f}, {width:.1%}, {taken[where] / count:.1f} s |"


def theirs_ms(model: Path, runs: int) -> float:
    """Median of litert-benchmark."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        options = ["--num_threads", "1", "--warmup_runs", "20", "--num_runs", str(runs), "--result_json", file.name]
        run_python(THEIRS, "--model", str(model), *options)
        return float(json.loads(Path(file.name).read_text())["latency"]["median_ms"])


def ours_ms(device: Device, model: Path) -> float:
    """Median of the runner in a session that is open."""
    options = BenchOptions(threads=1, min_time_s=0.5, max_time_s=0.6, warmup_s=0.5, energy=False)
    return device.measure([Artifact(model)], options)[0].latency_ms


def in_turns(device: Device, model: Path, pairs: int = PAIRS) -> tuple[float, float, float]:
    """Ours, theirs, in ms, and the median of the pairs' ratios."""
    runs = max(10, int(500 / ours_ms(device, model)))
    found = []
    for number in range(pairs):
        steps: list[Callable[[], float]] = [lambda: ours_ms(device, model), lambda: theirs_ms(model, runs)]
        values = [step() for step in (steps if number % 2 else steps[::-1])]
        found.append(tuple(values if number % 2 else values[::-1]))
        progress(f"{model.stem}: pair {number + 1} of {pairs}")
    ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    return ours, theirs, statistics.median(one / other for one, other in found)


def agreement(device: Device, folder: Path) -> Iterator[str]:
    """Medians against litert-benchmark's, and what its call from Python costs: the difference for a model that does nothing."""
    if find_spec("ai_edge_litert.tools.benchmark_litert_model") is None:
        return
    (folder / "nothing.tflite").write_bytes(dense_tflite(np.ones((1, 1), np.float32)))
    own, other, _ = in_turns(device, folder / "nothing.tflite")
    call_ms = other - own
    yield f"| a model that does nothing | {own * 1e3:.2f} us here, {other * 1e3:.2f} us there: {call_ms * 1e3:.2f} us of Python each call |"
    for name, path in (given_models() | {"mobilenet_v2": mobilenet()}).items():
        own, other, ratio = in_turns(device, path)
        net = ratio * other / (other - call_ms)
        yield f"| {name} | {own:.4f} ms here, {other:.4f} ms there: ratio {ratio:.3f}, without that Python {net:.3f} |"


def repeatability(device: Device, sessions: int, folder: Path) -> Iterator[str]:
    """The ratio of two different models in sessions of their own."""
    given = given_models()
    if not given:
        return
    pair = [Artifact(given[name]) for name in ("pretrainedResnet", "pretrainedResnet_quant")]
    options = BenchOptions(threads=1, min_time_s=0.5, max_time_s=2.0, warmup_s=0.5, energy=False)
    device.close()
    found = []
    for number in range(sessions):
        with open_device("local:") as session:
            found.append(session.compare(pair[0], pair[1:], options).ratios[0])
        progress(f"session {number + 1} of {sessions}")
    values = [item.ratio for item in found]
    middle, spread = statistics.mean(values), statistics.stdev(values) if sessions > 1 else 0.0
    inside = sum(item.low <= statistics.median(values) <= item.high for item in found)
    spread_text = f"standard deviation {spread / middle:.2%}, from {min(values):.4f} to {max(values):.4f}"
    yield f"| ratio of ResNet int8 to float, {sessions} sessions | {middle:.4f}, {spread_text} |"
    yield f"| its interval holds the median of all sessions | in {inside} of {sessions} |"


def overhead(device: Device, folder: Path) -> Iterator[str]:
    """What timing each run adds to it: the runner's median against loops of ten runs that are timed as a whole."""
    path = light_model(folder)
    found = []
    for number in range(PAIRS):
        bare_ms = float(run_python(BARE, str(path))) / 1e6
        found.append((ours_ms(device, path), bare_ms))
        progress(f"overhead: pair {number + 1} of {PAIRS}")
    extra_ns = statistics.median(1e6 * (own - bare) for own, bare in found)
    yield f"| timing each run of {path.stem} adds | {extra_ns:.0f} ns ({statistics.median(own / bare - 1 for own, bare in found):+.2%}) |"


def many_models(device: Device, folder: Path) -> Iterator[str]:
    """A whole session with twenty small models against the time that they ran."""
    generator = np.random.default_rng(0)
    artifacts = []
    for number in range(SMALL_MODELS):
        path = folder / f"small-{number}.tflite"
        path.write_bytes(dense_tflite(generator.standard_normal((64 + number, 256)).astype(np.float32)))
        artifacts.append(Artifact(path))
    device.close()
    for window_s in SMALL_WINDOWS_S:
        begin = time.monotonic()
        waited = {"waiting": 0.0, "held": 0.0}  # for others who hold the device: not this session's time
        with open_device("local:", on_event=lambda event, times=waited: times.update({event["event"]: time.monotonic()})) as session:
            found = session.measure(artifacts, BenchOptions(threads=1, energy=False, min_time_s=window_s, max_time_s=window_s))
        whole = time.monotonic() - begin - (waited["held"] - waited["waiting"] if waited["waiting"] else 0.0)
        ran = sum((item.sampled_s or 0.0) + (item.warmup_s or 0.0) for item in found)
        text = f"{whole:.1f} s with opening and closing the session: {whole / ran:.3f} times warm-up and windows"
        alone = f"{whole / (SMALL_MODELS * window_s):.3f} times the windows alone"
        yield f"| {SMALL_MODELS} small models, windows of {window_s:.0f} s | {text}, {alone} |"


def timed_peak(model: Path) -> int:
    """Peak resident bytes of a Python process that runs a model, as GNU time tells."""
    done = subprocess.run([TIME, "-v", sys.executable, "-c", BARE, str(model)], check=True, capture_output=True, text=True)
    return 1024 * int(re.findall(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)[0])


def memory(device: Device, folder: Path) -> Iterator[str]:
    """Peak memory of a model beyond that of a model of nothing, against GNU time's peaks of two processes that run them."""
    if not Path(TIME).exists():
        return
    sizes = given_models() | {"mobilenet_v2": mobilenet()}
    (folder / "nothing.tflite").write_bytes(dense_tflite(np.ones((1, 1), np.float32)))
    (folder / "wide.tflite").write_bytes(dense_tflite(np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32)))
    nothing = folder / "nothing.tflite"
    least = peak_here(device, nothing)
    for name, path in (sizes | {"dense 4096x4096": folder / "wide.tflite"}).items():
        there = statistics.median(timed_peak(path) - timed_peak(nothing) for _ in range(5)) / 1e6
        here = (peak_here(device, path) - least) / 1e6
        ratio = f": ratio {here / there:.3f}" if there > 1 else ""
        size_mb = path.stat().st_size / 1e6
        yield f"| memory of {name} ({size_mb:.1f} MB), beyond a model of nothing | {here:.2f} MB here, {there:.2f} MB there{ratio} |"


def peak_here(device: Device, model: Path) -> float:
    """Peak memory of a model in bytes, as the runner tells."""
    options = BenchOptions(threads=1, min_time_s=0.1, max_time_s=0.2, warmup_s=0.1, energy=False)
    return statistics.median(device.measure([Artifact(model)], options)[0].peak_bytes for _ in range(5))


def progress(text: str) -> None:
    """One line on standard error."""
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)


def machine() -> str:
    """What was measured on, without its name."""
    with open_device("local:", engine=None) as device:
        info = device.info
    runtime = " ".join(info.runtimes.get("tflite", ("no runtime",)))
    return f"{info.cpu}, {info.cores} cores, {info.os}, Python {platform.python_version()}, {runtime}, 1 thread"


def main() -> None:
    """Measure and print a table, or put it into a file between its markers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aa", type=int, default=10, help="comparisons of a model with itself")
    parser.add_argument("--sessions", type=int, default=5, help="sessions for the repeatability")
    parser.add_argument("--only", default="", help="parts to measure, by commas: " + ", ".join(PARTS))
    parser.add_argument("--write", type=Path, help="a file with the markers <!-- measured --> to put the table between")
    options = parser.parse_args()
    loads, rows = [os.getloadavg()[0]], []
    where = machine()
    with tempfile.TemporaryDirectory() as folder, open_device("local:") as device:
        for name in options.only.split(",") if options.only else PARTS:
            for row in PARTS[name](device, options, Path(folder)):
                rows.append(row)
                loads.append(os.getloadavg()[0])
                print(f"\r{row}", flush=True)
                if options.write:
                    write(options.write, where, loads, rows)
    print(f"\rMachine: {where}. Load averages: {min(loads):.1f} to {max(loads):.1f}.")


def write(path: Path, where: str, loads: list[float], rows: list[str]) -> None:
    """Put the table so far between the file's markers."""
    head = f"Machine: {where}. Load averages while measuring: {min(loads):.1f} to {max(loads):.1f}."
    table = "\n".join([head, "", "| what | found |", "|---|---|", *rows])
    before, _, rest = path.read_text().partition(MARKER)
    path.write_text(f"{before}{MARKER}\n\n{table}\n\n{MARKER}{rest.partition(MARKER)[2]}")


PARTS: dict[str, Callable[[Device, argparse.Namespace, Path], Iterator[str]]] = {
    "agreement": lambda device, options, folder: agreement(device, folder),
    "overhead": lambda device, options, folder: overhead(device, folder),
    "memory": lambda device, options, folder: memory(device, folder),
    "models": lambda device, options, folder: many_models(device, folder),
    "repeatability": lambda device, options, folder: repeatability(device, options.sessions, folder),
    "aa": lambda device, options, folder: a_against_a(device, options.aa, light_model(folder)),
    "stopping": lambda device, options, folder: stopping(device, options.aa, light_model(folder)),
    "aa-large": lambda device, options, folder: a_against_a(device, options.aa // 5, mobilenet()),
}

if __name__ == "__main__":
    main()
