"""Every operator's import computes what ONNX Runtime computes: ``open_file`` refuses it otherwise, for two batch sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importers.onnx_files import file_of, one
from onnx import helper
from torch import nn

from edgeprune.importers.onnx.opening import open_file
from edgeprune.importers.onnx.registry import find, names, operator

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RANDOM = np.random.default_rng(0)


def rand(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def checked(path, **settings):
    """The import, which agrees, and takes any batch size where the file does."""
    found = open_file(path, **settings)
    assert found.difference <= 1e-4
    return found


ONE = {
    "Relu": {},
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "Exp": {},
    "Neg": {},
    "Abs": {},
    "Floor": {},
    "Sin": {},
    "Softplus": {},
    "Softsign": {},
    "HardSwish": {},
    "LeakyRelu": {"alpha": 0.2},
    "Elu": {"alpha": 0.7},
    "Selu": {},
    "Celu": {"alpha": 0.8},
    "ThresholdedRelu": {"alpha": 0.4},
    "HardSigmoid": {"alpha": 0.3},
    "Shrink": {"lambd": 0.3, "bias": 0.1},
    "Softmax": {"axis": 1},
    "LogSoftmax": {"axis": -1},
    "Flatten": {"axis": 2},
    "Transpose": {"perm": [0, 2, 3, 1]},
    "GlobalAveragePool": {},
    "GlobalMaxPool": {},
    "LpNormalization": {"axis": 1},
    "MeanVarianceNormalization": {},
    "LRN": {"size": 3},
    "DepthToSpace": {"blocksize": 2},
    "SpaceToDepth": {"blocksize": 2},
    "ReduceMean": {"axes": [2, 3]},
    "ReduceL2": {"axes": [-1], "keepdims": 0},
    "ReduceLogSumExp": {"axes": [1]},
    "ReduceSumSquare": {"axes": [1]},
    "ArgMax": {"axis": 1},
    "GlobalLpPool": {},
    "Identity": {},
    "Hardmax": {"axis": 1},
    "Sign": {},
    "Round": {},
}


@pytest.mark.parametrize("op", ONE)
def test_an_operator_of_one_tensor(tmp_path, op):
    found = checked(one(tmp_path / "m.onnx", op, ["N", 4, 6, 8], **ONE[op]))
    assert found.samples == {"x": 0}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mean", "Sum"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 6, 8)])
def test_an_operator_of_two_tensors(tmp_path, op, shape):
    value = np.abs(rand(*shape)) + 0.5 if op != "Pow" else np.full(shape, 2.0, np.float32)
    checked(one(tmp_path / "m.onnx", op, ["N", 4, 6, 8], {"c": np.asarray(value, np.float32)}))


@QUICK
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    auto=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    bias=st.booleans(),
)
def test_convolutions(tmp_path, kernel, stride, dilation, groups, pads, auto, bias):
    dilation = 1 if auto.startswith("SAME") else dilation
    where = {"pads": pads} if auto == "NOTSET" else {"auto_pad": auto}
    weights = {"conv.weight": rand(8, 4 // groups, kernel, kernel)} | ({"conv.bias": rand(8)} if bias else {})
    path = one(
        tmp_path / "m.onnx",
        "Conv",
        ["N", 4, 11, 12],
        weights,
        group=groups,
        strides=[stride, stride],
        dilations=[dilation, dilation],
        **where,
    )
    found = checked(path)
    assert isinstance(found.module.get_submodule("conv"), nn.Conv2d)


@QUICK
@given(
    stride=st.integers(1, 3),
    extra=st.integers(0, 1),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    groups=st.sampled_from([1, 2]),
)
def test_transposed_convolutions(tmp_path, stride, extra, pads, groups):
    extra = min(extra, stride - 1)
    path = one(
        tmp_path / "m.onnx",
        "ConvTranspose",
        ["N", 4, 5, 6],
        {"up.weight": rand(4, 6 // groups, 3, 3)},
        group=groups,
        strides=[stride, stride],
        pads=pads,
        output_padding=[extra, extra],
    )
    checked(path)


@QUICK
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 3),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    counted=st.booleans(),
    auto=st.booleans(),
)
def test_pooling(tmp_path, op, kernel, stride, pads, counted, auto):
    extra = {"count_include_pad": int(counted)} if op == "AveragePool" else {}
    where = {"auto_pad": "SAME_UPPER"} if auto else {"pads": pads}
    stride = min(stride, kernel) if auto else stride  # ONNX Runtime refuses the others
    checked(one(tmp_path / "m.onnx", op, ["N", 3, 9, 10], kernel_shape=[kernel, kernel], strides=[stride, stride], **where, **extra))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_that_rounds_up(tmp_path, op):
    checked(one(tmp_path / "m.onnx", op, ["N", 3, 10, 10], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))


@pytest.mark.parametrize("how", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.5])
def test_resizing(tmp_path, how, mode, scale):
    rounding = "floor" if how == "asymmetric" else "round_prefer_floor"
    constants = {"": None, "scales": np.array([1, 1, scale, scale], np.float32)}
    checked(
        one(tmp_path / "m.onnx", "Resize", ["N", 2, 6, 8], constants, mode=mode, coordinate_transformation_mode=how, nearest_mode=rounding)
    )


@pytest.mark.parametrize("opset", [9, 10])
def test_resizing_in_older_operator_sets(tmp_path, opset):
    name = "Upsample" if opset == 9 else "Resize"
    checked(one(tmp_path / "m.onnx", name, ["N", 2, 6, 8], {"scales": np.array([1, 1, 2, 3], np.float32)}, opset, mode="nearest"))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("opset", [10, 13, 18])
def test_padding(tmp_path, mode, opset):
    pads = [0, 0, 1, 2, 0, 0, 2, 1]
    if opset == 10:
        path = one(tmp_path / "m.onnx", "Pad", ["N", 2, 6, 8], opset=opset, mode=mode, pads=pads)
    else:
        path = one(tmp_path / "m.onnx", "Pad", ["N", 2, 6, 8], {"pads": np.array(pads)}, opset, mode=mode)
    checked(path)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [-1], [1], [1]),
        ([0, 2], [99, 5], [1, 2], [2, 1]),
        ([-1], [-99], [2], [-1]),
        ([4], [0], [2], [-2]),
        ([0], [2**62], [0], [1]),
    ],
)
def test_slices(tmp_path, starts, ends, axes, steps):
    constants = {"s": np.array(starts), "e": np.array(ends), "a": np.array(axes), "t": np.array(steps)}
    checked(one(tmp_path / "m.onnx", "Slice", ["N", 4, 6], constants))


@pytest.mark.parametrize(("index", "axis"), [(1, 1), (-1, 2), ([0, 1, 2], 1), ([2, 0, -1], 1), ([[0, 1], [2, 3]], -1)])
def test_gather(tmp_path, index, axis):
    checked(one(tmp_path / "m.onnx", "Gather", ["N", 4, 6], {"i": np.array(index)}, axis=axis))


def test_gather_of_a_table_is_an_embedding(tmp_path):
    node = helper.make_node("Gather", ["emb.weight", "x"], ["y"])
    found = checked(file_of(tmp_path / "m.onnx", [node], {"x": ["N", 5]}, constants={"emb.weight": rand(11, 3)}, types={"x": "int64"}))
    assert isinstance(found.module.get_submodule("emb"), nn.Embedding)


@pytest.mark.parametrize("opset", [11, 13])
def test_split_squeeze_and_unsqueeze_of_both_kinds(tmp_path, opset):
    old = opset < 13
    constants = {} if old else {"sizes": np.array([1, 3]), "axes": np.array([-1])}
    nodes = [
        helper.make_node("Split", ["x"] if old else ["x", "sizes"], ["a", "b"], axis=1, **({"split": [1, 3]} if old else {})),
        helper.make_node("Unsqueeze", ["a"] if old else ["a", "axes"], ["c"], **({"axes": [-1]} if old else {})),
        helper.make_node("Squeeze", ["c"] if old else ["c", "axes"], ["d"], **({"axes": [-1]} if old else {})),
        helper.make_node("Concat", ["b", "d"], ["y"], axis=1),
    ]
    checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4, 5]}, constants=constants, opset=opset))


def test_shape_arithmetic_folds_and_stays_open_for_the_batch(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "at"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("ConstantOfShape", ["target"], ["zeros"]),
        helper.make_node("Add", ["flat", "zeros"], ["y"]),
    ]
    constants = {"zero": np.array(0), "at": np.array([0]), "rest": np.array([12])}
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 3, 4]}, constants=constants))
    assert found.module(torch.zeros(7, 3, 4)).shape == (7, 12)
    assert found.samples == {"x": 0}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(tmp_path, kind, direction):
    gates, ways, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1, 5
    constants = {"W": rand(ways, gates * hidden, 3), "R": rand(ways, gates * hidden, hidden), "B": rand(ways, 2 * gates * hidden)}
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = helper.make_node(kind, ["x", *constants], ["y", "h"], hidden_size=hidden, direction=direction, **extra)
    found = checked(file_of(tmp_path / "m.onnx", [node], {"x": [6, 2, 3]}, ["y", "h"], constants))
    assert any(isinstance(module, getattr(nn, kind)) for module in found.module.modules())


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_is_a_layer_with_its_factors_in_the_weights(tmp_path, trans):
    weight = rand(5, 4) if trans else rand(4, 5)
    path = one(tmp_path / "m.onnx", "Gemm", ["N", 4], {"fc.weight": weight, "fc.bias": rand(5)}, transB=trans, alpha=0.5, beta=2.0)
    found = checked(path)
    layer = found.module.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    np.testing.assert_allclose(layer.weight.detach(), 0.5 * (weight if trans else weight.T), rtol=1e-6)


def test_a_product_and_an_addition_are_one_layer(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["p"]), helper.make_node("Add", ["fc.bias", "p"], ["y"])]
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 7, 4]}, constants={"fc.weight": rand(4, 5), "fc.bias": rand(5)}))
    assert sorted(found.module.state_dict()) == ["fc.bias", "fc.weight"]


def test_a_product_that_is_read_twice_keeps_its_addition_apart(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Mul", ["p", "q"], ["y"]),
    ]
    checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 7, 4]}, constants={"w": rand(4, 5), "b": rand(5)}))


def test_equal_weights_of_two_layers_are_not_tied(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"])]
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4, 5, 5]}, constants={"w": rand(4, 4, 1, 1)}))
    weights = list(found.module.parameters())
    assert len(weights) == 2
    assert weights[0].data_ptr() != weights[1].data_ptr()


@pytest.mark.parametrize("op", ["BatchNormalization", "InstanceNormalization"])
def test_normalisation_layers(tmp_path, op):
    constants = {"n.weight": rand(4), "n.bias": rand(4)}
    if op == "BatchNormalization":
        constants |= {"n.running_mean": rand(4), "n.running_var": np.abs(rand(4)) + 0.1}
    checked(one(tmp_path / "m.onnx", op, ["N", 4, 5, 6], constants))


def test_layer_normalisation(tmp_path):
    found = checked(one(tmp_path / "m.onnx", "LayerNormalization", ["N", 3, 8], {"n.weight": rand(8), "n.bias": rand(8)}, axis=-1))
    assert isinstance(found.module.get_submodule("n"), nn.LayerNorm)


def test_group_normalisation_and_attention_of_new_operator_sets(tmp_path):
    checked(one(tmp_path / "g.onnx", "GroupNormalization", ["N", 4, 5], {"w": rand(4), "b": rand(4)}, 21, num_groups=2))
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    sizes = {name: ["N", 2, 5, 4] for name in "qkv"}
    checked(file_of(tmp_path / "a.onnx", [node], sizes, opset=23))


def test_expand_tile_where_and_comparisons(tmp_path):
    nodes = [
        helper.make_node("Expand", ["x", "to"], ["a"]),
        helper.make_node("Tile", ["a", "times"], ["b"]),
        helper.make_node("Greater", ["b", "half"], ["c"]),
        helper.make_node("Not", ["c"], ["d"]),
        helper.make_node("Where", ["d", "b", "half"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=onnx.TensorProto.INT64),
    ]
    constants = {"to": np.array([1, 3, 4]), "times": np.array([1, 2, 1]), "half": np.array(0.5, np.float32)}
    checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 1, 4]}, constants=constants))


def test_a_branch_on_what_is_known_folds(tmp_path):
    def branch(op):
        return helper.make_graph(
            [helper.make_node(op, ["x"], [f"{op}_out"])], op, [], [helper.make_tensor_value_info(f"{op}_out", 1, None)]
        )

    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["c"]),
        helper.make_node("Equal", ["c", "four"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 4]}, constants={"one": np.array(1), "four": np.array(4)}))
    assert bool((found.module(-torch.ones(2, 4)) == 0).all())


def test_layer_normalisation_and_gelu_that_are_spelled_out_are_found(tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["q"]),
        helper.make_node("ReduceMean", ["q"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["r"]),
        helper.make_node("Div", ["d", "r"], ["z"]),
        helper.make_node("Mul", ["z", "norm.weight"], ["zw"]),
        helper.make_node("Add", ["zw", "norm.bias"], ["n"]),
        helper.make_node("Div", ["n", "root"], ["g1"]),
        helper.make_node("Erf", ["g1"], ["g2"]),
        helper.make_node("Add", ["g2", "one"], ["g3"]),
        helper.make_node("Mul", ["n", "g3"], ["g4"]),
        helper.make_node("Mul", ["g4", "half"], ["y"]),
    ]
    numbers = {"two": 2, "eps": 1e-5, "root": 2**0.5, "one": 1, "half": 0.5}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()} | {"norm.weight": rand(8), "norm.bias": rand(8)}
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": ["N", 3, 8]}, constants=constants))
    assert isinstance(found.module.get_submodule("norm"), nn.LayerNorm)
    assert [node.target for node in found.module.graph.nodes if node.op == "call_function"] == [torch.nn.functional.gelu]


def test_a_file_for_one_sample_takes_batches_where_it_can(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Reshape", ["a", "to"], ["y"])]
    constants = {"w": rand(4, 3, 1, 1), "to": np.array([1, 4 * 25])}
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": [1, 3, 5, 5]}, constants=constants))
    assert found.samples == {"x": 0}
    assert found.module(torch.zeros(6, 3, 5, 5)).shape == (6, 100)
    assert found.example_inputs[0].shape == (1, 3, 5, 5)


def test_a_file_whose_first_dimension_is_no_batch_keeps_it(tmp_path):
    nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["a"], keepdims=1), helper.make_node("Add", ["x", "a"], ["y"])]
    found = checked(file_of(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, constants={"axis": np.array([0])}))
    assert found.samples == {}
    assert bool((found.module(torch.ones(1, 4)) == 2).all())


def test_a_second_function_for_the_same_versions_of_an_operator_is_an_error():
    with pytest.raises(ValueError, match="registered twice"):
        operator("Clip", since=8, until=12)(lambda call: call[0])
    assert find("Clip", 10) is not find("Clip", 11)
    assert len(names()) > 120
