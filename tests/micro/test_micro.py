"""TFLite files for microcontrollers: operators, the arena, the C array, and the command that shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgeprune.cli import main
from edgeprune.errors import ExportError, ProfileError
from edgeprune.micro import (
    estimate_flash,
    macs_of,
    measure_arena,
    predict_ms,
    read_graph,
    require_supported,
    run_micro,
    unsupported,
    write_c_array,
)
from edgeprune.micro.flash import CODE_BYTES
from edgeprune.micro.operators import METHODS
from edgeprune.profile import load
from edgeprune.testing.models import dense_tflite
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.builder import Builder
from edgeprune.tflite.interpreter import invoke, open_tflite

pytest.importorskip("tflite_micro")

ARENAS = {"ad01_int8": 3984, "kws_ref_model": 24272, "pretrainedResnet_quant": 55984}
"""Of MLPerf Tiny's reference models, as tflite-micro's ``print_allocations`` counts them."""


@pytest.fixture
def changed(int8_file: Path) -> Callable[[Callable[[schema.ModelT], None]], bytes]:
    """The int8 file with something changed in it."""

    def change(edit: Callable[[schema.ModelT], None]) -> bytes:
        model = flatbuffer.read(int8_file.read_bytes())
        edit(model)
        return flatbuffer.pack(model)

    return change


def rename(old: str, new: str) -> Callable[[schema.ModelT], None]:
    """Make every operator ``old`` say it is ``new``."""

    def edit(model: schema.ModelT) -> None:
        for code in model.operatorCodes:
            if max(code.builtinCode, code.deprecatedBuiltinCode) == getattr(schema.BuiltinOperator, old):
                code.builtinCode = getattr(schema.BuiltinOperator, new)
                code.deprecatedBuiltinCode = min(code.builtinCode, 127)

    return edit


def retype(place: int, kind: int) -> Callable[[schema.ModelT], None]:
    """Change the type of input ``place`` of the first convolution."""

    def edit(model: schema.ModelT) -> None:
        graph = next(part for name, _, _, part in flatbuffer.operators(model) if name == "CONV_2D")
        operator = next(entry for name, _, entry, _ in flatbuffer.operators(model) if name == "CONV_2D")
        graph.tensors[operator.inputs[place]].type = kind

    return edit


# operators


def test_what_runs_passes(int8_file: Path) -> None:
    graph = read_graph(int8_file.read_bytes(), "net")
    assert unsupported(graph) == []
    require_supported(graph, "net")
    assert {operator.name for operator in graph.operators} >= {"CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED"}
    assert [(tensor.shape, tensor.dtype) for tensor in graph.inputs] == [((1, 8, 8, 2), "int8")]
    assert [(tensor.shape, tensor.dtype) for tensor in graph.outputs] == [((1, 3), "int8")]


@pytest.mark.parametrize(
    ("edit", "words", "remedy"),
    [
        (rename("MAX_POOL_2D", "GELU"), ["GELU (node 1, which makes", "is not among its operators"], "nn.ReLU"),
        (rename("MAX_POOL_2D", "BIDIRECTIONAL_SEQUENCE_LSTM"), ["BIDIRECTIONAL_SEQUENCE_LSTM (node 1"], "Replace BIDIRECTIONAL_SEQUENCE"),
        (rename("MAX_POOL_2D", "EXP"), ["EXP (node 1", "float32 kernel only, and reads int8"], "softmax"),
        (retype(0, schema.TensorType.FLOAT32), ["CONV_2D (node 0", "int8 weights and float32 activations"], "full-integer int8"),
        (retype(1, schema.TensorType.FLOAT16), ["CONV_2D (node 0", "float16 tensor"], "full-integer int8"),
        (retype(1, schema.TensorType.UINT8), ["CONV_2D (node 0", "uint8 weights"], "Quantize the float model again"),
    ],
)
def test_an_operator_that_does_not_run_is_named_with_its_node_and_what_to_do(changed, edit, words: list[str], remedy: str) -> None:
    content = changed(edit)
    with pytest.raises(ExportError) as caught:
        measure_arena(content, "net.tflite")
    assert all(word in caught.value.message for word in ["net.tflite does not run on TFLite Micro", *words])
    assert remedy in (caught.value.remedy or "")


def test_sparse_weights_are_refused(changed) -> None:
    def edit(model: schema.ModelT) -> None:
        for name, _, operator, graph in flatbuffer.operators(model):
            if name == "FULLY_CONNECTED":
                graph.tensors[operator.inputs[1]].sparsity = schema.SparsityParametersT()

    (finding,) = unsupported(read_graph(changed(edit), "net"))
    assert finding.operator == "FULLY_CONNECTED"
    assert "sparse weights" in finding.why


def stateful() -> bytes:
    """y = x + the sum of the inputs before: one variable, read and written by two handles."""
    graph = Builder()
    x, y, read = (graph.tensor((1, 8)) for _ in range(3))
    handles = [graph.tensor((1,)) for _ in range(2)]
    for handle in handles:
        graph.tensors[handle].type = schema.TensorType.RESOURCE
        options = schema.VarHandleOptionsT()
        options.container, options.sharedName = "", "sum"
        graph.op("VAR_HANDLE", [], handle, "VarHandleOptions", options)
    graph.op("READ_VARIABLE", [handles[0]], read, "ReadVariableOptions", schema.ReadVariableOptionsT())
    graph.op("ADD", [x, read], y, "AddOptions", schema.AddOptionsT())
    graph.op("ASSIGN_VARIABLE", [handles[1], y], y, "AssignVariableOptions", schema.AssignVariableOptionsT())
    graph.operators[-1].outputs = np.array([], np.int32)
    return graph.build([x], [y])


def test_the_header_of_a_model_with_state_has_its_variables(tmp_path: Path) -> None:
    content = stateful()
    assert read_graph(content, "stateful").resource_variables == 1
    _, header = write_c_array(content, tmp_path, "model", measure_arena(content))
    text = header.read_text()
    assert "#define MODEL_RESOURCE_VARIABLE_COUNT 1" in text
    assert "MicroResourceVariables::Create" in text


def test_int4_is_for_weights() -> None:
    graph = Builder()
    x, y = graph.tensor((1, 4)), graph.tensor((1, 4))
    graph.tensors[x].type = schema.TensorType.INT4
    graph.op("CAST", [x], y, "CastOptions", schema.CastOptionsT())
    with pytest.raises(ExportError, match=r"CAST \(node 0, .* computes with the int4 tensor 't0': only weights may be int4"):
        measure_arena(graph.build([x], [y]))


def test_many_findings_make_one_message(int8_file: Path, changed) -> None:
    def edit(model: schema.ModelT) -> None:
        for old in ("MAX_POOL_2D", "CONV_2D", "FULLY_CONNECTED", "RESHAPE", "TRANSPOSE"):
            rename(old, "GELU")(model)

    count = len(read_graph(int8_file.read_bytes(), "net").operators)
    content = changed(edit)
    assert len(unsupported(read_graph(content, "net"))) == count
    with pytest.raises(ExportError, match="GELU") as caught:
        require_supported(read_graph(content, "net"), "net")
    assert caught.value.message.count("(node") == min(count, 5)


def test_what_only_the_interpreter_refuses_is_named_too(changed) -> None:
    """A bias of int64: TFLite Micro knows the operator and the type, and not the two together."""
    with pytest.raises(ExportError, match=r"TFLite Micro refuses CONV_2D \(node 0, which makes '.+'\): .+"):
        measure_arena(changed(retype(1, schema.TensorType.INT32)), "net")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\0\0\0TFL3" + bytes(40)])
def test_what_is_not_a_model_is_said(content: bytes) -> None:
    with pytest.raises(ExportError, match=r"^photo\.jpg: "):
        read_graph(content, "photo.jpg")


# the arena


@pytest.mark.parametrize(("name", "used"), ARENAS.items())
def test_arenas_of_the_mlperf_tiny_models_are_tflite_micros(reference_models: Path, name: str, used: int) -> None:
    arena = measure_arena((reference_models / f"{name}.tflite").read_bytes(), name)
    assert arena.used_bytes == used == arena.head_bytes + arena.tail_bytes
    assert used <= arena.needed_bytes < used + 1024
    assert arena.needed_bytes % 16 == 0
    assert sum(arena.parts.values()) <= arena.tail_bytes


def test_a_model_runs_in_the_arena_it_needs_and_not_in_less(int8_file: Path) -> None:
    from tflite_micro import runtime

    content = int8_file.read_bytes()
    arena = measure_arena(content)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena.needed_bytes)
    interpreter.set_input(np.zeros((1, 8, 8, 2), np.int8), 0)
    interpreter.invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(content, arena_size=arena.needed_bytes - 16)


def test_the_arena_holds_what_is_alive_at_once(int8_file: Path) -> None:
    """The convolution's output of 8 x 8 x 8 and the pooling's of 4 x 4 x 8."""
    arena = measure_arena(int8_file.read_bytes())
    assert 8 * 8 * 8 + 4 * 4 * 8 <= arena.head_bytes <= 8 * 8 * 8 + 4 * 4 * 8 + 256


def test_float_models_have_an_arena_too() -> None:
    arena = measure_arena(dense_tflite(np.ones((4, 256), np.float32)))
    assert arena.head_bytes >= 4 * (256 + 4)


def test_without_tflite_micro_its_package_is_named(int8_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tflite_micro'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ExportError, match="tflite-micro") as caught:
        measure_arena(int8_file.read_bytes())
    assert "edgeprune[micro]" in (caught.value.remedy or "")


def test_an_interpreter_that_is_killed_is_an_error(int8_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nkill -SEGV $$\n")
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ExportError, match=r"net: TFLite Micro's interpreter ended by signal 11"):
        measure_arena(int8_file.read_bytes(), "net")


def test_it_computes_what_tflite_computes(int8_file: Path) -> None:
    content = int8_file.read_bytes()
    inputs = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 2)).astype(np.int8)
    (found,) = run_micro(content, [inputs])
    interpreter = open_tflite(content)
    invoke(interpreter, [torch.from_numpy(inputs)])
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert found.shape == (1, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert np.ptp(found.astype(int)) > 10  # the probe tells something


# the work and its time


def test_macs_of_the_mlperf_tiny_models(reference_models: Path) -> None:
    """As MLPerf Tiny's paper gives them (Banbury et al., 2021): 0.26, 2.7, 12.5 and 7.5 million."""
    known = {"ad01_int8": 264_192, "kws_ref_model": 2_656_768, "pretrainedResnet_quant": 12_501_632, "vww_96_int8": 7_489_664}
    for name, count in known.items():
        assert macs_of(read_graph((reference_models / f"{name}.tflite").read_bytes(), name)) == count


