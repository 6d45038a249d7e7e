"""TensorFlow Lite models, by ai-edge-litert or tflite-runtime, whichever the device has."""

from __future__ import annotations

import base64
import os
from typing import Any, Dict, List, Optional, Tuple, Union

from ..accelerators import CPU, GPU, NPU, AcceleratorMissing, delegation, digest, is_library, missing, names, split
from ..flatbuffer import constant_bytes
from . import ENGINES, Engine, Model, ModelRefused, Spec, chosen, compiled

_SMALLEST = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAAdAAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAAEAAAABAAAAAUAAAAGAAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAQAAAAwAAAAAAAYACAAEAAYAAAAEAAAAAQAAAAEAAAAAAAAA"
)
"""A model whose output is its input."""


DELEGATES = (
    "/usr/lib/aarch64-linux-gnu/libedgetpu.so.1",
    "/usr/lib/arm-linux-gnueabihf/libedgetpu.so.1",
    "/usr/lib/x86_64-linux-gnu/libedgetpu.so.1",
    "/usr/lib/libvx_delegate.so",
    "/usr/lib/libethosu_delegate.so",
    "/usr/lib/libneutron_delegate.so",
    "/usr/lib/libQnnTFLiteDelegate.so",
    "/usr/lib/libarmnnDelegate.so",
)
"""Where packages of Coral, NXP (i.MX 8 and 9), Qualcomm and Arm put their delegates."""


@ENGINES.register("tflite")
class TfliteEngine(Engine):
    """The interpreter's default delegates (XNNPACK) stay on: that is what an application gets.

    On ``gpu`` and ``npu`` LiteRT's compiled models; a library's path is an external delegate of the interpreter.
    """

    packages = ("ai-edge-litert", "tflite-runtime")
    _compiler: Optional[compiled.Compiler] = None
    _delegate: Optional[Tuple[str, Dict[str, str]]] = None

    def use(self, accelerator: str) -> None:
        base, options = split(accelerator)
        self._compiler = self._delegate = None
        if base in (GPU, NPU):
            try:
                compiler = compiled.Compiler(base)
                compiler.check()
            except AcceleratorMissing as error:
                others = [name for name in names(self.accelerators()) if name != base]
                raise AcceleratorMissing(f"{error}; there are: {', '.join([CPU, *others])}") from error
            self._compiler, self.adapter = compiler, compiler.adapter
        elif is_library(base):
            self._delegate = base, options
            self._external(base, options)
            self.adapter = digest(base) if os.path.isfile(base) else ""
        elif base != CPU:
            raise missing(accelerator, self._interpreter()[0], names(self.accelerators()))
        self.accelerator = accelerator

    def accelerators(self) -> List[Dict[str, str]]:
        found = []
        for name in (GPU, NPU):
            try:
                compiler = compiled.Compiler(name)
                compiler.check()
                found.append({"name": name, "what": compiler.adapter or "by LiteRT's CompiledModel"})
            except AcceleratorMissing:
                continue
        for path in DELEGATES:
            if os.path.exists(path):
                found.append({"name": path, "what": "external delegate, not tried"})
        return found

    def _external(self, path: str, options: Dict[str, str]) -> Any:
        """An external delegate; ``AcceleratorMissing`` where the library is not there or does not start."""
        package = self._interpreter()[0]
        try:
            if package == "ai-edge-litert":
                from ai_edge_litert.interpreter import load_delegate
            else:
                from tflite_runtime.interpreter import load_delegate
            return load_delegate(path, options)
        except (ValueError, OSError) as error:
            said = str(error).strip() or "it gives no reason"
            raise AcceleratorMissing(f"the delegate {path} cannot be loaded: {said}") from error

    def _interpreter(self) -> Tuple[str, Any]:
        try:
            from ai_edge_litert.interpreter import Interpreter

            return "ai-edge-litert", Interpreter
        except ImportError as first:
            try:
                from tflite_runtime.interpreter import Interpreter
            except ImportError as second:
                raise ImportError(f"ai-edge-litert: {first}; tflite-runtime: {second}") from second
            return "tflite-runtime", Interpreter

    def runtime(self) -> Tuple[str, str]:
        from importlib import metadata

        package, interpreter_class = self._interpreter()
        try:
            interpreter_class(model_content=_SMALLEST).allocate_tensors()
        except Exception as error:  # its bindings raise SystemError, or whatever a clash of versions leads to
            raise ImportError(self._unusable(package, error)) from error
        return package, metadata.version(package)

    @staticmethod
    def _unusable(package: str, error: Exception) -> str:
        """Why no interpreter can be built, and what helps where that is known: bindings made for numpy 1 import beside numpy 2."""
        from importlib import metadata

        version = metadata.version(package)
        try:
            numpy = metadata.version("numpy")
        except metadata.PackageNotFoundError:
            return f"{package} {version} needs numpy, which is not installed"
        if package == "tflite-runtime" and int(numpy.split(".")[0]) >= 2:
            return f"tflite-runtime {version} is made for numpy 1, and numpy {numpy} is installed: pip install 'numpy<2', or ai-edge-litert"
        return f"{package} {version} cannot build an interpreter: {type(error).__name__}: {error}"

    def load(self, source: Union[str, bytes], threads: int, specs: Optional[List[Spec]]) -> Model:
        interpreter_class = self._interpreter()[1]
        key = "model_path" if isinstance(source, str) else "model_content"
        more = {} if self._delegate is None else {"experimental_delegates": [self._external(*self._delegate)]}
        try:
            interpreter = interpreter_class(num_threads=threads, **{key: source}, **more)
            if self._compiler is not None:
                return compiled.CompiledTfliteModel(self._compiler, interpreter, compiled.content_of(source), threads, specs)
            taken = None if self._delegate is None else delegated(interpreter._get_ops_details())  # before XNNPACK takes its part
            _resize(interpreter, specs)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelRefused(str(error)) from error
        return TfliteModel(interpreter, source, taken)


