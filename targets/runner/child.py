"""The child process: loads models and runs them as its parent says, one JSON object a line each way."""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any, Dict, List

from . import inputs, memory
from .accelerators import CPU, AcceleratorMissing
from .engines import ENGINES, Engine, Model, ModelRefused
from .protocol import Output
from .watchdog import die_with_parent

_COMMANDS = ("ready", "runtime", "accelerators", "load", "run", "memory", "sizes", "profile", "outputs", "drop")
_MOST_SAMPLES = 1000
_PAGE = 4096  # a small model may find room in what its process held before


def window(model: Model, time_ns: int, min_runs: int, cap_ns: int, skip: int) -> List[int]:
    """Run again and again; the ns of each run, in order.

    Ends when both ``time_ns`` and ``min_runs`` are reached, or at ``cap_ns``.  ``skip`` runs before that are not counted.
    """
    run, clock = model.run, time.perf_counter_ns
    for _ in range(skip):
        run()
    samples: List[int] = []
    gc.disable()
    start = clock()
    while True:
        begin = clock()
        run()
        end = clock()
        samples.append(end - begin)
        if (end - start >= time_ns and len(samples) >= min_runs) or end - start >= cap_ns:
            break
    gc.enable()
    return samples


class Server:
    """Holds the loaded models and answers commands."""

    def __init__(self) -> None:
        self._models: Dict[str, Model] = {}
        self._engines: Dict[Any, Engine] = {}
        self._archives: Dict[str, Any] = {}
        self._baseline = self._private = 0
        self._path = ""

    def _engine(self, name: str, accelerator: str = CPU) -> Engine:
        key = name, accelerator
        if key not in self._engines:
            engine = ENGINES.get(name)()
            if accelerator != CPU:
                engine.use(accelerator)
            self._engines[key] = engine
        return self._engines[key]

    def ready(self) -> Dict[str, Any]:
        """Nothing: that it answers is the answer."""
        return {}

    def runtime(self, engine: str, accelerator: str = CPU) -> Dict[str, Any]:
        """Import the runtime; its name and version, and which device an accelerator is."""
        package, version = ENGINES.get(engine)().runtime()
        found = {"runtime": package, "version": version}
        return found if accelerator == CPU else dict(found, adapter=self._engine(engine, accelerator).adapter)

    def accelerators(self, engine: str) -> Dict[str, Any]:
        """Those that the runtime can use."""
        return {"accelerators": self._engine(engine).accelerators()}

    def load(
        self,
        key: str,
        engine: str,
        path: str,
        threads: int,
        seed: int,
        member: str = "",
        specs: Any = None,
        arrays: Any = None,
        cold: bool = False,
        accelerator: str = CPU,
    ) -> Dict[str, Any]:
        """Load a model, from the storage where ``cold``, set its inputs and run it once.  Times in ns, memory in bytes."""
        start = time.perf_counter_ns()
        answer = self.runtime(engine, accelerator)
        imported = time.perf_counter_ns() - start
        source: Any = path
        if member:
            import zipfile

            if path not in self._archives:
                self._archives[path] = zipfile.ZipFile(path)
            source = self._archives[path].read(member)
        if not self._models:
            inputs.seeded([{"shape": [1], "dtype": "float32"}], seed)  # imports what making inputs takes: not the model's
            memory.reset_peak()
            self._baseline, self._private, self._path = memory.peak_bytes(), memory.private_bytes(), path
        if cold:
            memory.forget_file(path)
        begin = time.perf_counter_ns()
        model = self._engine(engine, accelerator).load(source, threads, specs)
        loaded = time.perf_counter_ns()
        model.set_inputs([inputs.decode(text) for text in arrays] if arrays else inputs.seeded(model.specs, seed))
        ready = time.perf_counter_ns()
        model.run()
        first = time.perf_counter_ns()
        self._models[key] = model
        load_ns, first_ns = model.told_ns or (loaded - begin, first - ready)
        more = {"specs": model.specs, "note": model.note, "own_window": model.own_window}
        if accelerator != CPU:
            more["delegation"] = model.delegation()
        return dict(answer, import_ns=imported, load_ns=load_ns, first_ns=first_ns, **more)

    def run(self, key: str, time_ns: int, min_runs: int = 1, cap_ns: int = 10**12, skip: int = 0) -> Dict[str, Any]:
        """Samples of one window, in ns, and how many runs there were: of very many, every so manieth is kept."""
        model = self._models[key]
        samples = model.window(time_ns) if model.own_window else window(model, time_ns, min_runs, cap_ns, skip)
        return {"samples": samples[:: -(-len(samples) // _MOST_SAMPLES)], "runs": len(samples)}

    def memory(self, key: str) -> Dict[str, Any]:
        """The process's peak, and what of it is the first model's, in bytes.

        The model's are its private memory (weights as the runtime repacks them, activations) at the peak and what is resident of
        its file. Pages of
        the runtime's libraries do not count: they are the same for every model, and how many are resident is chance.
        """
        sizes = self._models[key].memory()
        if sizes is not None:
            return {"peak_bytes": sizes[1], "model_bytes": sizes[0]}
        peak, private = memory.peak_bytes(), memory.private_peak_bytes()
        if not private:  # an old kernel: all that came since
            return {"peak_bytes": peak, "model_bytes": max(_PAGE, peak - self._baseline)}
        return {"peak_bytes": peak, "model_bytes": max(_PAGE, max(0, private - self._private) + memory.mapped_bytes(self._path))}

    def sizes(self, key: str) -> Dict[str, Any]:
        """What the runtime or the file report of a model's memory, in bytes; null where they do not."""
        return self._models[key].sizes()

    def profile(self, key: str) -> Dict[str, Any]:
        """Time of each operator, from the runtime's own profiler; null where it has none."""
        return {"operators": self._models[key].profile()}

    def outputs(self, key: str) -> Dict[str, Any]:
        """The tensors that the last run made."""
        return {"outputs": [inputs.encode(array) for array in self._models[key].outputs()]}

    def drop(self, key: str) -> Dict[str, Any]:
        """Unload a model."""
        self._models.pop(key, None)
        return {}


def serve() -> int:
    """Answer commands on standard input until it ends."""
    die_with_parent()
    output = Output()
    server = Server()
    commands = {name: getattr(server, name) for name in _COMMANDS}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            output.write(commands[request.pop("command")](**request))
        except ModelRefused as error:
            output.write({"error": {"kind": "refused", "message": str(error)}})
        except AcceleratorMissing as error:
            output.write({"error": {"kind": "accelerator", "message": str(error)}})
        except ImportError as error:
            output.write({"error": {"kind": "runtime", "message": str(error)}})
        except MemoryError as error:
            output.write({"error": {"kind": "memory", "message": f"out of memory: {error}"}})
        except Exception as error:
            output.write({"error": {"kind": "engine", "message": f"{type(error).__name__}: {error}"}})
    return 0
