"""TFLite models on a GPU or NPU, by LiteRT's ``CompiledModel`` (ai-edge-litert 2): WebGPU over Vulkan, Metal or Direct3D, or OpenCL.

What LiteRT could not put on the accelerator runs on the processor; it tells so in its log only (ml_drift's delegate).
"""

from __future__ import annotations

import base64
import os
import re
from typing import Any, Dict, List, Optional, Tuple, Union

from ..accelerators import NPU, AcceleratorMissing, captured, delegation, line_with
from . import Model, ModelRefused, Spec, chosen

_ADDITION = base64.b64decode(
    "CAAAAFRGTDO+////FAAAABwAAAAsAAAAqAEAAAMAAAABAAAABAAAAGD+//8NAAAAc2luZ2xlIGtlcm5lbAAAAAEAAAAUAAAAAAAOABgAFAAQAAwACAAEAA4A"
    "AAAUAAAAHAAAAFwAAABgAAAAaAAAAAQAAABtYWluAAAAAAEAAAAUAAAAAAAOABQAAAAQAAwACwAEAA4AAAAQAAAAAAAACwwAAAAQAAAA4P7//wEAAAACAAAA"
    "AgAAAAMAAAAEAAAAAQAAAAIAAAACAAAAAwAAAAQAAAAFAAAAwAAAAIgAAABcAAAAMAAAAAQAAABg////CAAAAAwAAAACAAAAdDQAAAQAAAABAAAAAQAAAAEA"
    "AAABAAAAiP///wgAAAAMAAAAAgAAAHQzAAAEAAAAAQAAAAEAAAABAAAAAQAAALD///8IAAAADAAAAAIAAAB0MgAABAAAAAEAAAABAAAAAQAAAAEAAADY////"
    "CAAAAAwAAAACAAAAdDEAAAQAAAABAAAAAQAAAAEAAAABAAAADAAMAAgAAAAAAAQADAAAAAgAAAAMAAAAAgAAAHQwAAAEAAAAAQAAAAEAAAABAAAAAQAAAAEA"
    "AAAIAAAABAAEAAQAAAA="
)
"""A model of one float32 addition."""

ADAPTER = "Selected adapter: "
_LEFT = re.compile(r"^(\w+): ", re.MULTILINE)
_UNSUPPORTED = "Following operations are not supported by GPU delegate:"
_COUNTS = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")


def parse_counts(log: str) -> Optional[Tuple[int, int, List[str]]]:
    """Operators that the GPU and the processor run, and the kinds that the GPU refused; None where the log does not tell."""
    found = _COUNTS.search(log)
    if not found:
        return None
    refused = log[: found.start()].rpartition(_UNSUPPORTED)[2]
    return int(found[1]), int(found[2]), _LEFT.findall(refused)


class Compiler:
    """One environment of LiteRT for all models of a process: the driver starts once."""

    def __init__(self, accelerator: str) -> None:
        try:
            from ai_edge_litert.compiled_model import CompiledModel
            from ai_edge_litert.environment import Environment
            from ai_edge_litert.hardware_accelerator import HardwareAccelerator
            from ai_edge_litert.options import CpuOptions, Options
        except ImportError as error:
            raise AcceleratorMissing(f"{accelerator} needs ai-edge-litert 2 or newer: {error}") from error
        kind = HardwareAccelerator.NPU if accelerator == NPU else HardwareAccelerator.GPU
        self.accelerator, self.adapter = accelerator, ""
        self._load = CompiledModel.from_buffer
        self._options = lambda threads, fallback: Options(
            hardware_accelerators=kind | HardwareAccelerator.CPU if fallback else kind,
            cpu_options=CpuOptions(num_threads=threads),
        )
        with captured():
            self._environment = Environment.create()

    def compile(self, content: bytes, threads: int, fallback: bool = True) -> Tuple[Any, str]:
        """A compiled model, and what LiteRT wrote to the log meanwhile; ``ModelRefused``."""
        with captured() as log:
            try:
                options = self._options(threads, fallback)
                model = self._load(content, environment=self._environment, options=options)
            except (RuntimeError, ValueError) as error:
                raise ModelRefused(str(error).strip().splitlines()[-1].lstrip("└ ")) from error
        self.adapter = self.adapter or (line_with(log.text, ADAPTER) or "").partition(", adapterType")[0]
        return model, log.text

    def check(self) -> None:
        """Raise ``AcceleratorMissing`` unless it really takes a model."""
        try:
            self.compile(_ADDITION, 1, fallback=False)
        except ModelRefused as error:
            hint = "" if self.accelerator == NPU else f" ({_driver()})"
            raise AcceleratorMissing(f"LiteRT finds no {self.accelerator} that works here{hint}") from error