@pytest.mark.parametrize(("profile", "tolerance"), [("nrf5340", 0.05), ("stm32l4r5", 0.15), ("stm32h7a3", 0.15)])
def test_latencies_are_predicted_as_published(reference_models: Path, profile: str, tolerance: float) -> None:
    from benchmarks import micro_priors

    known = load(profile)
    for model, milliseconds in micro_priors.PUBLISHED[profile].items():
        path = reference_models / f"{micro_priors.MODELS[model]}.tflite"
        assert predict_ms(read_graph(path.read_bytes(), model), known) == pytest.approx(milliseconds, rel=tolerance), model


def test_flash_is_near_what_was_linked(reference_models: Path) -> None:
    """A program of TFLite Micro with the keyword model's six operators, linked for a Cortex-M33, has 36,344 bytes of code; one with the
    anomaly model's fully-connected layers alone 20,072."""
    for name, linked in (("kws_ref_model", 36_344), ("ad01_int8", 20_072)):
        content = (reference_models / f"{name}.tflite").read_bytes()
        flash = estimate_flash(read_graph(content, name), len(content))
        assert linked <= flash.code_bytes <= 1.05 * linked
        assert flash.total_bytes == len(content) + flash.code_bytes


def test_the_size_of_every_operator_is_known() -> None:
    assert set(CODE_BYTES) == set(METHODS)


