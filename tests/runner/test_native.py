"""The engine that runs TensorFlow's ``benchmark_model``: what the binary writes, recorded, and a stand-in that writes it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from edgeprune.targets.runner.engines import ENGINES, ModelRefused, native

from edgeprune.bench import Artifact, BenchOptions, bench, open_device
from edgeprune.errors import ModelCrashedError, NoRuntimeError, RunnerError

# TensorFlow 2.8 on an emulated RISC-V
OLD = """STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the \
model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t            0.000\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

============================== Top by Computation Time ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t            0.000\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t            0.024\t    3.730\t    3.640\t 16.512%\t 16.512%\t     0.000\t        1\t[conv1/Relu6;conv1/BN]:0
\t       DEPTHWISE_CONV_2D\t            3.758\t    0.176\t    0.176\t  0.798%\t 17.310%\t     0.000\t        1\t[dw 1/Relu6]:1

============================== Top by Computation Time ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t            0.024\t    3.730\t    3.640\t 16.512%\t 16.512%\t     0.000\t        1\t[conv1/Relu6;conv1/BN]:0
"""
# a release of 2024, which prefixes its log and tells percentiles
NEW = """INFO: STARTING!
INFO: Graph: [model.tflite]
INFO: Initialized session in 92.318ms.
INFO: count=4 first=187533 curr=200386 min=199462 max=235158 avg=211669 std=16613 p5=199462 median=200386 p95=235158
INFO: count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 p5=140545 median=141253 p95=187533
INFO: Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 211669, Inference (avg): 145528
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
INFO: Operator-wise Profiling Info for Regular Benchmark Runs:
INFO: ============================== Run Order ==============================
INFO: \t            [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
INFO: \t    TfLiteNnapiDelegate\t    3.826\t    4.011\t 62.037%\t 62.037%\t     0.000\t        1\t[]:64
INFO: \tRESIZE_NEAREST_NEIGHBOR\t    0.052\t    0.058\t  0.899%\t 62.936%\t     0.000\t        1\t[]:38
INFO: \x20
INFO: ============================== Top by Computation Time ==============================
"""


def test_what_an_old_release_writes() -> None:
    found = native.parse(OLD)
    assert found == {"init": 17187, "first": 3512391, "inference": 2.95034e6, "figure": "mean", "count": 50, "memory": 46.0859}
    assert native.parse_operators(OLD) == [
        {"name": "[conv1/Relu6;conv1/BN]:0", "type": "CONV_2D", "ms": 3.64},
        {"name": "[dw 1/Relu6]:1", "type": "DEPTHWISE_CONV_2D", "ms": 0.176},
    ]


STATE = """Interpreter has 1 subgraphs.
kTfLiteArenaRw Info: 
Tensor 30 has the max size 17424 bytes (0.017 MB).
This memory arena is estimated as[0x44dc50, 0x447b00), taking 24912 bytes (0.024 MB).
kTfLiteArenaRwPersistent Info: not holding any allocation.
--------------Subgraph-0 dump has completed--------------
"""
TOTAL = "--------------Memory Arena Status Start--------------\nTotal memory usage: 25168 bytes (0.024 MB)\n"


def test_the_arena() -> None:
    assert native.parse_arena(STATE) == 24912
    assert native.parse_arena(STATE + TOTAL) == 25168
    assert native.parse_arena(NEW) is None


def test_what_a_new_release_writes() -> None:
    found = native.parse(NEW)
    assert (found["inference"], found["figure"], found["count"], found["memory"]) == (141253, "median", 25, 73.4102)
    operators = native.parse_operators(NEW)
    assert [(item["type"], item["ms"]) for item in operators] == [("TfLiteNnapiDelegate", 4.011), ("RESIZE_NEAREST_NEIGHBOR", 0.058)]


@pytest.mark.parametrize(
    "output",
    [
        "",
        "STARTING!\nERROR: Failed to load model\n",
        OLD.replace("Inference (avg): 2.95034e+06", "Inference (avg): fast"),
        NEW.replace("median=141253", "median=-1"),
        NEW.replace("median=141253", "median="),
        NEW[: NEW.index("INFO: Inference timings")],
        NEW.replace("overall=73.4102", "overall=nan"),
    ],
)
def test_a_damaged_output_raises(output: str) -> None:
    with pytest.raises(native.DamagedOutput, match="benchmark_model"):
        native.parse(output)


@pytest.mark.parametrize(
    "output", ["", OLD[: OLD.index("Operator-wise")], OLD[: OLD.rindex("CONV_2D\t            0.024")].split("Regular")[0]]
)
def test_a_missing_profile_raises(output: str) -> None:
    with pytest.raises(native.DamagedOutput, match="operator"):
        native.parse_operators(output)
    with pytest.raises(native.DamagedOutput, match="printed"):
        native.parse_operators(NEW.replace("4.011", "?"))


STAND_IN = """#!{python}
import json, sys, time
open({calls!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
options = dict(item.lstrip("-").split("=", 1) for item in sys.argv[1:])
if open(options["graph"], "rb").read(8)[4:] != b"TFL3":
    print("ERROR: Failed to load model " + options["graph"])
    sys.exit(1)
time.sleep(0.15)  # at least what it reports of one inference
print({output!r})
"""


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program that takes the options of ``benchmark_model`` and writes a recorded output."""
    path = tmp_path / "bin/benchmark_model"
    path.parent.mkdir()
    path.write_text(STAND_IN.format(python=sys.executable, calls=str(tmp_path / "calls"), output=STATE + NEW))
    path.chmod(0o755)
    return path


def test_the_engine_runs_the_binary(binary: Path, dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(binary.parent))
    engine = ENGINES.get("native")()
    package, version = engine.runtime()
    assert (package, version) == engine.installed()
    assert version.startswith("sha256-")
    for source in (str(dense_model), dense_model.read_bytes()):
        model = engine.load(source, 3, None)
        assert model.told_ns == (92_318_000, 187_533_000)
        assert model.window(250_000_000) == [141_253_000]
        assert model.memory()[0] == int(73.4102 * 2**20)
        assert model.sizes() == {"weights_bytes": 64 * 256 * 4, "arena_bytes": 24912}
        assert model.profile()[1]["type"] == "RESIZE_NEAREST_NEIGHBOR"
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert all("--num_threads=3" in call for call in calls)
    assert "--min_secs=0.250" in calls[1]
    assert "--enable_op_profiling=true" in calls[2]
    with pytest.raises(ModelRefused, match="no outputs"):
        model.outputs()
    with pytest.raises(ModelRefused, match="own inputs"):
        model.set_inputs([np.zeros(1)])
    (tmp_path / "bad.tflite").write_bytes(b"\0" * 100)
    with pytest.raises(ModelRefused, match=r"exit code 1: ERROR: Failed to load model .*bad\.tflite"):
        engine.load(str(tmp_path / "bad.tflite"), 1, None)


def test_without_the_binary_there_is_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ENGINES.get("native")().installed() is None
    with pytest.raises(ImportError, match="no benchmark_model on the PATH"):
        ENGINES.get("native")().runtime()
    monkeypatch.setenv(native.BINARY_VARIABLE, "/no/such/binary")
    with pytest.raises(ImportError, match="/no/such/binary is not a program"):
        ENGINES.get("native")().runtime()


def test_a_device_measures_with_the_binary(
    binary: Path, dense_model: Path, client_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    options = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, warmup_s=0.05, profile=True)
    with open_device("local:", engine="native") as device:
        (found,) = device.measure([Artifact(dense_model, engine_name="native")], options)
        with pytest.raises(RunnerError, match="no outputs"):
            device.outputs(Artifact(dense_model, engine_name="native"))
    assert (found.latency_ms, found.load_ms, found.first_ms) == (141.253, 92.318, 187.533)
    assert (found.runtime, found.peak_bytes) == ("benchmark_model", int(73.4102 * 2**20))
    assert [item["type"] for item in found.operators or ()] == ["TfLiteNnapiDelegate", "RESIZE_NEAREST_NEIGHBOR"]
    assert "each sample is the median of a window, as benchmark_model reports it; its energy is not measured" in found.warnings
    assert found.energy_mj is None
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(NoRuntimeError, match="native"):
        open_device("local:", engine="native")


def test_a_binary_that_is_not_on_the_path(binary: Path, dense_model: Path, client_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    options = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.2, warmup_s=0.05, native=str(binary))
    report = bench(Artifact(dense_model, engine_name="native"), options=options)
    assert report.measurements[0].latency_ms == 141.253
    assert report.device.runtimes["native"][0] == "benchmark_model"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_binary_that_takes_too_long_is_ended(binary: Path, dense_model: Path, client_home: Path, tmp_path: Path) -> None:
    binary.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/pid'\nexec sleep 60\n")
    options = BenchOptions(threads=1, step_timeout_s=4.0, native=str(binary))
    with open_device("local:", engine="native", native=str(binary)) as device:
        with pytest.raises(ModelCrashedError, match="did not answer"):
            device.measure([Artifact(dense_model, engine_name="native")], options)
        pid = int((tmp_path / "pid").read_text())
        end = time.monotonic() + 10
        while _runs(pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert not _runs(pid)
