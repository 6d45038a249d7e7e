"""A TFLite file tried in a process of its own, before it is loaded in this one: a bad file can abort the process that loads it."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from edgeprune.errors import ExportError
from edgeprune.tflite import schema as flatbuffer

TIME_LIMIT_S: Final = 300.0
_WIDE: Final = 1e30
"""A scale that no kernel can compute with."""

_tried: set[bytes] = set()  # by hash: what runs once runs again


def require_runs(content: bytes, name: str) -> None:
    """Raise :class:`ExportError`, naming the file and the operator where that is known, unless the file loads and runs on zeros here.

    A child process does it: nothing that the interpreter does ends this one.
    """
    digest = hashlib.sha256(content).digest()
    if digest in _tried:
        return
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        child = Path(__file__).with_name("child.py")
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(child), str(path)], capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"{name} did not run within {TIME_LIMIT_S:g} s and was stopped") from None
    if done.returncode == 0:
        _tried.add(digest)
        return
    words = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("INFO:")]
    last, suspect = (words[-1] if words else "it gave no reason"), _suspect(content)
    died = f"ended its process by {signal.Signals(-done.returncode).name}: " if done.returncode < 0 else "does not run: "
    raise ExportError(
        f"{name} {died}{last}{suspect}",
        remedy="Leave that operator float (--keep-float), or take very large constants such as masks of -1e30 out of the model."
        if suspect
        else "Replace that operation in the model; in a quantized file, --keep-float may do.",
    )


def _suspect(content: bytes) -> str:
    """The first operator whose scale cannot be computed with, in words; nothing where there is none."""
    for name, _, operator, graph in flatbuffer.operators(flatbuffer.read(content)):
        for index in (*operator.inputs, *operator.outputs):
            found = graph.tensors[index].quantization if index >= 0 else None
            for scale in () if found is None or found.scale is None else found.scale:
                if not 0 < scale < _WIDE:
                    made = flatbuffer.text(graph.tensors[operator.outputs[0]].name) if len(operator.outputs) else ""
                    return f" (the range of {name} {made} is infinite: its scale is {scale:.3g})"
    return ""
