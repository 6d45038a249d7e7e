"""How the files of an export are laid out and labelled."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeprune.errors import ExportError
from edgeprune.export.pixels import Normalisation


@dataclass(frozen=True)
class ExportOptions:
    """How TFLite files are laid out, and what every file says about itself.

    ``channels_last``: floating-point inputs of three dimensions or more are taken as (N, ..., C) instead of (N, C, ...).
    ``integer_io``: inputs and outputs of ``tflite-int8`` are int8 too, and needless transposes are left out.
    ``keep_float``: regular expressions of names of operators' outputs that quantization leaves float; the name of an output, as the file
    has it, stands for the operator that computes it and those that only move it.
    ``signature``, ``inputs``, ``outputs``: names; unless given, those of ``forward``'s parameters and of the keys of its output.
    ``pixels``: how the model's images were normalised; then the file takes them as pixels of 8 bits (uint8), and normalises them itself.
    ``metadata``: what is stored in the file for its user, as JSON: labels, preprocessing, how it was pruned.
    """

    channels_last: bool = False
    integer_io: bool = False
    keep_float: Sequence[str] = ()
    signature: str | None = None
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pixels: Normalisation | None = None

    def __post_init__(self) -> None:
        for what, names in (("input", self.inputs), ("output", self.outputs)):
            if len(set(names)) != len(names):
                raise ExportError(f"the {what} names {', '.join(names)} are not all different", remedy="Give every one a name of its own.")
        for pattern in self.keep_float:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ExportError(
                    f"keep_float {pattern!r} is not a regular expression: {error}",
                    remedy="Write one such as head/.* or conv2d_3; a bracket itself is written \\(.",
                ) from error
        try:
            json.dumps(dict(self.metadata), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ExportError(f"the metadata cannot be written as JSON: {error}", remedy="Give texts, numbers, lists and dicts.") from error