def test_a_profile_without_latencies_predicts_none(int8_file: Path) -> None:
    with pytest.raises(ProfileError, match="esp32-s3 has no published latency"):
        predict_ms(read_graph(int8_file.read_bytes(), "net"), load("esp32-s3"))


def test_facts_of_the_microcontrollers() -> None:
    ram = {"nrf5340": 512 * 1024, "stm32l4r5": 640 * 1024, "stm32h7a3": 1_190_000, "esp32-s3": 512 * 1024}
    for name, size in ram.items():
        profile = load(name)
        assert (profile.name, profile.micro, profile.memory.bytes) == (name, True, size)
        assert all(fact.source for fact in profile.facts.values())
    assert load("nrf5340").memory.flash_bytes == 1024 * 1024
    assert load("esp32-s3").prior is None
    assert load("nrf5340").power is None
    assert not load("raspberry-pi-4").micro


# the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["micro", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_shows_checks_and_writes(int8_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(int8_file), "--out", str(tmp_path / "c"), "--profile", "nrf5340", "--json")
    shown = json.loads(out)
    content = int8_file.read_bytes()
    assert code == 0
    assert shown["arena"]["needed_bytes"] == measure_arena(content).needed_bytes
    assert shown["flash"]["file_bytes"] == len(content)
    assert shown["flash"]["total_bytes"] == shown["flash"]["file_bytes"] + shown["flash"]["code_bytes"]
    assert shown["latency_ms"] == pytest.approx(predict_ms(read_graph(content, ""), load("nrf5340")))
    assert "predicted" in shown["latency_method"]
    assert shown["fits"] == {"ram": True, "flash": True}
    assert [Path(path).name for path in shown["c_files"]] == ["model.c", "model.h"]
    assert all(Path(path).is_file() for path in shown["c_files"])


