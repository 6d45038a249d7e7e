"""Files that cannot be imported: one message each, which names the thing and the remedy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from importers.onnx_files import file_of, one
from onnx import helper

import edgeprune.importers
from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx.opening import open_file
from edgeprune.importers.onnx.operators import elementwise


def refused(path, **settings) -> str:
    with pytest.raises(ModelFileError) as caught:
        edgeprune.importers.load(path, **settings)
    assert caught.value.remedy
    return str(caught.value)


def test_an_unknown_operator_is_named_with_its_node_domain_and_operator_set(tmp_path):
    text = refused(one(tmp_path / "m.onnx", "NonMaxSuppression", [1, 4, 4], {"scores": np.zeros((1, 1, 4), np.float32)}))
    assert "operator NonMaxSuppression of domain ai.onnx, operator set 17 (node the_NonMaxSuppression)" in text


def test_a_custom_domain_is_named(tmp_path):
    node = helper.make_node("Gelu", ["x"], ["y"], name="act", domain="com.microsoft")
    text = refused(file_of(tmp_path / "m.onnx", [node], {"x": ["N", 4]}, domains=["com.microsoft"]))
    assert "operator Gelu of domain com.microsoft" in text
    assert "a custom domain" in text


def test_damaged_missing_and_other_files(tmp_path):
    path = one(tmp_path / "m.onnx", "Conv", ["N", 3, 8, 8], {"w": np.ones((4, 3, 3, 3), np.float32)})
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:200])
    assert "cannot be read as an ONNX file" in refused(cut)
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    assert "text.onnx" in refused(text)
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert "holds no graph" in refused(empty)
    assert "does not exist" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused(tmp_path)


def test_missing_external_data_is_said(tmp_path):
    path = one(tmp_path / "m.onnx", "Conv", ["N", 3, 8, 8], {"w": np.ones((64, 3, 3, 3), np.float32)})
    onnx.save(onnx.load(path), tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    assert open_file(tmp_path / "big.onnx").difference <= 1e-4
    (tmp_path / "big.data").unlink()
    assert "big.data" in refused(tmp_path / "big.onnx")


def test_a_file_without_inputs(tmp_path):
    node = helper.make_node("Constant", [], ["y"], value_float=1.0)
    assert "has no inputs" in refused(file_of(tmp_path / "m.onnx", [node], {}))


def test_an_unknown_number_of_dimensions(tmp_path):
    assert "how many dimensions" in refused(file_of(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": None}))


def test_open_sizes_are_asked_for_as_the_option_takes_them(tmp_path):
    path = one(tmp_path / "m.onnx", "Relu", ["N", 3, "height", "width"])
    text = refused(path)
    assert "x (N, 3, height, width)" in text
    assert "--input 1x3x224x224" in text
    assert "cannot have the sizes 1x4x8x8" in refused(path, input_shapes=[(1, 4, 8, 8)])
    assert "no input" in refused(path, input_shapes={"z": (1, 3, 8, 8)})
    assert open_file(path, [(1, 3, 8, 8)]).difference == 0


def test_a_graph_that_onnx_runtime_refuses(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = tmp_path / "m.onnx"
    file_of(path, nodes, {"x": ["N", 4]}, constants={"w": np.ones((4, 2), np.float32)})
    model = onnx.load(path)
    model.graph.node[0].input[1] = "nothing"
    onnx.save(model, path)
    assert "ONNX Runtime refuses the file" in refused(path)


def test_quantized_files_are_refused_with_what_to_give(tmp_path):
    scale = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    text = refused(one(tmp_path / "m.onnx", "QuantizeLinear", ["N", 4], scale))
    assert "is quantized" in text
    assert "float file" in text


def test_loops_are_refused_by_name(tmp_path):
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("c", 9, []),
            helper.make_tensor_value_info("v", 1, [1, 4]),
        ],
        [info("c2", 9, []), info("v2", 1, [1, 4])],
    )
    node = helper.make_node("Loop", ["n", "go", "x"], ["y"], name="the_loop", body=body)
    text = refused(file_of(tmp_path / "m.onnx", [node], {"x": [1, 4]}, constants={"n": np.array(3), "go": np.array(True)}))
    assert "Loop the_loop is a loop" in text


def test_sizes_that_depend_on_the_data(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"], name="where")]
    assert "NonZero where" in refused(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4]}))


def test_an_operator_set_that_is_not_read(tmp_path):
    assert "operator set 8" in refused(one(tmp_path / "m.onnx", "Relu", ["N", 4], opset=8))


def test_the_first_node_that_differs_is_named(tmp_path, monkeypatch):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Neg", ["a"], ["b"], name="wrong"),
        helper.make_node("Exp", ["b"], ["y"], name="last"),
    ]
    path = file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4]})
    assert open_file(path).difference <= 1e-4
    monkeypatch.setitem(elementwise.UNARY, "Neg", torch.abs)
    text = refused(path)
    assert "does not compute what ONNX Runtime computes" in text
    assert "the first node that differs is Neg wrong" in text


def test_half_precision_becomes_float32(tmp_path):
    node = helper.make_node("Gemm", ["x", "fc.weight"], ["y"])
    weights = {"fc.weight": np.ones((4, 3), np.float16)}
    found = open_file(file_of(tmp_path / "m.onnx", [node], {"x": ["N", 4]}, constants=weights, types={"x": "float16"}))
    assert {value.dtype for value in found.module.state_dict().values()} == {torch.float32}
    assert "float32" in found.notes[0]


def test_an_input_may_be_set_for_good(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    path = file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4], "scale": []})
    module = edgeprune.importers.load(path, constants={"scale": 3.0})
    assert module(torch.ones(2, 4)).unique().tolist() == [3.0]
    assert "which is no input" in refused(path, constants={"other": 1.0})
