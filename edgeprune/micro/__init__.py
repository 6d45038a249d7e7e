"""Microcontrollers: what TFLite Micro runs, how much memory a model takes there, and the model as a C array."""

from __future__ import annotations

from edgeprune.micro.arena import Arena, measure_arena, run_micro, tflite_micro_version
from edgeprune.micro.carray import write_c_array
from edgeprune.micro.flash import Flash, estimate_flash
from edgeprune.micro.latency import is_int8, macs_of, predict_ms
from edgeprune.micro.operators import Finding, require_supported, unsupported
from edgeprune.tflite.graph import MicroGraph, read_graph

__all__ = [
    "Arena",
    "Finding",
    "Flash",
    "MicroGraph",
    "estimate_flash",
    "is_int8",
    "macs_of",
    "measure_arena",
    "predict_ms",
    "read_graph",
    "require_supported",
    "run_micro",
    "tflite_micro_version",
    "unsupported",
    "write_c_array",
]
