"""What a model file holds is told by its content, before any device is asked."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.bench import bench
from edgeprune.bench.content import require_content
from edgeprune.errors import InputError
from edgeprune.testing.models import dense_tflite


def saved(value: object, **how: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **how)
    return stream.getvalue()


def traced() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2).eval(), torch.zeros(1, 3)), stream)
    return stream.getvalue()


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return stream.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 4


STATE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
STRANGERS = [
    (saved(STATE), ".pt", "state_dict", "load_state_dict"),
    (saved(STATE, _use_new_zipfile_serialization=False), ".pt", "", ""),
    (
        saved({"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {}}),
        ".pt",
        "a checkpoint .*model_state_dict",
        "load_state_dict",
    ),
    (saved(nn.Linear(3, 2)), ".pt", r"a pickled model of the class torch\.nn\.modules\.linear\.Linear", "torch.jit.trace"),
    (pickle.dumps({"a": 1}), ".pt", "a pickle", "torch.jit.trace"),
    (safetensors(), ".pt", "safetensors", "load_state_dict"),
    (archive("a/b.txt"), ".pt", "a zip archive that is not a model", "torch.jit.trace"),
    (b"PK\x03\x04cut off", ".pt", "a damaged zip archive", "torch.jit.trace"),
    (archive("archive/models/model.json"), ".pt", r"an exported program \(\.pt2\)", "torch.jit.trace"),
    (b"", ".pt", r"nothing \(it is empty\)", "torch.jit.trace"),
    (b"<!DOCTYPE html>\n<html><body>404", ".tflite", "an HTML page", "Download the model itself"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", ".onnx", "a git-lfs pointer", "Download the model itself"),
    (b'{"model": 1}', ".tflite", "text", "Download the model itself"),
    (b"hello\n", ".pt", "text", "Download the model itself"),
    (b"\0" * 64, ".tflite", "something else", "convert it"),
    (b"\x89HDF\r\n\x1a\n", ".tflite", "a Keras or HDF5 file", "convert it"),
    (b"\x08\x08\x12\x07pytorch\x1a\x03" + b"2.0" + b"\0" * 9, ".tflite", "an ONNX model", "--engine onnx"),
    (b"\x20\x00\x00\x00ET12" + b"\0" * 9, ".pt", "an ExecuTorch program", "--engine executorch"),
    (traced(), ".tflite", "a TorchScript module", "--engine torchscript"),
]


@pytest.mark.parametrize(("content", "suffix", "found", "remedy"), STRANGERS)
def test_what_the_engine_of_the_suffix_does_not_run_is_said_with_a_remedy(content, suffix, found, remedy, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"holds .*{found}") as caught:
        bench(path, "ssh://nobody@no-such-host.invalid")  # nothing is asked of it
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(("make", "engine"), [(traced, "torchscript"), (lambda: b"\x08\x07:rest", "onnx")])
def test_what_it_may_run_is_left_to_the_runtime(make, engine, tmp_path):
    path = tmp_path / f"model.{engine}"
    path.write_bytes(make())
    require_content(path, engine)


def test_a_tflite_file_under_another_suffix(tmp_path, weights):
    path = tmp_path / "model.onnx"
    path.write_bytes(dense_tflite(weights))
    with pytest.raises(InputError, match=r"model.onnx holds a TFLite file, and an ONNX model is needed"):
        require_content(path, "onnx")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "trapped",)

    path = tmp_path / "model.pt"
    path.write_bytes(saved(Trap()))
    with pytest.raises(InputError):
        require_content(path, "torchscript")
    assert not (tmp_path / "trapped").exists()
