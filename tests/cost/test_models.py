"""Kernels, tables, and the models of latency, memory and size over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from edgeprune.cost.choices import width_choices
from edgeprune.cost.kernels import CONTRACTIONS, KernelSpec, kernels, macs
from edgeprune.cost.latency import LatencyModel, TableTimes
from edgeprune.cost.memory import memory_model
from edgeprune.cost.prior import PriorTimes
from edgeprune.cost.single_onnx import single_onnx
from edgeprune.cost.single_tflite import single_tflite
from edgeprune.cost.single_torchscript import single_torchscript
from edgeprune.cost.table import CALL, LAUNCHES, Table, grid_of, point_key
from edgeprune.cost.weights import kernel_parameters
from edgeprune.cost.width import WidthExpr
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import load
from edgeprune.testing.networks import Gated, OptionA, Shuffle
from edgeprune.tflite import schema as flatbuffer

IMAGE = (torch.zeros(1, 3, 8, 8),)
FORMS = [
    (KernelSpec("conv2d", (8, 8), (8, 8), (3, 3), (1, 1), 1, True), 4, 6),
    (KernelSpec("conv2d", (8, 8), (4, 4), (3, 3), (2, 2), 1, True), 4, 6),
    (KernelSpec("conv2d", (9, 9), (4, 4), (3, 3), (2, 2)), 4, 6),
    (KernelSpec("conv2d", (8, 8), (8, 8), (3, 3), (1, 1), 2, True), 4, 6),
    (KernelSpec("depthwise_conv2d", (8, 8), (4, 4), (5, 5), (2, 2), 1, True), 6, 6),
    (KernelSpec("transpose_conv2d", (4, 4), (8, 8), (2, 2), (2, 2)), 4, 6),
    (KernelSpec("transpose_conv2d", (4, 4), (8, 8), (4, 4), (2, 2)), 4, 6),
    (KernelSpec("transpose_conv2d", (1, 4), (1, 8), (1, 4), (1, 2)), 4, 6),
    (KernelSpec("fully_connected", (1, 1), (1, 1)), 4, 6),
    (KernelSpec("add", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("mul", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("mean", (8, 8), (1, 1)), 6, 6),
    (KernelSpec("max_pool", (8, 8), (4, 4), (3, 3), (2, 2)), 6, 6),
    (KernelSpec("avg_pool", (8, 8), (1, 1), (8, 8), (8, 8)), 6, 6),
    (KernelSpec("hard_swish", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("sigmoid", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("concat", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("pad", (8, 8), (8, 8)), 6, 6),
    (KernelSpec("strided_slice", (8, 8), (4, 8), stride=(2, 1)), 6, 6),
    (KernelSpec("copy", (8, 8), (4, 4)), 6, 6),
]


@pytest.mark.parametrize(("spec", "in_width", "out_width"), FORMS, ids=lambda value: getattr(value, "text", value))
def test_single_kernels_run_and_have_the_stated_shapes(spec: KernelSpec, in_width: int, out_width: int) -> None:
    interpreter = Interpreter(model_content=single_tflite(spec, in_width, out_width))
    interpreter.allocate_tensors()
    interpreter.invoke()
    shape = interpreter.get_output_details()[0]["shape"].tolist()
    assert shape == ([1, out_width] if spec.kind == "fully_connected" else [1, *spec.rows_out, out_width])


@pytest.mark.parametrize(("spec", "in_width", "out_width"), FORMS, ids=lambda value: getattr(value, "text", value))
def test_single_torchscript_kernels_run(spec: KernelSpec, in_width: int, out_width: int, tmp_path: Path) -> None:
    path = tmp_path / "kernel.pt"
    path.write_bytes(single_torchscript(spec, in_width, out_width))
    width = in_width if spec.kind in (*CONTRACTIONS, "depthwise_conv2d") else out_width
    x = torch.zeros(1, width) if spec.kind == "fully_connected" else torch.zeros(1, width, *spec.rows_in)
    assert torch.jit.load(str(path))(x).shape[1] == out_width


@pytest.mark.parametrize(("spec", "in_width", "out_width"), FORMS, ids=lambda value: getattr(value, "text", value))
def test_single_onnx_kernels_run(spec: KernelSpec, in_width: int, out_width: int) -> None:
    session = onnxruntime.InferenceSession(single_onnx(spec, in_width, out_width), providers=["CPUExecutionProvider"])
    feed = {item.name: np.zeros(item.shape, np.float32) for item in session.get_inputs()}
    assert session.run(None, feed)[0].shape[1] == out_width


@pytest.mark.parametrize(("kind", "gates", "operation"), [("lstm", 4, "SEQUENCE_LSTM"), ("gru", 3, "WHILE"), ("rnn", 1, "SEQUENCE_RNN")])
def test_a_recurrent_kernel_is_what_the_exporter_writes(kind: str, gates: int, operation: str, tmp_path: Path) -> None:
    """Of 5 inputs and 8 hidden channels, over 7 steps."""
    spec = KernelSpec(kind, (1, 7), (1, 7))
    content = single_tflite(spec, 5 + 8, gates * 8)
    assert sum(name.endswith(operation) for name, *_ in flatbuffer.operators(flatbuffer.read(content))) == 1
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.invoke()
    assert [detail["shape"].tolist() for detail in interpreter.get_input_details()] == [[1, 7, 5]]
    assert [detail["shape"].tolist() for detail in interpreter.get_output_details()] == [[1, 7, 8]]
    path = tmp_path / "kernel.pt"
    path.write_bytes(single_torchscript(spec, 5 + 8, gates * 8))
    assert torch.jit.load(str(path))(torch.zeros(1, 7, 5)).shape == (1, 7, 8)


class Projected(nn.Module):
    """Two layers in both directions, of 8 hidden channels projected to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True, proj_size=3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers(x)[0])
        return y


