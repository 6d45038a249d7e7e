"""TFLite by litert-torch: float32, and quantized to float16 weights, dynamic-range int8 and full int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from edgeprune import engines
from edgeprune.cost.single_tflite import single_tflite
from edgeprune.decode import convert
from edgeprune.engines import FORMATS
from edgeprune.errors import ExportError, ParityError
from edgeprune.export import cache, converter, metadata, parity, recurrent, sizes
from edgeprune.export.calibration import LEAST_SAMPLES, evenly
from edgeprune.export.formats import Format, Loaded, register
from edgeprune.export.keep import aliases_of
from edgeprune.export.layers import maker_of, worst_layers
from edgeprune.export.notes import notes
from edgeprune.export.quantize import Kind, quantize
from edgeprune.export.source import Source
from edgeprune.task import device_inputs
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tflite.names import shorten
from edgeprune.tflite.recurrent import Mode
from edgeprune.tflite.transposes import without_moves
from edgeprune.tflite.trial import require_runs

_RECURRENT: Final[dict[Kind, Mode]] = {"fp16": "fp16", "dynamic": "hybrid", "int8": "int8"}

COMPARED = 64
"""Inferences on which a quantized file is compared with the float one, which is compared with the model."""


def float_content(source: Source) -> bytes:
    """The float32 file."""
    return recurrent.placed(_converted(source), "float")


def _converted(source: Source) -> bytes:
    """The float32 file as the converter makes it, with placeholders of recurrent layers, but for shorter names; made once for all that is
    derived from it."""
    if source.converted is None:
        program = source.mobile_program
        key = cache.program_key(program)
        content = cache.read(key)
        if content is None:
            content = converter.CONVERTER.convert(program, source.time_limit_s)
            cache.write(key, content)
        model = flatbuffer.read(content)
        shorten(model)
        source.converted = flatbuffer.pack(model)
    return source.converted


def _write(source: Source) -> bytes:
    content = float_content(source)
    return _dressed(content, engines.TFLITE, source, notes(source.mobile_program.graph, content))


def _quantized(kind: Kind) -> Callable[[Source], bytes]:
    def write(source: Source) -> bytes:
        samples = [_laid_out(source, sample) for sample in source.calibration or ()] if kind == "int8" else []
        converted, keep_float = _converted(source), source.options.keep_float
        aliases = aliases_of(converted, _called(source, converted))
        content = quantize(
            converted,
            kind,
            [tuple(value.numpy() for value in sample) for sample in samples] or None,
            integer_io=source.options.integer_io and kind == "int8",
            keep_float=keep_float,
            aliases=aliases,
        )
        content = recurrent.placed(content, _RECURRENT[kind], recurrent.watched(converted, samples), keep_float, aliases)
        if source.options.integer_io:
            content = without_moves(content)
        said = notes(source.mobile_program.graph, content, len(float_content(source)))
        return _dressed(content, f"tflite-{kind}", source, said)

    return write


def _laid_out(source: Source, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs of the PyTorch model as the file takes them."""
    return tuple(value.movedim(1, -1) if place in source.channels_last else value for place, value in enumerate(inputs))


def _dressed(content: bytes, name: str, source: Source, said: Sequence[str]) -> bytes:
    """The file with its names, and what it says about itself, the notes ``said`` among it."""
    model, options = flatbuffer.read(content), source.options
    graph = model.subgraphs[0]
    for signature in model.signatureDefs or ():
        signature.signatureKey = options.signature or signature.signatureKey
        for given, own, entries, order in (
            (options.inputs, source.input_names, signature.inputs, graph.inputs),
            (options.outputs, source.output_names, signature.outputs, graph.outputs),
        ):
            names = given or (own if len(own) == len(order) else ())
            _rename(name, names, entries, list(order), graph)
    more = {"notes": list(said)} if said else {}
    flatbuffer.set_metadata(model, metadata.NAME, metadata.encoded(name, source, channels_last=list(source.channels_last), **more))
    return flatbuffer.pack(model)


def _called(source: Source, content: bytes) -> list[str]:
    """What the outputs of the file are going to be called, in order."""
    model = flatbuffer.read(content)
    order = [int(tensor) for tensor in model.subgraphs[0].outputs]
    names = list(source.options.outputs or source.output_names)
    if len(names) == len(order):
        return names
    entries = {entry.tensorIndex: flatbuffer.text(entry.name) for signature in model.signatureDefs or () for entry in signature.outputs}
    return [entries.get(tensor, "") for tensor in order]


