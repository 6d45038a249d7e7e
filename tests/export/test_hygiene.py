"""What is in a file, and what is not: sizes by part, metadata, unread weights, constants, the same bytes in another process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import ExportError
from edgeprune.export import ExportOptions, export, read_metadata
from edgeprune.export.sizes import sizes
from edgeprune.tflite import schema as flatbuffer

FORMATS = ("tflite", "torchscript", "pt2", "onnx")


class Tidy(nn.Module):
    """Two linear layers of 40 x 30 and 30 x 10; a layer and a batch norm's count that nothing reads; weights made of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unread = nn.Linear(40, 30), nn.Linear(30, 10), nn.Linear(500, 500)
        self.norm = nn.BatchNorm1d(30)
        self.gain, self.shift = nn.Parameter(torch.randn(10, 30)), nn.Parameter(torch.randn(10, 30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(x)))
        return nn.functional.linear(hidden, self.second.weight * self.gain.exp() + self.shift, self.second.bias)


READ = 4 * (40 * 30 + 30 + 30 * 10 + 10)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    options = ExportOptions(metadata={"labels": ["a", "b"], "pruned": {"parameters": 10, "of": 20}})
    return export(Tidy(), (torch.zeros(1, 40),), FORMATS, tmp_path_factory.mktemp("files"), options=options)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_what_its_user_put_in(files, name):
    found = read_metadata(files[name])
    assert found["labels"] == ["a", "b"]
    assert found["pruned"] == {"parameters": 10, "of": 20}
    assert found["format"] == name
    assert found["inputs"] == [{"dtype": "float32", "shape": [1, 40]}]


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_nothing_reads_are_not_in_the_file(files, name):
    assert files[name].stat().st_size < 500 * 500 * 4 / 10
    assert not any("unread" in layer or "num_batches" in layer for layer, _ in sizes(files[name]).layers)


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_by_part(files, name):
    parts = sizes(files[name])
    assert parts.total == files[name].stat().st_size == parts.weights + parts.graph + parts.metadata
    assert READ <= parts.weights <= READ + 4 * (4 * 30 + 2 * 300) + 200, "the norm's and the gain's own weights may be folded or not"
    assert parts.metadata >= len('{"labels":["a","b"]}')
    sizes_of = [size for _, size in parts.layers]
    assert sizes_of == sorted(sizes_of, reverse=True)
    assert parts.to_json()["graph"] == parts.graph
    if name != "torchscript":  # a frozen TorchScript archive has numbers for names
        assert parts.layers[0][0].startswith("first") or parts.layers[1][0].startswith("first"), parts.layers


def test_constants_are_computed_once_and_for_all(files):
    model = flatbuffer.read(files["tflite"].read_bytes())
    assert flatbuffer.constant_operators(model) == []
    assert [kind for kind, *_ in flatbuffer.operators(model)].count("FULLY_CONNECTED") == 2
    assert len(list(flatbuffer.operators(model))) <= 4, "the gain, the shift and the norm are in the weights"


def test_an_operator_of_constants_would_be_found():
    from ai_edge_litert import schema_py_generated as schema

    model = flatbuffer.read(_constant_sum())
    assert flatbuffer.constant_operators(model) == ["ADD total"]
    assert schema.BuiltinOperator.ADD == 0


def _constant_sum() -> bytes:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers = 3, [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.ones(8, np.float32).view(np.uint8)
    graph.tensors = []
    for name, buffer in (("one", 1), ("other", 1), ("total", 0)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [8], schema.TensorType.FLOAT32, buffer
        graph.tensors.append(tensor)
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode, code.version = schema.BuiltinOperator.ADD, 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    graph.inputs, graph.outputs, graph.operators = [], [2], [operator]
    model.operatorCodes, model.subgraphs = [code], [graph]
    return flatbuffer.pack(model)


SCRIPT = """
import hashlib, sys
import torch
sys.path.insert(0, sys.argv[1])
from tests.export.test_hygiene import Tidy  # the name is in the .pt2
from edgeprune.export import ExportOptions, export
torch.manual_seed(0)
options = ExportOptions(metadata={"labels": ["a", "b"], "pruned": {"parameters": 10, "of": 20}})
samples = [(torch.randn(1, 40),) for _ in range(8)]
names = sys.argv[3].split(",")
torch.manual_seed(0)
paths = export(Tidy(), (torch.zeros(1, 40),), names, sys.argv[2], "again", calibration=samples, options=options)
print(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()))
"""


def test_another_process_writes_the_same_bytes(files, tmp_path, monkeypatch):
    """The converter's cache is empty there, and the file has another name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert digests(tmp_path, FORMATS) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()]


@pytest.mark.soak
def test_two_processes_write_the_same_bytes_in_every_other_format(tmp_path, monkeypatch):
    pytest.importorskip("executorch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("tflite-fp16", "tflite-dynamic", "tflite-int8", "executorch")
    assert digests(tmp_path, names) == digests(tmp_path, names)


def digests(folder: Path, names: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[2]), str(folder / "files"), ",".join(names)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split()


def test_what_cannot_be_read(tmp_path):
    for reader in (read_metadata, sizes):
        with pytest.raises(ExportError, match="of an unknown kind"):
            reader(tmp_path / "model.h5")
        with pytest.raises(ExportError, match="cannot be read"):
            reader(tmp_path / "none.tflite")
        (tmp_path / "bad.pt").write_bytes(b"no archive")
        with pytest.raises(ExportError, match="cannot be read"):
            reader(tmp_path / "bad.pt")
