"""A float TFLite file quantized by ai-edge-quantizer: float16 weights, int8 weights, or int8 throughout.

Weights are int8 by channel, symmetric; activations int8 by tensor, asymmetric (the specification of 8-bit quantization that TFLite's
kernels follow: https://ai.google.dev/edge/litert/models/quantization_spec).  What a quantized kernel does not exist for stays float, and so
does what eight bits would ruin (:mod:`edgeprune.export.keep`).
Tables of embeddings, and the weights of fully-connected layers whose inputs stay float, have one scale: runtimes up to 2.14 take no more,
and do not say so.  Depthwise convolutions whose inputs stay float stay float themselves: no fast kernel quantizes as it runs (a MobileNetV2
of theirs took four times as long), and their weights are few; so do transposed convolutions, which such runtimes have no kernel for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import ExportError, suggest
from edgeprune.export.calibration import checked
from edgeprune.export.ends import COPY, copied_inputs, require_types, state_pairs, with_own_outputs, without_copies
from edgeprune.export.keep import Aliases, float_for_fp16, float_for_int8, named
from edgeprune.export.pixels import pixel_tensors, with_pixel_inputs
from edgeprune.export.recurrent import placed
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.interpreter import TensorDetail
from edgeprune.tflite.quiet import quiet_stderr
from edgeprune.tflite.ranges import Ranges

Kind = Literal["fp16", "dynamic", "int8"]
Array = np.ndarray[Any, Any]

SHOWN: Final = 8
"""Names of outputs that a message lists."""

KINDS: Final[tuple[Kind, ...]] = ("fp16", "dynamic", "int8")


def quantize(
    float_tflite: bytes,
    kind: Kind,
    calibration: Sequence[tuple[Array, ...]] | None,
    *,
    integer_io: bool = False,
    keep_float: Sequence[str] = (),
    aliases: Aliases | None = None,
) -> bytes:
    """The model of ``float_tflite`` with float16 weights ("fp16"), int8 weights whose kernels quantize activations as they run
    ("dynamic"), or int8 weights and activations ("int8").

    ``calibration``: for "int8", the inputs of at least ``calibration.LEAST_SAMPLES`` inferences, each a tuple of arrays in the model's
    shapes and order; the ranges of activations are the least and the largest values seen.  Others take None.  ``integer_io``: for
    "int8", inputs and outputs are int8 too, with the scales that the file holds; else they stay as they were.  ``keep_float``: regular
    expressions that are searched in the names of operators' output tensors and in their ``aliases``; what fits stays float.
    Placeholders of recurrent layers (:mod:`edgeprune.export.recurrent`) stay as they are.  The same arguments give the same bytes.

    Raises :class:`ExportError`: an unknown kind, too little calibration, arrays that do not fit the inputs or hold NaN or infinity.
    """
    if kind not in KINDS:
        raise ExportError(f"unknown kind of quantization {kind!r}", remedy=suggest(kind, KINDS, "kinds"))
    if integer_io and kind != "int8":
        raise ExportError(f"{kind} quantization keeps its inputs and outputs float", remedy='Integer inputs and outputs need "int8".')
    content = with_own_outputs(float_tflite, every=integer_io)  # what makes one may stay float, and the copy does not
    states = state_pairs(content) if integer_io else []
    kept = _named_by_user(content, keep_float, aliases or {}, copies=not integer_io)
    ranges = None
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "int8":
            ranges, seen = _ranges(content, integer_io, calibration, states)
            kept += map(_exactly, (*_inside(content), *float_for_int8(content, seen, integer_io=integer_io)))
            kept += [] if integer_io else map(_exactly, copied_inputs(content))
        elif kind == "fp16":
            kept += map(_exactly, float_for_fp16(content))
        made = _quantized(content, kind, _recipe(kind, integer_io, kept), ranges)
    made = flatbuffer.pack(flatbuffer.read(with_pixel_inputs(without_copies(made, states))))
    require_types(f"tflite-{kind}", float_tflite, made, integer_io=integer_io)
    return made


def _quantized(content: bytes, kind: Kind, recipe: Any, ranges: Any) -> bytes:
    """What the quantizer makes of a file.  Raises :class:`ExportError` with what it says."""
    if kind == "int8" and not ranges:  # recurrent layers alone, of which the placeholders stay as they are
        return content
    from ai_edge_quantizer import quantizer

    try:
        work = quantizer.Quantizer(bytearray(content))
        work.load_quantization_recipe(recipe)
        return bytes(work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)
    except Exception as error:
        raise ExportError(f"tflite-{kind}: the quantizer refused the model: {error}", remedy="The format tflite keeps it float.") from error


def _exactly(name: str) -> str:
    """A pattern for the operator whose first output has this name: the quantizer looks for it in the names of all its outputs."""
    return f"^{re.escape(name)};"


def _inside(content: bytes) -> list[str]:
    """Names of the outputs of operators inside other operators (the maximum of a 3-D pooling, the body of a loop): calibration does not
    see their values."""
    model = flatbuffer.read(content)
    outer = model.subgraphs[0]
    found = flatbuffer.operators(model)
    return [flatbuffer.text(graph.tensors[int(operator.outputs[0])].name) for _, _, operator, graph in found if graph is not outer]


def _widen(ranges: Any, content: bytes, states: Sequence[tuple[int, int]]) -> None:
    """Let the range of each state's input hold that of the output which is fed to it, in place."""
    graph = flatbuffer.read(content).subgraphs[0]
    for before, after in states:
        into, out = (flatbuffer.text(graph.tensors[int(index)].name) for index in (graph.inputs[before], graph.outputs[after]))
        if into in ranges and out in ranges:
            for key, most in (("min", np.minimum), ("max", np.maximum)):
                ranges[into][key] = most(ranges[into][key], ranges[out][key])


