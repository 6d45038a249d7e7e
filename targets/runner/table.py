"""Many small models in one child: several shuffled rounds of short windows, so that no model is tied to one moment of the machine."""

from __future__ import annotations

import os
import random
import zipfile
from typing import Any, Dict, List, Optional, Set

from . import affinity, stats
from .measure import Emit, Options
from .parent import Child
from .probes import ram
from .protocol import RunnerError

_PACKED = 3  # a loaded model takes its file, the runtime's repacked weights, and activations


class _Table:
    """The models of one archive, and the child that runs them."""

    def __init__(self, archive: str, engine: str, options: Options) -> None:
        self.archive, self.engine, self.options = archive, engine, options
        with zipfile.ZipFile(archive) as file:
            self.sizes = {entry.filename: entry.file_size for entry in file.infolist()}
        self.windows: Dict[str, List[float]] = {name: [] for name in self.sizes}
        self.errors: Dict[str, Any] = {}
        self.runtime: Dict[str, str] = {}
        self._child: Optional[Child] = None
        self._loaded: Set[str] = set()
        self._room = ram.probe()["available_bytes"] // 2 if os.path.exists("/proc/meminfo") else 1 << 28

    def visit(self, name: str) -> None:
        """One window of one model; what goes wrong is kept as that model's error."""
        try:
            self._window(name)
        except RunnerError as error:
            self.errors[name] = error.to_dict()
            if error.kind in ("crash", "memory", "timeout"):
                self.close()

    def _window(self, name: str) -> None:
        options = self.options
        if self._child is None:
            self._child, self._loaded = Child(options.step_timeout_s, affinity.choose(options.affinity)), set()
        if name not in self._loaded:
            load = {
                "key": name,
                "engine": self.engine,
                "path": self.archive,
                "member": name,
                "threads": options.threads,
                "seed": options.seed,
                "accelerator": options.accelerator,
            }
            answer = self._child.call("load", **load)
            self.runtime = {"runtime": answer["runtime"], "runtime_version": answer["version"]}
            self._loaded.add(name)
        time_ns = int(options.window_ms * 1e6)
        self._child.call("run", key=name, time_ns=time_ns // 5, cap_ns=time_ns)
        run = self._child.call("run", key=name, time_ns=time_ns, min_runs=options.window_runs, cap_ns=int(options.window_cap_ms * 1e6))
        self.windows[name].append(stats.median(run["samples"]))
        if _PACKED * sum(self.sizes[loaded] for loaded in self._loaded) > self._room:
            self._child.call("drop", key=name)
            self._loaded.discard(name)

    def repeat(self, names: List[str]) -> None:
        """Forget the last window of each, and measure it again."""
        for name in names:
            if name not in self.errors:
                self.windows[name].pop()
                self.visit(name)

    def close(self) -> None:
        """End the child; the next visit starts a new one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def results(self) -> Dict[str, Any]:
        """By model: median and least of the window medians in ns and their spread, or its error."""
        found: Dict[str, Any] = {}
        for name, windows in self.windows.items():
            if name in self.errors:
                found[name] = {"error": self.errors[name]}
            else:
                middle = stats.median(windows)
                found[name] = {"median_ns": middle, "min_ns": min(windows), "spread": (max(windows) - min(windows)) / middle}
        return found


def table(archive: str, engine: str, rounds: int, options: Options, emit: Emit) -> Dict[str, Any]:
    """Measure every model of a zip archive.  A model that kills the child has that as its result; the others continue in a new one.

    Windows in which the device was throttled are measured again.
    """
    work = _Table(archive, engine, options)
    names = sorted(work.sizes)
    done, total = 0, rounds * len(names)
    guard = options.guard(emit)
    recent: List[str] = []
    try:
        for number in range(rounds):
            random.Random(options.seed * 1000 + number).shuffle(names)
            for name in names:
                if name not in work.errors:
                    work.visit(name)
                    recent.append(name)
                done += 1
                if guard.due() or done == total:
                    while not guard.passes(len(recent)):
                        work.repeat(recent)
                    recent = []
                if done % 10 == 0 or done == total:
                    emit("table", done=done, total=total)
    finally:
        work.close()
    return dict(work.runtime, kernels=work.results(), throttled=guard.causes, discarded=guard.discarded)
