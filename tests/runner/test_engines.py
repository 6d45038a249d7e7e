"""The engine contract against the real runtimes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from edgeprune.targets.runner.engines import ENGINES, ModelRefused, onnx
from edgeprune.targets.runner.flatbuffer import constant_bytes
from edgeprune.targets.runner.registry import Registry

from edgeprune.testing.engines import EngineContract
from edgeprune.tflite.builder import Builder


class _Fixtures(EngineContract):
    @pytest.fixture
    def refused(self) -> type[Exception]:
        return ModelRefused


class TestTflite(_Fixtures):
    @pytest.fixture
    def engine(self):
        return ENGINES.get("tflite")()

    @pytest.fixture
    def model(self, dense_model: Path) -> Path:
        return dense_model

    @pytest.fixture
    def specs(self) -> None:
        return None


def open_ended(kind: int = schema.TensorType.FLOAT32) -> bytes:
    """TANH of (1, any, 8), stored as (1, 16, 8)."""
    graph = Builder()
    x, y = graph.tensor((1, 16, 8)), graph.tensor((1, 16, 8))
    graph.op("TANH", [x], y)
    for tensor in graph.tensors:
        tensor.type, tensor.shapeSignature = kind, np.array([1, -1, 8], np.int32)
    return graph.build([x], [y])


def shape(*size: int, dtype: str = "float32") -> list[dict]:
    return [{"shape": list(size), "dtype": dtype}]


class TestTfliteShapes:
    engine = property(lambda self: ENGINES.get("tflite")())

    def test_a_dimension_that_is_open_is_as_it_is_asked_for(self) -> None:
        model = self.engine.load(open_ended(), 1, shape(1, 500, 8))
        assert model.specs == shape(1, 500, 8)
        model.set_inputs([np.ones((1, 500, 8), np.float32)])
        model.run()
        assert model.outputs()[0].shape == (1, 500, 8)

    def test_the_stored_one_holds_where_none_is_asked_for(self) -> None:
        assert self.engine.load(open_ended(), 1, None).specs == shape(1, 16, 8)

    @pytest.mark.parametrize(
        "asked", [shape(1, 500, 9), shape(2, 16, 8), shape(16, 8), shape(1, 16, 8) * 2, shape(1, 16, 8, dtype="int64")]
    )
    def test_what_does_not_fit_is_refused(self, asked: list[dict]) -> None:
        with pytest.raises(ModelRefused, match=r"\(1, any, 8\)|2 were given|inputs are"):
            self.engine.load(open_ended(), 1, asked)

    def test_a_shape_that_is_fixed_is_refused_unless_it_is_the_same(self, dense_model: Path) -> None:
        assert self.engine.load(str(dense_model), 1, shape(1, 256)).specs == shape(1, 256)
        with pytest.raises(ModelRefused, match=r"is \(1, 256\), and \[4, 256\] was asked for"):
            self.engine.load(str(dense_model), 1, shape(4, 256))


@pytest.mark.parametrize(
    ("numpy", "said"),
    [("2.1.0", "made for numpy 1, and numpy 2.1.0 is installed: pip install 'numpy<2'"), ("1.26.4", "SystemError: failed")],
)
def test_a_runtime_that_imports_and_builds_no_interpreter_is_said_with_the_remedy(monkeypatch, numpy: str, said: str) -> None:
    """As tflite-runtime 2.14 beside numpy 2."""

    class Interpreter:
        def __init__(self, **_: object) -> None:
            raise SystemError("failed")

    engine = ENGINES.get("tflite")()
    monkeypatch.setattr(engine, "_interpreter", lambda: ("tflite-runtime", Interpreter))
    monkeypatch.setattr("importlib.metadata.version", {"numpy": numpy, "tflite-runtime": "2.14.0"}.__getitem__)
    with pytest.raises(ImportError, match=re.escape(said)):
        engine.runtime()


class TestTorchScript(_Fixtures):
    @pytest.fixture
    def engine(self):
        return ENGINES.get("torchscript")()

    @pytest.fixture
    def model(self, tmp_path: Path, weights: np.ndarray) -> Path:
        import torch

        layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(weights)
        torch.jit.trace(layer.eval(), torch.zeros(1, weights.shape[1])).save(str(tmp_path / "dense.pt"))
        return tmp_path / "dense.pt"

    @pytest.fixture
    def specs(self, weights: np.ndarray) -> list[dict]:
        return [{"shape": [1, weights.shape[1]], "dtype": "float32"}]

    def test_needs_the_inputs_shapes(self, engine, model: Path) -> None:
        with pytest.raises(ModelRefused, match="shapes"):
            engine.load(str(model), 1, None)

    def test_reads_the_inputs_shapes_of_a_file_that_holds_them(
        self, engine, tmp_path: Path, specs: list[dict], weights: np.ndarray
    ) -> None:
        import torch

        module = torch.jit.trace(torch.nn.Identity(), torch.zeros(1, weights.shape[1]))
        torch.jit.save(module, str(tmp_path / "own.pt"), _extra_files={"edgeprune.inputs.json": json.dumps(specs)})
        assert engine.load(str(tmp_path / "own.pt"), 1, None).specs == specs


def _field(number: int, value: bytes | int) -> bytes:
    """One field of a protocol buffer: a number, or bytes with their length."""

    def varint(rest: int) -> bytes:
        return bytes([rest]) if rest < 128 else bytes([rest & 127 | 128]) + varint(rest >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _onnx(weights: np.ndarray) -> bytes:
    """``onnx.proto``: x (n, in) times the transposed weights, with an input whose first dimension has only a name."""

    def value(name: bytes, size: int) -> bytes:
        shape = _field(1, _field(2, b"batch")) + _field(1, _field(1, size))
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))

    wide, narrow = weights.shape
    tensor = _field(1, narrow) + _field(1, wide) + _field(2, 1) + _field(8, b"w") + _field(9, np.ascontiguousarray(weights.T).tobytes())
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(3, b"multiply") + _field(4, b"MatMul")
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor) + _field(11, value(b"x", narrow)) + _field(12, value(b"y", wide))
    return _field(1, 8) + _field(8, _field(2, 13)) + _field(7, graph)


class TestOnnx(_Fixtures):
    @pytest.fixture
    def engine(self):
        pytest.importorskip("onnxruntime")
        return ENGINES.get("onnx")()

    @pytest.fixture
    def model(self, tmp_path: Path, weights: np.ndarray) -> Path:
        (tmp_path / "dense.onnx").write_bytes(_onnx(weights))
        return tmp_path / "dense.onnx"

    @pytest.fixture
    def specs(self) -> None:
        return None

    def test_reports_the_time_of_each_operator(self, engine, model: Path, weights: np.ndarray) -> None:
        loaded = engine.load(str(model), 1, None)
        loaded.set_inputs([np.ones((1, weights.shape[1]), np.float32)])
        operators = loaded.profile()
        assert [item["type"] for item in operators] == ["MatMul"]
        assert operators[0]["ms"] > 0


def test_a_profile_of_onnx_runtime_leaves_the_first_run_out() -> None:
    def event(name: str, kind: str, us: int) -> dict:
        return {"cat": "Node", "name": name, "dur": us, "ts": 1, "args": {"op_name": kind, "provider": "CPUExecutionProvider"}}

    events = [{"cat": "Session", "name": "model_loading_uri", "dur": 500, "args": {}}, event("conv_fence_before", "Conv", 1)]
    events += [event("conv_kernel_time", "Conv", us) for us in (900, 100, 300)] + [event("add_kernel_time", "Add", 40)]
    assert onnx.parse_profile(events) == [{"name": "conv", "type": "Conv", "ms": 0.2}, {"name": "add", "type": "Add", "ms": 0.04}]


class TestExecutorch(_Fixtures):
    @pytest.fixture
    def engine(self):
        pytest.importorskip("executorch")
        return ENGINES.get("executorch")()

    @pytest.fixture
    def model(self, tmp_path: Path, weights: np.ndarray) -> Path:
        import torch

        exir = pytest.importorskip("executorch.exir")
        layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False).eval()
        layer.weight.data = torch.from_numpy(weights)
        program = exir.to_edge(torch.export.export(layer, (torch.zeros(1, weights.shape[1]),))).to_executorch()
        (tmp_path / "dense.pte").write_bytes(program.buffer)
        return tmp_path / "dense.pte"

    @pytest.fixture
    def specs(self) -> None:
        return None


def test_sizes_of_weights(dense_model: Path, weights: np.ndarray, tmp_path: Path) -> None:
    loaded = ENGINES.get("tflite")().load(str(dense_model), 1, None)
    assert loaded.sizes()["weights_bytes"] == weights.nbytes
    assert constant_bytes(dense_model.read_bytes()) == weights.nbytes
    assert constant_bytes(b"no model at all") is None
    assert constant_bytes(b"\xff\xff\xff\xffTFL3") is None
    import torch

    torch.jit.trace(torch.nn.Linear(8, 4).eval(), torch.zeros(1, 8)).save(str(tmp_path / "small.pt"))
    small = ENGINES.get("torchscript")().load(str(tmp_path / "small.pt"), 1, [{"shape": [1, 8], "dtype": "float32"}])
    assert small.sizes()["weights_bytes"] == (8 * 4 + 4) * 4
    small.set_inputs([np.zeros((1, 8), np.float32)])
    small.run()
    operators = small.profile()
    assert all(item["ms"] >= 0 for item in operators)
    assert any("mm" in item["name"] or "linear" in item["name"] for item in operators)


def test_sizes_of_weights_of_models_this_project_did_not_make(models_folder: Path) -> None:
    for path in models_folder.glob("*.tflite"):
        constant = constant_bytes(path.read_bytes())
        assert constant is not None
        assert 0.3 * path.stat().st_size < constant < path.stat().st_size


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown engine 'npu'; known: executorch, native, onnx, tflite, torchscript"):
        ENGINES.get("npu")


def test_a_name_taken_twice_is_an_error() -> None:
    registry: Registry[object] = Registry("thing", "json")
    registry.register("one")(object)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        registry.register("one")(object)
