"""ONNX models, by ONNX Runtime: its CPU provider, or another one that is installed with it or beside it."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Dict, List, Optional, Tuple, Union

from ..accelerators import CPU, AcceleratorMissing
from . import ENGINES, Engine, Model, ModelRefused, Operator, Spec, chosen, providers

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}  # the others are named as numpy names them
_PROFILE_RUNS = 20


def _dtype(kind: str) -> str:
    """Of ``tensor(float)``: ``float32``."""
    name = kind[len("tensor(") : -1]
    return _DTYPES.get(name, name)


@ENGINES.register("onnx")
class OnnxEngine(Engine):
    """A session with its default optimisations; ``threads`` within an operator, operators one after another."""

    packages = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu")
    _provider: Optional[providers.Provider] = None

    def use(self, accelerator: str) -> None:
        self._provider = None if accelerator == CPU else providers.find(accelerator)
        self.accelerator, self.adapter = accelerator, self._provider.what if self._provider else ""

    def accelerators(self) -> List[Dict[str, str]]:
        return [{"name": one.name, "what": one.what} for one in providers.available()]

    def runtime(self) -> Tuple[str, str]:
        import onnxruntime

        found = self.installed()
        return found[0] if found else "onnxruntime", str(onnxruntime.__version__)

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        return OnnxModel(source, threads, specs, self._provider)


class OnnxModel(Model):
    """One session; unknown dimensions of its inputs are 1 unless ``specs`` give them."""

    def __init__(
        self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]], provider: Optional[providers.Provider] = None
    ) -> None:
        self._source, self._threads, self._provider = source, threads, provider
        self._session = self._open()
        inputs = self._session.get_inputs()
        self._names = [item.name for item in inputs]
        own = [{"shape": [size if isinstance(size, int) else 1 for size in item.shape], "dtype": _dtype(item.type)} for item in inputs]
        self.specs = chosen(own, specs)
        self._feed: Any = {}
        self._result: List[Any] = []

    def _open(self, prefix: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        if prefix:
            options.enable_profiling, options.profile_file_prefix = True, prefix
        try:
            if self._provider is not None:
                return self._provider.open(self._source, options)
            return onnxruntime.InferenceSession(self._source, options, providers=["CPUExecutionProvider"])
        except AcceleratorMissing:
            raise
        except Exception as error:  # the bindings' errors have no class in common
            raise ModelRefused(str(error)) from error

    def delegation(self) -> Optional[Dict[str, Any]]:
        return None if self._provider is None else self._provider.delegation(self._session)

    def set_inputs(self, arrays: List[Any]) -> None:
        self._check(arrays)
        self._feed = dict(zip(self._names, arrays))

    def run(self) -> None:
        self._result = self._session.run(None, self._feed)

    def outputs(self) -> List[Any]:
        return list(self._result)

    def profile(self) -> Optional[List[Operator]]:
        """By the runtime's profiler, in a second session, since it cannot be switched on in the first."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(os.path.join(folder, "profile"))
            session.run(None, self._feed)
            for _ in range(_PROFILE_RUNS):
                session.run(None, self._feed)
            with open(session.end_profiling(), encoding="utf-8") as file:
                return parse_profile(json.load(file))


def parse_profile(events: List[Any]) -> List[Operator]:
    """Nodes of a profile in the order of their first run; the first run of each, which warms up, does not count."""
    times: dict = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            name = event["name"][: -len("_kernel_time")]
            times.setdefault((name, event["args"].get("op_name", "")), []).append(event["dur"] / 1e3)
    return [
        {"name": name, "type": kind, "ms": sum(values[1:] or values) / len(values[1:] or values)} for (name, kind), values in times.items()
    ]
