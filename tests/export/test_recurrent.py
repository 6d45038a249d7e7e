"""Recurrent layers in exported TFLite files: whole, exact at every inference, small in int8, and said when they were unrolled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

from edgeprune.export import ExportOptions, export, read_metadata
from edgeprune.export.parity import sqnr_db
from edgeprune.export.passes.recurrent import PLACEHOLDER, keep_recurrent_layers, unrolled
from edgeprune.micro import measure_arena, run_micro
from edgeprune.tflite import schema as flatbuffer
from edgeprune.tflite.interpreter import invoke, open_tflite, value_of
from edgeprune.tflite.versions import minimum_runtime

FORMATS = {"tflite": 90.0, "tflite-fp16": 40.0, "tflite-dynamic": 20.0, "tflite-int8": 20.0}
"""The least signal to error, in decibels."""


class Speech(nn.Module):
    """A convolution, two layers of LSTM, a bidirectional GRU, a plain RNN over steps first, and the last step of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 32, 2, batch_first=True)
        self.gru = nn.GRU(32, 24, batch_first=True, bidirectional=True)
        self.rnn, self.head = nn.RNN(48, 32, bias=False), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.gru(self.lstm(self.stem(x).relu().transpose(1, 2))[0])[0]
        y: Tensor = self.head(self.rnn(steps.transpose(0, 1))[0][-1])
        return y


class Stream(nn.Module):
    """An LSTM and a GRU whose states come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(4, 6, 2, batch_first=True), nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        y, (h, c) = self.lstm(x, (h, c))
        y, g = self.gru(y, g)
        return y, h, c, g


class Steps(nn.Module):
    """A cell, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(1, 4)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        y: Tensor = self.head(h)
        return y


@pytest.fixture(scope="module")
def speech() -> Speech:
    torch.manual_seed(0)
    return Speech().eval()


@pytest.fixture(scope="module")
def files(speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    samples = [(torch.randn(1, 6, 30),) for _ in range(16)]
    options = ExportOptions(channels_last=True)
    return export(speech, samples[0], list(FORMATS), tmp_path_factory.mktemp("speech"), calibration=samples, options=options)


def operators(path: Path) -> Counter[str]:
    return Counter(name for name, *_ in flatbuffer.operators(flatbuffer.read(path.read_bytes())))


def test_layers_are_whole(files: dict[str, Path]) -> None:
    found = operators(files["tflite"])
    assert (found["UNIDIRECTIONAL_SEQUENCE_LSTM"], found["WHILE"], found["UNIDIRECTIONAL_SEQUENCE_RNN"]) == (2, 2, 1)
    found = operators(files["tflite-int8"])
    assert (found["UNIDIRECTIONAL_SEQUENCE_LSTM"], found["WHILE"]) == (2, 3), "TFLite has no int8 RNN but as a loop"
    assert all(sum(operators(path).values()) < 120 for path in files.values())
    assert all("STABLEHLO_COMPOSITE" not in operators(path) for path in files.values())


def test_old_runtimes_have_every_operator(files: dict[str, Path]) -> None:
    """DYNAMIC_UPDATE_SLICE, with which a loop puts its output together, came with 2.9, and int8 convolutions by channel with 2.10."""
    assert minimum_runtime(files["tflite"]) == Version("2.9")
    assert minimum_runtime(files["tflite-int8"]) == Version("2.10")


def test_int8_is_small(files: dict[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    assert sizes["tflite-int8"] < 0.6 * sizes["tflite"]
    assert sizes["tflite-dynamic"] < 0.6 * sizes["tflite"]
    assert sizes["tflite-fp16"] < 0.75 * sizes["tflite"]


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_inference_is_the_first(name: str, speech: Speech, files: dict[str, Path]) -> None:
    interpreter = open_tflite(files[name].read_bytes())
    torch.manual_seed(1)
    for _ in range(3):
        x = torch.randn(1, 6, 30)
        invoke(interpreter, [x.transpose(1, 2)])
        with torch.no_grad():
            assert sqnr_db(speech(x), value_of(interpreter, interpreter.get_output_details()[0])) > FORMATS[name]


def test_a_microcontroller_runs_the_int8_file(speech: Speech, files: dict[str, Path]) -> None:
    pytest.importorskip("tflite_micro")
    content = files["tflite-int8"].read_bytes()
    x = torch.randn(1, 6, 30)
    (output,) = run_micro(content, [x.transpose(1, 2).contiguous().numpy()], "speech")
    with torch.no_grad():
        assert sqnr_db(speech(x), torch.from_numpy(output)) > FORMATS["tflite-int8"]
    assert measure_arena(content, "speech").needed_bytes < 40_000


def test_states_go_round(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Stream().eval()
    zeros = [torch.zeros(2, 1, 6), torch.zeros(2, 1, 6), torch.zeros(1, 1, 5)]
    path = export(model, (torch.zeros(1, 4, 4), *zeros), ["tflite"], tmp_path)["tflite"]
    interpreter, states = open_tflite(path.read_bytes()), zeros
    whole = torch.randn(1, 12, 4)
    parts = []
    for start in (0, 4, 8):
        invoke(interpreter, [whole[:, start : start + 4], *states])
        part, *states = (value_of(interpreter, detail).clone() for detail in interpreter.get_output_details())
        parts.append(part)
    with torch.no_grad():
        expected, *last = model(whole, *zeros)
    for want, got in zip([expected, *last], [torch.cat(parts, 1), *states], strict=True):
        assert sqnr_db(want, got) > 90


def test_unrolled_steps_are_counted(tmp_path: Path) -> None:
    path = export(Steps().eval(), (torch.zeros(1, 7, 3),), ["tflite"], tmp_path)["tflite"]
    (note,) = read_metadata(path)["notes"]
    assert "7 steps of nn.LSTMCell were unrolled" in note
    assert f"{sum(operators(path).values())} operators" in note
    assert "nn.LSTM over the whole sequence" in note


def test_only_what_is_stored_is_kept_whole() -> None:
    """Without the converter: computed weights are left to it, stored ones are not."""

    def captured(model: nn.Module) -> torch.fx.GraphModule:
        module = torch.export.export(model.eval(), (torch.zeros(1, 5, 4),)).module()
        assert isinstance(module, torch.fx.GraphModule)
        return module

    stored = captured(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True))
    assert keep_recurrent_layers(stored) == 1
    assert sum(node.target is PLACEHOLDER for node in stored.graph.nodes) == 4
    assert not unrolled(stored.graph)
    computed = captured(nn.utils.parametrizations.weight_norm(nn.GRU(4, 3, batch_first=True), "weight_hh_l0"))
    assert keep_recurrent_layers(computed) == 0
    assert unrolled(computed.graph) == {"GRU": 1}
