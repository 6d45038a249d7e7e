"""Which TensorFlow Lite a file needs, and that an older one is told before the file is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from packaging.version import Version
from torch import nn

from edgeprune.bench import Artifact, open_device
from edgeprune.errors import NoRuntimeError
from edgeprune.export import export
from edgeprune.testing.models import dense_tflite
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.builder import Builder
from edgeprune.tflite.versions import check_runtime, minimum_runtime


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU())
    samples = [(torch.randn(1, 16),) for _ in range(8)]
    names = ("tflite", "tflite-dynamic", "tflite-int8")
    return export(model, (torch.zeros(1, 16),), names, tmp_path_factory.mktemp("files"), calibration=samples)


def changed(content: bytes, version: int) -> bytes:
    """The dense model with another version of its only operator."""
    model = flatbuffer.read(content)
    model.operatorCodes[0].version = version
    return flatbuffer.pack(model)


@pytest.mark.parametrize(("version", "release"), [(1, "1.5"), (5, "2.0"), (9, "2.3"), (10, "2.11"), (13, "2.15")])
def test_the_version_of_an_operator_says_the_release(dense_model, version, release):
    """FULLY_CONNECTED, as TensorFlow's runtime_version.cc lists it; a version that it does not list is newer than the list."""
    dense_model.write_bytes(changed(dense_model.read_bytes(), version))
    assert minimum_runtime(dense_model) == Version(release)


def test_a_file_needs_what_its_newest_operator_needs(files):
    assert minimum_runtime(files["tflite"]) >= Version("2.0")
    assert minimum_runtime(files["tflite-dynamic"]) == minimum_runtime(files["tflite"])
    assert minimum_runtime(files["tflite-int8"]) == max(Version("2.10"), minimum_runtime(files["tflite"])), "scales by channel"


def test_fully_connected_weights_of_several_scales_behind_a_float_input_need_more(dense_model):
    model = flatbuffer.read(dense_model.read_bytes())
    weight = model.subgraphs[0].tensors[1]
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale = [0.1] * 64
    dense_model.write_bytes(flatbuffer.pack(model))
    assert minimum_runtime(dense_model) == Version("2.15")


def operator(name: str, version: int, kinds: list[int], custom: str = "") -> bytes:
    """A file of one operator, whose last tensor of these types is its output."""
    graph = Builder()
    tensors = [graph.tensor((1, 4)) for _ in kinds]
    for tensor, kind in zip(graph.tensors, kinds, strict=True):
        tensor.type = kind
    graph.op(name, tensors[:-1], tensors[-1])
    graph.codes[0].version = version
    if custom:
        graph.codes[0].customCode = custom
    return graph.build(tensors[:-1], tensors[-1:])


FLOAT, INT8, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT32


@pytest.mark.parametrize(
    ("name", "version", "kinds", "release"),
    [
        ("DIV", 2, [INT8] * 3, "2.15"),
        ("DIV", 2, [FLOAT] * 3, "2.3"),
        ("SQRT", 1, [INT8] * 2, "2.15"),
        ("TRANSPOSE_CONV", 3, [INT32, INT8, FLOAT, FLOAT], "2.15"),
        ("TRANSPOSE_CONV", 3, [INT32, INT8, INT8, INT8], "2.3"),
        ("TRANSPOSE_CONV", 1, [INT32, FLOAT, FLOAT, FLOAT], "1.9"),
        ("GATHER_ND", 4, [FLOAT, INT32, FLOAT], "2.14"),
        ("GATHER_ND", 5, [FLOAT, INT32, FLOAT], "2.15"),
        ("STABLEHLO_SCATTER", 1, [FLOAT, FLOAT], "2.15"),
        ("TILE", 4, [FLOAT, INT32, FLOAT], "2.15"),
    ],
)
def test_what_an_operator_needs_goes_by_its_types_too(name, version, kinds, release, tmp_path):
    """As tflite-runtime 2.14.0 answers, which is asked itself in test_old_runtime.py."""
    (tmp_path / "model.tflite").write_bytes(operator(name, version, kinds))
    assert minimum_runtime(tmp_path / "model.tflite") == Version(release)


@pytest.mark.parametrize(("custom", "said"), [("FlexErf", r"FlexErf \(of TensorFlow\)"), ("MyOwn", "MyOwn")])
@pytest.mark.parametrize("runtime", [("tflite-runtime", "2.14.0"), ("ai-edge-litert", "2.3.0")])
def test_a_custom_operator_is_in_no_release(custom, said, runtime):
    with pytest.raises(NoRuntimeError, match=f"f.tflite has custom operators .{said}., which {runtime[0]} {runtime[1]} does not hold"):
        check_runtime(operator("CUSTOM", 1, [FLOAT, FLOAT], custom), "f.tflite", *runtime)


def test_custom_operators_that_every_release_has():
    check_runtime(operator("CUSTOM", 1, [FLOAT, FLOAT], "TFLite_Detection_PostProcess"), "f.tflite", "tflite-runtime", "2.14.0")


def test_no_model_needs_no_runtime(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK, an archive")
    assert minimum_runtime(tmp_path / "model.pt") == Version("0")


def test_releases_are_compared_with_the_device_s(weights):
    new, old = changed(dense_tflite(weights), 10), dense_tflite(weights)
    check_runtime(new, "new.tflite", "tflite-runtime", "2.14.0")
    check_runtime(new, "new.tflite", "ai-edge-litert", "1.0.1")
    check_runtime(old, "old.tflite", "tflite-runtime", "2.7.0")
    with pytest.raises(
        NoRuntimeError, match=r"new.tflite needs TensorFlow Lite 2.11 or newer \(for FULLY_CONNECTED version 10\)"
    ) as caught:
        check_runtime(new, "new.tflite", "tflite-runtime", "2.10.0")
    assert "tflite-runtime 2.10.0" in caught.value.message
    assert "edgeprune setup" in str(caught.value.remedy)


def test_a_file_that_is_too_new_is_not_sent(files):
    sent = []
    with open_device("local:", on_event=lambda event: sent.append(event["event"])) as device:
        device.info = replace(device.info, runtimes={"tflite": ("tflite-runtime", "2.9.1")})
        with pytest.raises(NoRuntimeError, match=r"needs TensorFlow Lite 2.10 or newer"):
            device.measure([Artifact(files["tflite-int8"])])
        assert "upload" not in sent
        assert device.outputs(Artifact(files["tflite-dynamic"]))[0].shape == (1, 8), "the device remains usable"
        assert "upload" in sent
