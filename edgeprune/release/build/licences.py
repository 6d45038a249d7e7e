"""Licences of what a release needs on the device. It ships none of it: the runtimes are installed there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edgeprune.release.bundle.manifest import Runtime

# SPDX identifier and home of every runtime, from its own package metadata on PyPI
RUNTIMES: Final = {
    "ai-edge-litert": ("Apache-2.0", "https://github.com/google-ai-edge/LiteRT"),
    "tflite-runtime": ("Apache-2.0", "https://github.com/tensorflow/tensorflow"),
    "tflite-micro": ("Apache-2.0", "https://github.com/tensorflow/tflite-micro"),
    "torch": ("BSD-3-Clause", "https://github.com/pytorch/pytorch"),
    "executorch": ("BSD-3-Clause", "https://github.com/pytorch/executorch"),
    "onnxruntime": ("MIT", "https://github.com/microsoft/onnxruntime"),
}


def third_party(runtimes: Iterable[Runtime]) -> bytes:
    """``licences/third-party.md``: the licence of each runtime that a variant may run on."""
    lines = [
        "# Third-party software",
        "",
        "Needed on the device, not part of this release:",
        "",
        "| package | licence | home |",
        "|---|---|---|",
    ]
    for name in sorted({runtime.package for runtime in runtimes}):
        licence, home = RUNTIMES.get(name, ("unknown", ""))
        lines.append(f"| {name} | {licence} | {home} |")
    return ("\n".join(lines) + "\n").encode()
