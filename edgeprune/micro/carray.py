"""A TFLite file as a C array, with a header that says all that firmware must know of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from edgeprune.errors import ExportError
from edgeprune.files import write_atomically
from edgeprune.micro.arena import Arena
from edgeprune.micro.operators import require_supported, resolver_methods
from edgeprune.tflite.graph import MicroGraph, Tensor, read_graph

C_TYPES: Final = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int64": "int64_t",
    "float32": "float",
    "bool": "bool",
}
_MADE = "/* Made by edgeprune"
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def write_c_array(content: bytes, folder: Path, name: str, arena: Arena) -> tuple[Path, Path]:
    """Write ``<name>.c`` and ``<name>.h`` into ``folder`` and return their paths.  The same arguments give the same bytes.

    ``content``: a TFLite file, which the array repeats byte for byte. ``name``: a C identifier, the prefix of every symbol. ``arena``: as
    measured. Both files are C11 and C++11. Raises :class:`ExportError`: a name that is not a C identifier, an operator that TFLite
    Micro lacks, a tensor type that C has no name for, a folder that cannot be written.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise ExportError(f"{name!r} is not a C identifier", remedy="Letters, digits and _, and a letter first.")
    graph = read_graph(content, name)
    require_supported(graph, name)
    source, header = folder / f"{name}.c", folder / f"{name}.h"
    texts = {source: _source(content, name), header: _header(content, graph, name, arena)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in texts:  # both are looked at before one is written
            if path.exists() and not path.read_bytes().startswith(_MADE.encode()):
                raise ExportError(f"{path} exists, and edgeprune did not make it", remedy="Give another --name, or another folder.")
        for path, text in texts.items():
            write_atomically(path, text)
    except OSError as error:
        raise ExportError(
            f"the C array cannot be written to {folder}: {error.strerror}", remedy="Name another folder, or allow access to that one."
        ) from error
    return source, header


_HEADER: Final = """\
{made}: do not edit.
 *
 * Operators of the model:
{used}
 */
#ifndef EDGEPRUNE_{upper}_H
#define EDGEPRUNE_{upper}_H

#include <stdbool.h>
#include <stdint.h>

/* The TFLite file. */
#define {upper}_SIZE_BYTES {size}
#define {upper}_SHA256 "{sha256}"

/* The least arena, measured with tflite-micro {arena.version}: reference kernels, 64-bit pointers.
 * {arena.used_bytes} bytes stay in use. Optimised kernels (CMSIS-NN, ESP-NN) ask for scratch of their own. */
#define {upper}_ARENA_BYTES {arena.needed_bytes}

/* Inputs and outputs: value = SCALE * (stored - ZERO_POINT) where there is a SCALE. */
{sides}

/* Operators to make room for: tflite::MicroMutableOpResolver<{upper}_OPERATOR_COUNT>. */
#define {upper}_OPERATOR_COUNT {operators}
{state}
#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}_data[{upper}_SIZE_BYTES];

#ifdef __cplusplus
}} /* extern "C" */

/* Registers the model's operators; whether all had room. */
template <typename Resolver>
inline bool {name}_add_operators(Resolver& resolver) {{
    return {adds};
}}
#endif

#endif /* EDGEPRUNE_{upper}_H */
"""

_STATE: Final = """
/* The model keeps state in resource variables: make room for them, and pass them to the interpreter, which fails without them.
 *   tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, arena_bytes);
 *   tflite::MicroResourceVariables* variables = tflite::MicroResourceVariables::Create(allocator, {upper}_RESOURCE_VARIABLE_COUNT);
 *   tflite::MicroInterpreter interpreter(model, resolver, allocator, variables);
 * interpreter.Reset() sets the state to zero. */
#define {upper}_RESOURCE_VARIABLE_COUNT {count}
"""


def _source(content: bytes, name: str) -> str:
    rows = [content[start : start + 20] for start in range(0, len(content), 20)]
    values = "\n".join("    " + ", ".join(f"0x{byte:02x}" for byte in row) + "," for row in rows)
    return f"""\
{_MADE}: do not edit. */
#include "{name}.h"

#include <stdalign.h>

/* Aligned as the interpreter reads it; const, so that it stays in flash. */
alignas(16) const unsigned char {name}_data[{name.upper()}_SIZE_BYTES] = {{
{values}
}};
"""


def _header(content: bytes, graph: MicroGraph, name: str, arena: Arena) -> str:
    upper, variables = name.upper(), graph.resource_variables
    methods = resolver_methods(graph.operators)
    used = _wrapped(sorted({operator.name for operator in graph.operators}))
    return _HEADER.format(
        made=_MADE,
        used="\n".join(f" *   {line}" for line in used),
        name=name,
        upper=upper,
        size=len(content),
        sha256=sha256(content).hexdigest(),
        arena=arena,
        sides="\n".join([*_side(f"{upper}_INPUT", graph.inputs), "", *_side(f"{upper}_OUTPUT", graph.outputs)]),
        operators=len(methods),
        state=_STATE.format(upper=upper, count=variables) if variables else "",
        adds=" &&\n           ".join(f"resolver.{method}() == 0" for method in methods),
    )


def _side(prefix: str, tensors: Sequence[Tensor]) -> list[str]:
    """Defines for the inputs or the outputs."""
    lines = [f"#define {prefix}_COUNT {len(tensors)}"]
    for index, tensor in enumerate(tensors):
        if tensor.dtype not in C_TYPES:
            raise ExportError(f"{tensor.name!r} is {tensor.dtype}, which C has no type for", remedy="Export the model as int8.")
        here = f"{prefix}_{index}"
        lines += [
            f"#define {here}_TYPE {C_TYPES[tensor.dtype]}",
            f"#define {here}_RANK {len(tensor.shape)}",
            f"#define {here}_SHAPE {{{', '.join(map(str, tensor.shape))}}}",
            f"#define {here}_BYTES {tensor.bytes}",
        ]
        if len(tensor.scales) == 1:
            lines += [f"#define {here}_SCALE {_float(tensor.scales[0])}", f"#define {here}_ZERO_POINT ({tensor.zero_points[0]})"]
    return lines


def _float(value: float) -> str:
    """As a C literal that reads back as the same float32."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def _wrapped(words: Iterable[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