def _named_by_user(content: bytes, keep_float: Sequence[str], aliases: Aliases, *, copies: bool) -> list[str]:
    """Patterns for the operators whose outputs the user's fit, with those of their copies where ``copies``.  Raises :class:`ExportError`
    when one names nothing: it would change nothing, and not say so."""
    if not keep_float:
        return []
    model, found = flatbuffer.read(content), dict[str, None]()
    made = [
        flatbuffer.text(graph.tensors[place].name) for _, _, operator, graph in flatbuffer.operators(model) for place in operator.outputs
    ]
    own = [(name, name.partition(COPY)[0]) for name in made if copies or COPY not in name]
    for pattern in keep_float:
        fits = [name for name, tensor in own if named(pattern, tensor, aliases)]
        if not fits:
            called = [name for tensor in made for name in aliases.get(tensor, ())]
            some = ", ".join(list(dict.fromkeys([*called, *made]))[:SHOWN])
            raise ExportError(f"keep_float {pattern!r} matches the output of no operator", remedy=f"There are {some}.")
        found |= dict.fromkeys(f"(^|;){re.escape(name)};" for name in fits)
    return list(found)


def _recipe(kind: Kind, integer_io: bool, keep_float: Sequence[str]) -> Any:
    from ai_edge_quantizer import recipe, recipe_manager

    manager = recipe_manager.RecipeManager()
    if kind == "fp16":
        manager.add_weight_only_config(".*", "*", 16, algorithm_key=recipe.AlgorithmName.FLOAT_CASTING)
    elif kind == "dynamic":
        manager.add_dynamic_config(".*", "*", 8)
        manager.add_dynamic_config(".*", "FULLY_CONNECTED", 8, granularity="TENSORWISE")
        manager.add_dynamic_config(".*", "EMBEDDING_LOOKUP", 8, granularity="TENSORWISE")
        for operation in ("DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE"):
            manager.add_quantization_config(".*", operation, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    else:
        manager.add_static_config(".*", "*", 8, 8)
        manager.add_dynamic_config(".*", "EMBEDDING_LOOKUP", 8, granularity="TENSORWISE")  # it has no other int8 kernel
        if not integer_io:
            for place in ("INPUT", "OUTPUT"):
                manager.add_quantization_config(".*", place, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    for name in keep_float:
        manager.add_quantization_config(name, "*", algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def _ranges(
    content: bytes, integer_io: bool, calibration: Sequence[tuple[Array, ...]] | None, states: Sequence[tuple[int, int]]
) -> tuple[Any, Ranges]:
    """Least and largest value of every activation over all samples: as the quantizer counts them, where a state's input has the range of
    the output fed to it and pixels that of their type; and of all tensors there are, as they were."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager, seen = recipe_manager.RecipeManager(), Ranges()
    manager.load_quantization_recipe(_recipe("int8", integer_io, ()))
    watched = calibrator.Calibrator(placed(content, "float"), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    key, names, details = _signature(watched)
    examples = [torch.from_numpy(np.zeros(detail["shape"], detail["dtype"])) for detail in details]
    for sample in checked(calibration or (), examples):
        watched.calibrate({key: [dict(zip(names, map(Tensor.numpy, sample), strict=True))]}, manager)
        seen.see(watched._tensor_content_map)
    ranges = watched.get_model_qsvs()
    _widen(ranges, content, states)
    for name in pixel_tensors(content):
        ranges[name] = {key: np.full_like(ranges[name][key], end) for key, end in (("min", 0.0), ("max", 255.0))}
    return ranges, seen


def _signature(watched: Any) -> tuple[str, list[str], list[TensorDetail]]:
    """Name of the first signature, the names of its inputs and their details, in the order of the model's inputs."""
    interpreter = watched._tfl_interpreter
    signatures = interpreter._get_full_signature_list()
    if not signatures:
        raise ExportError("the TFLite model has no signature, which calibration needs", remedy="Export it with edgeprune.")
    key, signature = next(iter(signatures.items()))
    name_of = {index: name for name, index in signature["inputs"].items()}
    details = interpreter.get_input_details()
    return key, [name_of[detail["index"]] for detail in details], details
