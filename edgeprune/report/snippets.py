"""The exported files of a run, and how programs load them in Python, C++, Kotlin and C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeprune.engines import engine_of
from edgeprune.runs.summary import InputSummary, RunSummary

_NUMPY = {"float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"}


@dataclass(frozen=True)
class Snippet:
    """A piece of a program; ``title``: its language and what it loads."""

    title: str
    code: str


def files(run: RunSummary) -> dict[str, Any] | None:
    """The table of the exported files, and the snippets that load them; None for a run that kept no hashes of its files."""
    if not run.artifacts:
        return None
    body = [[one.file, name, f"{one.bytes:,}", one.sha256[:16]] for name, one in run.artifacts.items()]
    found: list[Snippet] = []
    for one in run.artifacts.values():
        for engine, made in _SNIPPETS.items():
            if engine in (engine_of(one.file), one.file.rpartition(".")[2]):
                found += [Snippet(title.format(file=one.file), _filled(code, one.file, run)) for title, code in made]
    found.append(Snippet("Python, the pruned model for more training", _filled(_CHECKPOINT, "model.safetensors", run)))
    return {"body": body, "snippets": found}


def _filled(code: str, file: str, run: RunSummary) -> str:
    inputs = run.inputs or [InputSummary([1], "float32")]
    first = inputs[0]
    arrays = ", ".join(f"np.zeros({tuple(one.shape)}, {_quoted(one.dtype)})" for one in inputs)
    tensors = ", ".join(f"torch.zeros({tuple(one.shape)}, dtype=torch.{one.dtype})" for one in inputs)
    sizes = {"shape": ", ".join(map(str, first.shape)), "count": str(_count(first.shape)), "bytes": str(_count(first.shape) * 4)}
    for name, text in {"file": file, "arrays": arrays, "tensors": tensors, **sizes}.items():
        code = code.replace(f"@{name}@", text)
    return code.strip()


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _quoted(dtype: str) -> str:
    return f'"{dtype if dtype in _NUMPY else "float32"}"'


_TFLITE_PYTHON = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter  # pip install ai-edge-litert

interpreter = Interpreter("@file@")
interpreter.allocate_tensors()
inputs = [@arrays@]
for place, array in zip(interpreter.get_input_details(), inputs):
    interpreter.set_tensor(place["index"], array.astype(place["dtype"]))
interpreter.invoke()
outputs = [interpreter.get_tensor(place["index"]) for place in interpreter.get_output_details()]
"""

_TFLITE_CPP = """
#include <algorithm>
#include <memory>
#include <vector>

#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"

auto model = tflite::FlatBufferModel::BuildFromFile("@file@");
tflite::ops::builtin::BuiltinOpResolver resolver;
std::unique_ptr<tflite::Interpreter> interpreter;
tflite::InterpreterBuilder(*model, resolver)(&interpreter);
interpreter->AllocateTensors();
float* input = interpreter->typed_input_tensor<float>(0);    // @shape@: @count@ numbers
std::fill(input, input + @count@, 0.0f);
interpreter->Invoke();
const float* output = interpreter->typed_output_tensor<float>(0);
"""

_TFLITE_KOTLIN = """
// build.gradle: implementation("com.google.ai.edge.litert:litert:1.4.0"); the file goes to src/main/assets
import org.tensorflow.lite.Interpreter

val bytes = assets.open("@file@").readBytes()
val model = java.nio.ByteBuffer.allocateDirect(bytes.size).put(bytes).apply { rewind() }
val interpreter = Interpreter(model)
val input = java.nio.ByteBuffer.allocateDirect(@bytes@).order(java.nio.ByteOrder.nativeOrder())  // @shape@
val output = java.nio.ByteBuffer.allocateDirect(interpreter.getOutputTensor(0).numBytes()).order(java.nio.ByteOrder.nativeOrder())
interpreter.run(input, output)
"""

_TFLITE_C = """
#include "tensorflow/lite/c/c_api.h"

TfLiteModel* model = TfLiteModelCreateFromFile("@file@");
TfLiteInterpreter* interpreter = TfLiteInterpreterCreate(model, NULL);
TfLiteInterpreterAllocateTensors(interpreter);
static float input[@count@];  // @shape@
TfLiteTensorCopyFromBuffer(TfLiteInterpreterGetInputTensor(interpreter, 0), input, sizeof input);
TfLiteInterpreterInvoke(interpreter);
const TfLiteTensor* output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
/* on a microcontroller: edgeprune micro @file@ --out firmware/ writes a C array */
"""

_TORCHSCRIPT = """
import torch

model = torch.jit.load("@file@").eval()
with torch.no_grad():
    outputs = model(@tensors@)
"""

_TORCHSCRIPT_CPP = """
#include <torch/script.h>

torch::jit::Module model = torch::jit::load("@file@");
model.eval();
torch::NoGradGuard no_grad;
auto output = model.forward({torch::zeros({@shape@})});
"""

_PT2 = """
import torch

model = torch.export.load("@file@").module()
with torch.no_grad():
    outputs = model(@tensors@)
"""

_ONNX = """
import numpy as np
import onnxruntime  # pip install onnxruntime

session = onnxruntime.InferenceSession("@file@")
inputs = [@arrays@]
outputs = session.run(None, {place.name: array for place, array in zip(session.get_inputs(), inputs)})
"""

_EXECUTORCH = """
import torch
from executorch.runtime import Runtime  # pip install executorch

method = Runtime.get().load_program("@file@").load_method("forward")
outputs = method.execute([@tensors@])
"""

_CHECKPOINT = """
import edgeprune

model = edgeprune.load(Network(), "@file@")  # Network(): the constructor of the dense model
"""

_SNIPPETS = {
    "tflite": [
        ("Python, {file}", _TFLITE_PYTHON),
        ("C++, {file}", _TFLITE_CPP),
        ("Kotlin on Android, {file}", _TFLITE_KOTLIN),
        ("C, {file}", _TFLITE_C),
    ],
    "torchscript": [("Python, {file}", _TORCHSCRIPT), ("C++, {file}", _TORCHSCRIPT_CPP)],
    "pt2": [("Python, {file}", _PT2)],
    "onnx": [("Python, {file}", _ONNX)],
    "executorch": [("Python, {file}", _EXECUTORCH)],
}
"""By the engine that runs a file, or by its suffix."""
