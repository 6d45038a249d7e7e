"""What the user of a TFLite file should know about it, stored in the file and shown when it is written."""

from __future__ import annotations

from torch.fx import Graph

from edgeprune.export.passes.recurrent import unrolled
from edgeprune.tflite import schema as flatbuffer


def notes(graph: Graph, content: bytes, float_bytes: int | None = None) -> list[str]:
    """Notes about the file ``content`` of an exported program's ``graph``: recurrent layers that were written out step by step, and a
    quantized file that is larger than the float one, of ``float_bytes``."""
    found = []
    count = sum(1 for _ in flatbuffer.operators(flatbuffer.read(content)))
    for kind, number in sorted(unrolled(graph).items()):
        if kind.endswith("Cell"):
            found.append(
                f"{number} steps of nn.{kind} were unrolled, and the file has {count} operators; nn.{kind.removesuffix('Cell')} over the "
                "whole sequence takes as many for any number of steps"
            )
        else:
            found.append(
                f"nn.{kind} was unrolled step by step, and the file has {count} operators; it is kept whole where its weights are float32 "
                "and stored, not computed (torch.nn.utils.parametrize.remove_parametrizations)"
            )
    if float_bytes is not None and len(content) > float_bytes:
        found.append(
            f"it is larger than the float32 file ({float_bytes:,} bytes): it has few weights for its number of operators; use tflite"
        )
    return found