def _specs(details: List[Any]) -> List[Spec]:
    import numpy as np

    return [{"shape": [int(n) for n in d["shape"]], "dtype": str(np.dtype(d["dtype"]))} for d in details]


def _resize(interpreter: Any, given: Optional[List[Spec]]) -> None:
    """Give the inputs the shapes that were asked for; ``ModelRefused`` where the file does not leave a dimension open."""
    details = interpreter.get_input_details()
    for detail, spec in zip(details, chosen(_specs(details), given)):
        shape = [int(n) for n in detail["shape"]]
        open_shape = [int(n) for n in detail.get("shape_signature", shape)] or shape
        if spec["shape"] == shape:
            continue
        if len(open_shape) != len(spec["shape"]) or any(free not in (-1, size) for free, size in zip(open_shape, spec["shape"])):
            sizes = ", ".join("any" if free == -1 else str(free) for free in open_shape)
            raise ModelRefused(f"the input {detail['name']} is ({sizes}), and {spec['shape']} was asked for")
        interpreter.resize_tensor_input(detail["index"], spec["shape"], strict=True)


class TfliteModel(Model):
    """One interpreter; dimensions of its inputs that are open and not given are those of the file's default shape."""

    def __init__(self, interpreter: Any, source: Union[str, bytes], taken: Optional[Dict[str, Any]] = None) -> None:
        self._interpreter, self._source, self._taken = interpreter, source, taken
        self._inputs = interpreter.get_input_details()
        self._outputs = interpreter.get_output_details()
        self.specs = _specs(self._inputs)
        self.run = interpreter.invoke

    def set_inputs(self, arrays: List[Any]) -> None:
        self._check(arrays)
        for index, detail in enumerate(self._inputs):
            try:
                self._interpreter.set_tensor(detail["index"], arrays[index])
            except ValueError as error:  # of fewer bits than numpy's types have
                raise ModelRefused(f"the input {detail['name']} cannot be filled: {error}") from error

    def delegation(self) -> Optional[Dict[str, Any]]:
        return self._taken

    def outputs(self) -> List[Any]:
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]

    def sizes(self) -> Dict[str, Optional[int]]:
        """Weights are the file's constants; the Python interpreter does not report its arena."""
        if isinstance(self._source, str):
            with open(self._source, "rb") as file:
                return {"weights_bytes": constant_bytes(file.read()), "arena_bytes": None}
        return {"weights_bytes": constant_bytes(self._source), "arena_bytes": None}


def delegated(operators: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What external delegates took of an interpreter's ``operators``: those on the way from a delegate's inputs to its outputs.

    A delegate's own node follows all operators of the file.
    """
    makers = {index: item for item in operators if not _is_delegate(item) for index in item["outputs"]}
    taken = set()
    for node in operators:
        if _is_delegate(node):
            stop, todo = set(node["inputs"]), list(node["outputs"])
            while todo:
                index = todo.pop()
                maker = makers.get(index)
                if index not in stop and maker is not None and maker["index"] not in taken:
                    taken.add(maker["index"])
                    todo += list(maker["inputs"])
    left = [item["op_name"] for item in operators if not _is_delegate(item) and item["index"] not in taken]
    return delegation(len(taken), left)


def _is_delegate(item: Dict[str, Any]) -> bool:
    return bool(item["op_name"] == "DELEGATE")
