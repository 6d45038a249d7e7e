"""What a file is said to need, against tflite-runtime 2.14, the last of its name: in an environment of its own, for its numpy 1."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.export import ExportOptions, export
from edgeprune.export.quantize import quantize
from edgeprune.tflite.interpreter import invoke, open_tflite
from edgeprune.tflite.versions import minimum_runtime

RUNTIME = "tflite-runtime==2.14.0"
OLD = Version("2.14")
NEAR = 0.1
"""Of the largest output: kernels round in their own ways, and those that are wrong give zeros or nonsense."""
PYTHON = "EDGEPRUNE_TFLITE_RUNTIME_PYTHON"
"""A Python that has it; else it is installed, where pip finds it."""

RUN = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
given = np.load(sys.argv[2])
for place, detail in enumerate(interpreter.get_input_details()):
    interpreter.set_tensor(detail["index"], given[f"arr_{place}"])
interpreter.invoke()
np.savez(sys.argv[3], *(interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()))
"""


@pytest.fixture(scope="session")
def old_python(tmp_path_factory) -> str:
    if PYTHON in os.environ:
        return os.environ[PYTHON]
    folder = tmp_path_factory.mktemp("tflite-runtime")
    python = str(folder / "bin" / "python")
    for command in ([sys.executable, "-m", "venv", str(folder)], [python, "-m", "pip", "install", "-q", RUNTIME, "numpy<2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{RUNTIME} cannot be installed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return python


def image(*size: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(*size)


class Of(nn.Module):
    """A linear layer, what ``apply`` does with its output, and a linear layer: quantized on both sides."""

    def __init__(self, apply: Callable[..., Tensor], channels: int = 8, *, convolution: bool = False) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, channels, 1) if convolution else nn.Linear(8, channels)
        self.apply_ = apply
        self.after = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.apply_(self.before(x)).flatten(1).float())


def vector(apply: Callable[..., Tensor]) -> tuple[Callable[[], nn.Module], Callable[[], Tensor]]:
    return lambda: Of(apply), image(1, 6, 8)


def maps(apply: Callable[..., Tensor] | nn.Module) -> tuple[Callable[[], nn.Module], Callable[[], Tensor]]:
    return lambda: Of(apply, convolution=True), image(1, 3, 8, 8)


torch.manual_seed(0)
MASK = torch.triu(torch.full((6, 6), float("-inf")), 1)
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    # convolutions
    "conv": maps(nn.Conv2d(8, 8, 3, padding=1)),
    "conv dilated": maps(nn.Conv2d(8, 8, 3, padding=2, dilation=2)),
    "conv grouped": maps(nn.Conv2d(8, 8, 3, groups=2)),
    "conv depthwise": maps(nn.Conv2d(8, 8, 3, groups=8)),
    "conv depthwise multiplied": maps(nn.Conv2d(8, 16, 3, groups=8)),
    "conv 1-D": vector(nn.Conv1d(6, 4, 3)),
    "conv transposed": maps(nn.ConvTranspose2d(8, 4, 2, 2)),
    "conv transposed without bias": maps(nn.ConvTranspose2d(8, 4, 2, 2, bias=False)),
    "conv transposed 1-D": vector(nn.ConvTranspose1d(6, 4, 2, 2)),
    "conv 3-D": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 2, 1)), image(1, 2, 5, 5, 5)),
    # matrices
    "matmul": vector(lambda x: x @ x.transpose(1, 2)),
    "attention": vector(lambda x: F.scaled_dot_product_attention(x, x, x)),
    "attention causal": vector(lambda x: (x @ x.transpose(1, 2) + MASK).softmax(-1) @ x),
    "multi-head attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), image(1, 6, 8)),
    "einsum": vector(lambda x: torch.einsum("bij,bkj->bik", x, x)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 4)), lambda: torch.randint(0, 20, (1, 6))),
    "gru": (lambda: Recurrent(nn.GRU(8, 6, batch_first=True)), image(1, 4, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM(8, 6, batch_first=True)), image(1, 4, 8)),
    "rnn": (lambda: Recurrent(nn.RNN(8, 6, batch_first=True)), image(1, 4, 8)),
    # norms
    "batch norm": maps(nn.BatchNorm2d(8)),
    "layer norm": vector(nn.LayerNorm(8)),
    "group norm": maps(nn.GroupNorm(2, 8)),
    "instance norm": maps(nn.InstanceNorm2d(8)),
    "normalize": vector(lambda x: F.normalize(x, dim=-1)),
    "rms": vector(lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()),
    # activations
    **{
        name: vector(getattr(F, name.replace(" ", "_")))
        for name in (
            "relu",
            "relu6",
            "elu",
            "gelu",
            "silu",
            "mish",
            "hardswish",
            "hardsigmoid",
            "softplus",
            "leaky relu",
            "softsign",
            "selu",
        )
    },
    "prelu": maps(nn.PReLU(8)),
    "hardtanh": vector(nn.Hardtanh(-0.5, 0.5)),
    "softmax": vector(lambda x: x.softmax(-1)),
    "log softmax": vector(lambda x: x.log_softmax(-1)),
    "glu": vector(lambda x: F.glu(x, -1)),
    # arithmetic
    **{
        name: vector(getattr(torch, name))
        for name in ("abs", "neg", "exp", "sin", "cos", "tanh", "sigmoid", "square", "floor", "round", "sign")
    },
    "sqrt": vector(lambda x: (x.abs() + 0.1).sqrt()),
    "rsqrt": vector(lambda x: (x.abs() + 0.1).rsqrt()),
    "log": vector(lambda x: (x.abs() + 0.1).log()),
    "pow": vector(lambda x: x.abs().pow(1.7)),
    "reciprocal": vector(lambda x: (x.abs() + 1).reciprocal()),
    "add": vector(lambda x: x + x.flip(1)),
    "sub": vector(lambda x: x - x.roll(1, 1)),
    "mul": vector(lambda x: x * x.roll(1, 1)),
    "div": vector(lambda x: x / (x.abs().sum(-1, keepdim=True) + 1)),
    "div by number": vector(lambda x: x / 3),
    "maximum": vector(lambda x: torch.maximum(x, x.flip(1))),
    "minimum": vector(lambda x: torch.minimum(x, x.flip(1))),
    "clamp": vector(lambda x: x.clamp(-0.3, 0.4)),
    "squared difference": vector(lambda x: (x - x.mean(1, keepdim=True)).square()),
    "cumsum": vector(lambda x: x.cumsum(1)),
    # reductions
    "mean": maps(lambda x: x.mean((2, 3))),
    "sum": vector(lambda x: x.sum(1)),
    "amax": vector(lambda x: x.amax(1)),
    "amin": vector(lambda x: x.amin(1)),
    "prod": vector(lambda x: x.prod(1)),
    "std": vector(lambda x: x.std(1)),
    "argmax": vector(lambda x: x + x.argmax(1, keepdim=True)),
    # pooling and resizing
    "max pool": maps(lambda x: F.max_pool2d(x, 3, 2, 1)),
    "average pool": maps(lambda x: F.avg_pool2d(x, 2)),
    "average pool padded": maps(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "adaptive pool": maps(lambda x: F.adaptive_avg_pool2d(x, 2)),
    "nearest": maps(lambda x: F.interpolate(x, scale_factor=2)),
    "bilinear": maps(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear aligned": maps(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "pixel shuffle": maps(lambda x: F.pixel_shuffle(x, 2)),
    "pixel unshuffle": maps(lambda x: F.pixel_unshuffle(x, 2)),
    # moves
    "reflected": maps(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "replicated": maps(lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate")),
    "padded": maps(lambda x: F.pad(x, (1, 1, 1, 1), value=0.5)),
    "cat": maps(lambda x: torch.cat([x, x.relu()], 1)),
    "stack": vector(lambda x: torch.stack([x, x.relu()], 1)),
    "split": vector(lambda x: torch.cat(x.split(2, 1)[1:], 1)),
    "unbind": vector(lambda x: x.unbind(1)[2]),
    "strided": vector(lambda x: x[:, ::2]),
    "flip": vector(lambda x: x.flip(1)),
    "tile": vector(lambda x: x.repeat(1, 2, 1)),
    "expand": vector(lambda x: x[:, :1].expand(-1, 3, -1)),
    "five dimensions": vector(lambda x: x.view(1, 2, 3, 4, 2).permute(0, 3, 1, 4, 2)),
    "six dimensions": vector(lambda x: x.view(1, 2, 3, 2, 2, 2).permute(0, 3, 1, 4, 2, 5)),
    "gather": vector(lambda x: x.gather(1, x.argmax(1, keepdim=True))),
    "index select": vector(lambda x: x[:, [0, 3, 5]]),
    "where": vector(lambda x: torch.where(x > 0, x, x * 0.1)),
    "masked fill": vector(lambda x: x.masked_fill(x > 0.2, 0.0)),
    "comparisons": vector(lambda x: (x > 0).float() + (x <= 0.1).float() + (x == 0).float() + (x != 1).float()),
    "logic": vector(lambda x: ((x > 0) & ~(x > 1)).float()),
    "one hot": vector(lambda x: F.one_hot(x.argmax(1), 6).float()),
    "triu": vector(lambda x: x.triu()),
}


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def runs(python: str, content: bytes, inputs: list[np.ndarray], folder: Path) -> list[np.ndarray] | str:
    """The outputs, or why there are none."""
    path, given, made = folder / "model.tflite", folder / "given.npz", folder / "made.npz"
    path.write_bytes(content)
    np.savez(given, *inputs)
    done = subprocess.run([python, "-c", RUN, str(path), str(given), str(made)], capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    with np.load(made) as held:
        return [held[name] for name in held.files]


def judged(python: str, content: bytes, inputs: list[np.ndarray], folder: Path) -> str:
    """What is wrong with what the file is said to need; nothing when it is right."""
    path = folder / "said.tflite"
    path.write_bytes(content)
    needed = minimum_runtime(path)
    interpreter = open_tflite(content)
    invoke(interpreter, [torch.from_numpy(value) for value in inputs])
    want = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    got = runs(python, content, inputs, folder)
    if isinstance(got, str):
        return "" if needed > OLD else f"said to need {needed}, and 2.14 says: {got}"
    near = all(np.allclose(a, b, rtol=0.0, atol=NEAR * max(1.0, float(np.abs(a).max()))) for a, b in zip(want, got, strict=True))
    if near:
        return "" if needed <= OLD else f"said to need {needed}, and 2.14 runs it"
    return "" if needed > OLD else f"said to need {needed}, and 2.14 computes something else"


def files_of(model: nn.Module, samples: list[tuple[Tensor, ...]], arrays: list[tuple[np.ndarray, ...]], folder: Path) -> dict[str, bytes]:
    """The model in every format, by name, "int8, integer" among them.  What has recurrent layers is exported, for their loops are put in
    last; of the rest what the quantizer makes is wanted whether or not it is near enough to be exported."""
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        kinds = {"tflite": "tflite", "fp16": "tflite-fp16", "dynamic": "tflite-dynamic", "int8": "tflite-int8"}
        made = export(model, samples[0], list(kinds.values()), folder, calibration=samples)
        integer = export(model, samples[0], ["tflite-int8"], folder, "integer", calibration=samples, options=ExportOptions(integer_io=True))
        return {kind: made[name].read_bytes() for kind, name in kinds.items()} | {"int8, integer": integer["tflite-int8"].read_bytes()}
    content = export(model, samples[0], ["tflite"], folder)["tflite"].read_bytes()
    files = {"tflite": content} | {
        kind: quantize(content, kind, arrays if kind == "int8" else None) for kind in ("fp16", "dynamic", "int8")
    }
    return files | {"int8, integer": quantize(content, "int8", arrays, integer_io=True)}


@pytest.mark.soak
@pytest.mark.parametrize("name", list(ZOO))
def test_every_format_of_a_layer_needs_what_it_says(name, old_python, tmp_path):
    make, example = ZOO[name]
    torch.manual_seed(0)
    samples = [(example(),) for _ in range(16)]
    with torch.no_grad():
        model = make().eval()
        model(*samples[0])
    arrays = [tuple(value.numpy() for value in sample) for sample in samples]
    arrays = [tuple(value.astype(np.int32) if value.dtype == np.int64 else value for value in sample) for sample in arrays]
    files = files_of(model, samples, arrays, tmp_path)
    found = {}
    for kind, made in files.items():
        given = [*arrays[0]]
        if kind == "int8, integer":
            given = [
                np.zeros(value.shape, detail["dtype"]) if value.dtype == np.float32 else value
                for value, detail in zip(given, open_tflite(made).get_input_details(), strict=True)
            ]
        if said := judged(old_python, made, given, tmp_path):
            found[kind] = said
    assert not found
