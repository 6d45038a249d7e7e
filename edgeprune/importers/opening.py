"""Loading a model file, by its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn


def load(
    path: str | Path,
    input_shapes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model in the ONNX file ``path`` as a module: trainable, with layers (``nn.Conv2d``, ``nn.Linear``, ...) named after the file's
    weights, and of any batch size where the file is.

    ``input_shapes``: sizes of one inference, by name or in order: needed where the file leaves more open than the batch size.
    ``constants``: values by name for inputs that are to be set for good, such as a sampling rate. The module takes the other inputs in the
    file's order. Half precision becomes float32. It agrees with ONNX Runtime on seeded inputs to 1e-4 of every output's magnitude.
    Raises :class:`ModelFileError` that names what is wrong: a damaged file, an operator that is not read, the first node that differs.
    """
    from edgeprune.importers.onnx.opening import open_file

    return open_file(path, input_shapes, constants).module
