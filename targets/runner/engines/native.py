"""TFLite models by TensorFlow's own ``benchmark_model``, for devices where no Python runtime fits: Android, Termux.

The binary is what the variable ``EDGEPRUNE_BENCHMARK_MODEL`` names (the runner sets it from the request), or ``benchmark_model`` on the
PATH.  Format of what it writes: tensorflow/lite (tools/benchmark, profiling/profile_summarizer.cc, optional_debug_tools.cc).
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import tempfile
from typing import Any, Dict, List, Optional, Tuple, Union

from ..flatbuffer import constant_bytes
from ..watchdog import die_with_parent
from . import ENGINES, Engine, Model, ModelRefused, Operator, Spec

BINARY_VARIABLE = "EDGEPRUNE_BENCHMARK_MODEL"
_COUNT = re.compile(r"(?:^|\s)count=(\d+)\b(.*)", re.MULTILINE)
_TIMINGS = re.compile(r"Inference timings in us: Init: (\S+), First inference: (\S+), Warmup \(avg\): (\S+), Inference \(avg\): (\S+)")
_MEMORY = re.compile(r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): init=(\S+) overall=(\S+)")
_ARENA = re.compile(r"Total memory usage: (\d+) bytes|This memory arena is estimated as.*?taking (\d+) bytes")
_OPERATORS = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_WARMUP_S = 0.1
_LIMIT_S = 280.0


class DamagedOutput(Exception):
    """The binary wrote something that it should not."""


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DamagedOutput(f"benchmark_model printed {text!r} where a time or a size was expected")
    return value


def parse(output: str) -> Dict[str, Any]:
    """Figures in us and MB of a whole output: ``init``, ``first``, ``inference``, ``figure`` (median or mean), ``memory``.

    The statistics are those of the last ``count=`` line: the one before is the warm-up's.  Raises :class:`DamagedOutput`.
    """
    timings, counts, memory = _TIMINGS.search(output), _COUNT.findall(output), _MEMORY.search(output)
    if not timings or not counts:
        raise DamagedOutput(
            "benchmark_model reported no inference timings: " + (output.strip().splitlines() or ["it wrote nothing"])[-1][:200]
        )
    fields = dict(item.split("=", 1) for item in counts[-1][1].split() if "=" in item)
    figure = "median" if "median" in fields else "mean"
    return {
        "init": _number(timings[1]),
        "first": _number(timings[2]),
        "inference": _number(fields.get("median", timings[4])),
        "figure": figure,
        "count": int(counts[-1][0]),
        "memory": _number(memory[2]) if memory else None,
    }


def parse_arena(output: str) -> Optional[int]:
    """Bytes of the arena from an output with ``--print_preinvoke_state``: the total where a release reports it, else the arenas' sum."""
    found = _ARENA.findall(output)
    totals = [int(total) for total, _ in found if total]
    parts = [int(part) for _, part in found if part]
    return totals[-1] if totals else sum(parts) if parts else None


def parse_operators(output: str) -> List[Operator]:
    """Operators in the order of execution from an output with ``--enable_op_profiling``; :class:`DamagedOutput` when there are none."""
    _, found, text = output.partition(_OPERATORS)
    lines = iter(text.partition("Top by Computation Time")[0].splitlines())
    header: List[str] = []
    operators: List[Operator] = []
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"\t|\s{2,}", line.partition("INFO: ")[2] or line) if cell.strip()]
        if "[node type]" in line:
            header = re.findall(r"\[[^\]]+\]", line)
        elif header and len(cells) >= len(header) - 1:
            row = dict(zip(header, [*cells[: len(header) - 1], " ".join(cells[len(header) - 1 :])]))
            operators.append({"name": row.get("[Name]", ""), "type": row["[node type]"], "ms": _number(row.get("[avg ms]", ""))})
    if not operators:
        raise DamagedOutput("benchmark_model reported no operators" if found else "benchmark_model wrote no operator profile")
    return operators


@ENGINES.register("native")
class NativeEngine(Engine):
    """The binary is its own runtime; its version is a hash of the file, for it reports none."""

    packages = ("benchmark_model",)

    def binary(self) -> Optional[str]:
        """Where it is, or None."""
        return shutil.which(os.environ.get(BINARY_VARIABLE) or "benchmark_model")

    def installed(self) -> Optional[Tuple[str, str]]:
        path = self.binary()
        if path is None:
            return None
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        return "benchmark_model", f"sha256-{digest.hexdigest()[:12]}"

    def runtime(self) -> Tuple[str, str]:
        found = self.installed()
        if found is None:
            named = os.environ.get(BINARY_VARIABLE)
            raise ImportError(f"{named} is not a program that can be run" if named else "there is no benchmark_model on the PATH")
        return found

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        self.runtime()
        if specs:
            raise ModelRefused("benchmark_model measures the shapes that the file holds: others cannot be given")
        return NativeModel(str(self.binary()), source, threads)


class NativeModel(Model):
    """Each window is a process of the binary, warmed up by itself; it makes its own random inputs and gives no outputs."""

    own_window = True

    def __init__(self, binary: str, source: Union[str, bytes], threads: int) -> None:
        self._binary, self._threads = binary, threads
        self._file = None
        if isinstance(source, bytes):
            self._file = tempfile.NamedTemporaryFile(suffix=".tflite")  # noqa: SIM115
            self._file.write(source)
            self._file.flush()
            source = self._file.name
        self._path = source
        self.specs = []
        try:
            output = self._start(0.0, 0.0, "--print_preinvoke_state=true")
            found, self._arena = parse(output), parse_arena(output)
        except DamagedOutput as error:
            raise ModelRefused(str(error)) from error
        self.told_ns = (int(found["init"] * 1e3), int(found["first"] * 1e3))
        self._memory_mb = found["memory"]
        self.note = f"each sample is the {found['figure']} of a window, as benchmark_model reports it; its energy is not measured"

    def _start(self, least_s: float, warmup_s: float, *more: str) -> str:
        command = [self._binary, f"--graph={self._path}", f"--num_threads={self._threads}", "--num_runs=1", "--warmup_runs=1"]
        command += [f"--min_secs={least_s:.3f}", f"--warmup_min_secs={warmup_s:.3f}", *more]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_LIMIT_S + least_s,
                preexec_fn=die_with_parent,  # this process is killed when the model takes too long
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DamagedOutput(f"benchmark_model: {error}") from error
        output = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            last = (output.strip().splitlines() or ["and wrote nothing"])[-1]
            raise DamagedOutput(f"benchmark_model ended with exit code {done.returncode}: {last[:200]}")
        return output

    def set_inputs(self, arrays: List[Any]) -> None:
        if arrays:
            raise ModelRefused("benchmark_model makes its own inputs: none can be given")

    def run(self) -> None:
        """Nothing: each window runs the binary."""

    def window(self, time_ns: int) -> List[int]:
        return [int(parse(self._start(time_ns / 1e9, _WARMUP_S))["inference"] * 1e3)]

    def outputs(self) -> List[Any]:
        raise ModelRefused("benchmark_model gives no outputs: use a Python runtime to compare them")

    def memory(self) -> Optional[Tuple[int, int]]:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return (peak if self._memory_mb is None else int(self._memory_mb * (1 << 20)), peak)

    def sizes(self) -> Dict[str, Optional[int]]:
        with open(self._path, "rb") as file:
            return {"weights_bytes": constant_bytes(file.read()), "arena_bytes": self._arena}

    def profile(self) -> Optional[List[Operator]]:
        return parse_operators(self._start(1.0, _WARMUP_S, "--enable_op_profiling=true"))