def test_a_recurrent_layer_is_one_kernel_a_direction() -> None:
    torch.manual_seed(0)
    analysis = analyze(Projected(), (torch.zeros(1, 7, 6),))
    widths = {group.name: group.size for group in analysis.groups}
    found = [part for part in kernels(analysis) if part.spec.kind in CONTRACTIONS]
    sizes = [(part.spec.kind, round(part.in_width.at(widths)), round(part.out_width.at(widths))) for part in found]
    assert sizes == [*[("lstm", 6 + 3, 32), ("fully_connected", 8, 3)] * 4, ("fully_connected", 6, 5)]


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (KernelSpec("attention", (7, 6), (5, 6)), [5, 4 * 6]),
        (KernelSpec("attention_dimensions", (1, 7), (1, 5), groups=2), [5, 4]),
        (KernelSpec("layer_norm", (1, 5), (1, 5)), [1, 5, 4]),
    ],
    ids=lambda value: getattr(value, "text", "x".join(map(str, value)) if isinstance(value, list) else value),
)
def test_single_kernels_of_transformers_run(spec: KernelSpec, shape: list[int], tmp_path: Path) -> None:
    interpreter = Interpreter(model_content=single_tflite(spec, 4, 4))
    interpreter.allocate_tensors()
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    assert output["shape"].tolist() == shape
    path = tmp_path / "kernel.pt"
    path.write_bytes(single_torchscript(spec, 4, 4))
    inputs = [torch.zeros(detail["shape"].tolist()) for detail in interpreter.get_input_details()[:2]]
    assert list(torch.jit.load(str(path))(*inputs).shape) == shape