def _rename(format_name: str, names: Any, entries: Any, order: list[int], graph: Any) -> None:
    if names and len(names) != len(order):
        raise ExportError(f"{format_name}: {len(names)} names ({', '.join(names)}) were given for {len(order)} inputs or outputs")
    for entry in entries:
        entry.name = names[order.index(entry.tensorIndex)] if names else flatbuffer.text(entry.name)
        tensor, taken = graph.tensors[entry.tensorIndex], {flatbuffer.text(other.name) for other in graph.tensors}
        if flatbuffer.text(tensor.name) != entry.name:
            tensor.name = f"{entry.name}:out" if entry.name in taken else entry.name  # an output may be called as an input is


def load(path: Path) -> Loaded:
    """The file, taking and giving what the PyTorch model does: its layout, and real numbers where the file's are int8."""
    content = path.read_bytes()
    require_runs(content, "the exported file")
    try:
        layout = convert(metadata.read_metadata(path), _Layout)
    except ValueError as error:
        raise ExportError(f"what {path} says of its inputs cannot be read: {error}", remedy="Export it again.") from error
    return _loaded(content, layout.channels_last)


@dataclass(frozen=True)
class _Layout:
    """Of a file's metadata: the places of the inputs that it takes as (N, ..., C)."""

    channels_last: tuple[int, ...] = ()


def _loaded(content: bytes, channels_last: Sequence[int]) -> Loaded:
    interpreter = open_tflite(content)
    outputs = interpreter.get_output_details()

    def run(values: tuple[Tensor, ...]) -> list[Tensor]:
        invoke(interpreter, [value.movedim(1, -1) if place in channels_last else value for place, value in enumerate(values)])
        return [value_of(interpreter, detail) for detail in outputs]

    return run


def _verify(kind: Kind) -> Callable[[Source, Loaded], None]:
    def verify(source: Source, loaded: Loaded) -> None:
        samples = evenly(source.calibration or [device_inputs(source.inputs, seed) for seed in range(LEAST_SAMPLES)], COMPARED)
        real = _loaded(float_content(source), source.channels_last)
        parity.compare(engines.TFLITE, source.expected, real(source.probe), TFLITE.tolerance)
        found = parity.fidelity([real(sample) for sample in samples], [loaded(sample) for sample in samples])
        if not found.good:
            raise _changed(kind, source, found, samples)

    return verify


def _changed(kind: Kind, source: Source, found: parity.Fidelity, samples: Sequence[tuple[Tensor, ...]]) -> ParityError:
    """What quantization changed, where, and what to do."""
    if found.lost and found.sqnr_db >= parity.LEAST_SQNR_DB:
        where = f"they come from {maker_of(float_content(source), found.output)}, and share one scale with values that are much larger"
        remedy = (
            "Let the model give them as an output of their own, or bring all of them to one size (boxes to 0..1); "
            "or keep that operator float: --keep-float, without --integer-io."
        )
    else:
        layers = worst_layers(float_content(source), _quantized(kind)(source), [_laid_out(source, sample) for sample in samples])
        where = f"it starts at {'; '.join(map(str, layers))}"
        remedy = "Calibrate on more inputs, keep those layers float (keep_float), or use tflite-dynamic or tflite-fp16."
    return ParityError(f"tflite-{kind}: quantization changed the model: {found}; {where}", remedy=remedy)


# tflite-fp16 is made of a float32 model, too
_KIND: Final[dict[str, Any]] = {
    "external": True,
    "dtypes": (torch.float32,),
    "metadata": metadata.of_tflite,
    "parts": sizes.of_tflite,
}

_QUANTIZED: Final = ("channels_last", "keep_float")

TFLITE = register(Format(FORMATS[engines.TFLITE], _write, load, kernel=single_tflite, options=("channels_last",), **_KIND))
FP16 = register(Format(FORMATS["tflite-fp16"], _quantized("fp16"), load, tolerance=1e-2, options=_QUANTIZED, **_KIND))
DYNAMIC = register(
    Format(
        FORMATS["tflite-dynamic"],
        _quantized("dynamic"),
        load,
        options=_QUANTIZED,
        verify=_verify("dynamic"),
        **_KIND,
    )
)
INT8 = register(
    Format(
        FORMATS[engines.INT8],
        _quantized("int8"),
        load,
        options=(*_QUANTIZED, "integer_io"),
        verify=_verify("int8"),
        calibrated=True,
        **_KIND,
    )
)