def _driver() -> str:
    """Which Vulkan drivers the loader is told of."""
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    return f"VK_DRIVER_FILES={named}" if named else "it needs libvulkan1 and the GPU's Vulkan driver; VK_DRIVER_FILES can name one"


class CompiledTfliteModel(Model):
    """One compiled model.  A run ends when its outputs are back in the processor's memory; inputs are put there before."""

    def __init__(self, compiler: Compiler, interpreter: Any, content: bytes, threads: int, given: Optional[List[Spec]]) -> None:
        self._model, log = compiler.compile(content, threads)
        self._content = content
        key = next(iter(self._model.get_signature_list()))
        self._delegation = self._delegated(log, interpreter, compiler.accelerator)
        order = [detail["index"] for detail in interpreter.get_input_details()]
        details = [self._model.get_input_tensor_details(key)[name] for name in self._names(key, "inputs")]
        self._places = [[detail["index"] for detail in details].index(index) for index in order]
        own = [{"shape": list(details[place]["shape"]), "dtype": details[place]["dtype"]} for place in self._places]
        self.specs = chosen(own, given)
        for place, spec, before in zip(self._places, self.specs, own):
            if spec["shape"] != before["shape"]:
                self._resize(place, spec)
        self._inputs = self._model.create_input_buffers(0)
        self._outputs = self._model.create_output_buffers(0)
        self._results: List[Any] = []
        self._readers = self._output_readers(key, [detail["index"] for detail in interpreter.get_output_details()])

    def _names(self, key: str, side: str) -> List[str]:
        return list(self._model.get_signature_list()[key][side])

    def _resize(self, place: int, spec: Spec) -> None:
        try:
            self._model.resize_input_tensor(place, spec["shape"])
        except (RuntimeError, ValueError) as error:
            raise ModelRefused(f"input {place} cannot be {spec['shape']}: {error}") from error

    def _output_readers(self, key: str, order: List[int]) -> List[Tuple[Any, List[int], Any]]:
        """Buffer, shape and type of each output, in the order of the file."""
        import numpy as np

        details = [self._model.get_output_tensor_details(key)[name] for name in self._names(key, "outputs")]
        places = [[detail["index"] for detail in details].index(index) for index in order]
        return [(self._outputs[place], list(details[place]["shape"]), np.dtype(details[place]["dtype"])) for place in places]

    def _delegated(self, log: str, interpreter: Any, accelerator: str) -> Dict[str, Any]:
        kinds = [item["op_name"] for item in interpreter._get_ops_details()]
        if self._model.is_fully_accelerated():
            return delegation(len(kinds), [])
        counts = parse_counts(log)
        if counts is None:  # LiteRT says no more than that it is not the whole model
            return delegation(0, kinds)
        taken, left, refused = counts
        return delegation(taken, (refused + ["others"] * left)[:left])

    def delegation(self) -> Optional[Dict[str, Any]]:
        return self._delegation

    def set_inputs(self, arrays: List[Any]) -> None:
        self._check(arrays)
        for place, array in zip(self._places, arrays):
            try:
                self._inputs[place].write(array)
            except (RuntimeError, ValueError) as error:
                raise ModelRefused(f"input {place} cannot be filled: {error}") from error

    def run(self) -> None:
        self._model.run_by_index(0, self._inputs, self._outputs)
        self._results = [buffer.read(_count(shape), dtype) for buffer, shape, dtype in self._readers]

    def outputs(self) -> List[Any]:
        return [values.reshape(shape) for values, (_, shape, _) in zip(self._results, self._readers)]

    def sizes(self) -> Dict[str, Optional[int]]:
        from ..flatbuffer import constant_bytes

        return {"weights_bytes": constant_bytes(self._content), "arena_bytes": None}


def _count(shape: List[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def content_of(source: Union[str, bytes]) -> bytes:
    """A file's bytes."""
    if isinstance(source, bytes):
        return source
    with open(source, "rb") as file:
        return file.read()