@pytest.mark.parametrize("unit", ["heads", "dimensions"])
def test_attention_is_one_kernel_as_wide_as_what_it_loses(unit: str) -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    analysis = analyze(model, (torch.zeros(1, 10, 32),), (), unit)
    found = {kernel.spec.kind: kernel for kernel in kernels(analysis)}
    kernel = found["attention" if unit == "heads" else "attention_dimensions"]
    full = widths_of(analysis)
    assert kernel.out_width.at(full) == pytest.approx(4 if unit == "heads" else 32)
    assert macs(kernel.spec, *[kernel.out_width.at(full)] * 2) == pytest.approx(2 * 4 * 10 * 10 * 8)
    assert found["layer_norm"].spec.rows_out == (1, 10)


def widths_of(analysis: Analysis) -> dict[str, int]:
    return {group.name: group.size for group in analysis.groups}


@pytest.mark.parametrize("network", [OptionA, Shuffle, Gated])
def test_kernels_count_what_the_modules_do(network: type[nn.Module]) -> None:
    model, seen = network().eval(), []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.numel() // output.shape[0] * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(*IMAGE)
    analysis = analyze(network(), IMAGE)
    dense = widths_of(analysis)
    assert sum(macs(kernel.spec, kernel.in_width.at(dense), kernel.out_width.at(dense)) for kernel in kernels(analysis)) == sum(seen)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert sum(kernel_parameters(kernel, kernel.in_width.at(dense), kernel.out_width.at(dense)) for kernel in kernels(analysis)) == sum(
        layer.weight.numel() + len(layer.weight) for layer in layers
    )  # a bias each, once folded


def test_batch_norm_and_relu_disappear_into_the_kernel_before_them() -> None:
    kinds = [kernel.spec.kind for kernel in kernels(analyze(OptionA(), IMAGE))]
    assert kinds == ["conv2d", "conv2d", "conv2d", "strided_slice", "strided_slice", "pad", "add", "avg_pool", "fully_connected"]


def test_widths_follow_the_plan() -> None:
    analysis = analyze(OptionA(), IMAGE)
    by_node = {kernel.node.name: kernel for kernel in kernels(analysis)}
    last = by_node["linear"]
    assert last.in_width == WidthExpr(0.0, (("conv2", 1.0), ("stem", 1.0)))
    assert last.in_width.at({"conv2": 3, "stem": 5, "conv1": 1}) == 8


def test_the_first_convolution_in_time_reads_channels_not_samples() -> None:
    analysis = analyze(
        nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 3)).eval(), (torch.zeros(1, 4, 10),)
    )
    first, *_ = kernels(analysis)
    full = widths_of(analysis)
    assert (first.in_width.at(full), first.out_width.at(full), first.spec.rows_in, first.spec.rows_out) == (4, 16, (1, 10), (1, 10))
    assert macs(first.spec, 4, 16) == 10 * 3 * 4 * 16


def test_a_pooling_that_returns_places_is_as_wide_as_its_values() -> None:
    layers = (nn.Conv1d(4, 16, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 3))
    analysis = analyze(nn.Sequential(*layers).eval(), (torch.zeros(1, 4, 10),))
    convolution, pooling, linear = kernels(analysis)
    full = widths_of(analysis)
    assert [kernel.out_width.at(full) for kernel in (convolution, pooling, linear)] == [16, 16, 3]
    assert (pooling.spec.rows_in, pooling.spec.rows_out) == ((1, 8), (1, 1))


def filled_table(analysis: Analysis, choices: dict[str, list[int]], path: Path | None = None) -> Table:
    """A table whose kernels take 1 us for every 1000 MACs, and 1 us each; a call takes 2 us on top."""
    table = Table(path)
    grids = [grid_of(kernel, choices) for kernel in kernels(analysis)]
    table.add({point_key(point): 2e-3 + (point != CALL) * (1e-3 + 1e-6 * macs(*point)) for point in table.missing(grids)})
    assert table.missing(grids) == []
    return table


