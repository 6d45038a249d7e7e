"""TFLite files under the names of MLPerf Tiny's reference models, built in a second: random weights, the same kinds of layers, smaller.

Tests of what does not depend on the weights run on them; published figures are compared where ``EDGEPRUNE_DATA`` holds the real ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from sparse_models import SIZE, Net

from edgeprune.export.quantize import quantize
from edgeprune.tflite import schema as flatbuffer


def _separable() -> Net:
    net = Net().conv(24, 3, 2, pad=1).depthwise().conv(64, sparse=False).depthwise(2).conv(64, sparse=False)
    return net.mean().linear()


def _residual() -> Net:
    net = Net(0.0).conv(16, 3, 2, pad=1).block(16, 1).block(32, 2)
    return net.mean().linear()


def _dense() -> Net:
    return Net().flatten().linear()


def _inverted() -> Net:
    net = Net().conv(24, 3, 2, pad=1).depthwise().conv(96, sparse=False).max_pool()
    return net.mean().linear()


def _signed(content: bytes) -> bytes:
    """With a signature, by which a file is calibrated."""
    model, signature = flatbuffer.read(content), schema.SignatureDefT()
    graph = model.subgraphs[0]
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [], []
    for maps, indices, kind in ((signature.inputs, graph.inputs, "input"), (signature.outputs, graph.outputs, "output")):
        for number, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{kind}_{number}", int(index)
            maps.append(entry)
    model.signatureDefs = [signature]
    return flatbuffer.pack(model)


def make_models(folder: Path) -> Path:
    """Write all of them into ``folder``."""
    folder.mkdir(parents=True)
    made = {"ad01_int8": _dense(), "kws_ref_model": _separable(), "pretrainedResnet_quant": _residual(), "vww_96_int8": _inverted()}
    samples = [(np.random.default_rng(seed).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32),) for seed in range(8)]
    floats = {name: _signed(net.done()) for name, net in made.items()}
    for name, content in floats.items():
        (folder / f"{name}.tflite").write_bytes(quantize(content, "int8", samples, integer_io=True))
    (folder / "kws_ref_model_float32.tflite").write_bytes(floats["kws_ref_model"])
    (folder / "pretrainedResnet.tflite").write_bytes(floats["pretrainedResnet_quant"])
    return folder