def test_the_command_says_what_is_measured_and_what_is_not(int8_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(int8_file), "--profile", "stm32h7a3")
    assert code == 0
    assert "measured with tflite-micro" in out
    assert "estimated" in out
    assert "predicted from STM32Cube.AI, MLPerf Tiny v1.2, int8, not measured" in out
    code, out, _ = run(capsys, str(int8_file), "--profile", "esp32-s3", "--json")
    shown = json.loads(out)
    assert (code, shown["latency_ms"], shown["fits"]["flash"]) == (0, None, None)


def test_a_float_model_has_no_latency_by_figures_of_int8(models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(models_folder / "pretrainedResnet.tflite"), "--profile", "nrf5340", "--json")
    shown = json.loads(out)
    assert (code, shown["latency_ms"]) == (0, None)
    assert "int8 kernels" in shown["latency_method"]


def test_a_model_that_does_not_fit_is_a_failure(int8_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeprune.resources import resource

    small = tmp_path / "small.toml"
    small.write_text(resource("profiles", "nrf5340.toml").read_text().replace("value = 524_288", "value = 512"))
    code, out, _ = run(capsys, str(int8_file), "--profile", str(small), "--json")
    assert code == 4
    assert json.loads(out)["fits"] == {"ram": False, "flash": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.tflite"], "nowhere.tflite does not exist"),
        (["FILE", "--profile", "raspberry-pi-4"], "raspberry-pi-4 is not a microcontroller"),
        (["FILE", "--profile", "nrf9999"], "unknown profile"),
        (["FILE", "--out", "OUT", "--name", "7up"], "is not a C identifier"),
        (["FILE", "--out", "/proc/none"], "cannot be written to /proc/none"),
        ([__file__], "test_micro.py: the file is not a TFLite model"),
    ],
)
def test_bad_input_is_one_clear_message(
    int8_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [{"FILE": str(int8_file), "OUT": str(tmp_path / "c")}.get(word, word) for word in arguments]
    code, out, err = run(capsys, *given)
    assert code == 1
    assert out == ""
    assert message in err.replace("\n", " ")
    assert not (tmp_path / "c").exists()