def test_a_table_interpolates_and_is_kept(tmp_path: Path) -> None:
    analysis = analyze(OptionA(), IMAGE)
    choices = {group.name: width_choices(group, 4) for group in analysis.groups}
    filled_table(analysis, choices, tmp_path / "table.json")
    table = Table.open(tmp_path / "table.json")
    model = LatencyModel(kernels(analysis), TableTimes(table, choices))
    widths = {name: options[len(options) // 2] for name, options in choices.items()}
    wanted = sum(1e-3 + 1e-6 * macs(kernel.spec, kernel.in_width.at(widths), kernel.out_width.at(widths)) for kernel in kernels(analysis))
    assert model.predict(widths) == pytest.approx(2e-3 + wanted, rel=0.02)  # the call once, not once a kernel
    (tmp_path / "table.json").write_text("{")
    assert Table.open(tmp_path / "table.json").times == {}


def test_starting_a_kernel_is_a_cost_of_its_own_on_an_accelerator() -> None:
    analysis = analyze(OptionA(), IMAGE)
    choices = {group.name: width_choices(group, 4) for group in analysis.groups}
    table, call_ms, launch_ms = Table(launches=True), 0.4, 0.03
    grids = [grid_of(kernel, choices, accelerated=True) for kernel in kernels(analysis)]
    missing = table.missing(grids)
    assert {point_key(CALL), point_key(LAUNCHES)} <= {point_key(point) for point in missing}
    started = {point_key(point): LAUNCHES[2] if point == LAUNCHES else 1 for point in missing}
    own = {point_key(point): 0.0 if point in (CALL, LAUNCHES) else 1e-6 * macs(*point) for point in missing}
    table.add({key: call_ms + launch_ms * started[key] + own[key] for key in own})
    assert (table.call_ms, table.launch_ms) == (pytest.approx(call_ms), pytest.approx(launch_ms))
    full = {name: options[-1] for name, options in choices.items()}
    parts = kernels(analysis)
    wanted = sum(launch_ms + 1e-6 * macs(part.spec, part.in_width.at(full), part.out_width.at(full)) for part in parts)
    assert LatencyModel(parts, TableTimes(table, choices)).predict(full) == pytest.approx(call_ms + wanted, rel=0.02)


def test_calibration_learns_overhead_and_scale() -> None:
    analysis = analyze(OptionA(), IMAGE)
    choices = {group.name: width_choices(group, 4) for group in analysis.groups}
    model = LatencyModel(kernels(analysis), TableTimes(filled_table(analysis, choices), choices))
    random = np.random.default_rng(0)
    plans = [{name: int(random.choice(options)) for name, options in choices.items()} for _ in range(6)]
    plans.insert(0, widths_of(analysis))
    truth = [0.02 + 1.3 * model.predict(plan) for plan in plans]
    model.calibrate(list(zip(plans[:4], truth[:4], strict=True)))
    for plan, wanted in zip(plans[4:], truth[4:], strict=True):
        assert model.predict(plan) == pytest.approx(wanted, rel=0.05)


def test_memory_is_the_largest_set_alive_at_once() -> None:
    analysis = analyze(OptionA(), IMAGE)
    model = memory_model(kernels(analysis))
    stem = 8 * 8 * 8
    # while the first strided convolution runs the stem's output stays alive for the shortcut
    assert model.activations(widths_of(analysis)) == 4 * max(3 * 64 + stem, stem + 16 * 16, stem + 2 * 16 * 16)


def test_choices_are_few_multiples_of_the_step_and_end_whole() -> None:
    for group in analyze(Shuffle(), IMAGE).groups:
        for step in (1, 8, 32):
            choices = width_choices(group, step)
            assert choices[-1] == group.size
            assert len(choices) <= 13
            assert choices == sorted(set(choices))
            assert choices[0] >= 1


def test_the_prior_grows_with_width_in_blocks_of_the_step() -> None:
    analysis = analyze(OptionA(), IMAGE)
    times = PriorTimes(load("raspberry-pi-4"))
    kernel = kernels(analysis)[1]
    values = [times.milliseconds(kernel, 8, out_width) for out_width in (1, 8, 9, 16)]
    assert not times.measured
    assert values[0] <= values[1] < values[2] <= values[3]
