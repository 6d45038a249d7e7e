"""A TorchScript file that holds one kernel and nothing else."""

from __future__ import annotations

import io
import json
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.cost.kernels import RECURRENT, KernelSpec, attention_heads, attention_places

INPUTS_FILE = "edgeprune.inputs.json"
"""The extra file of an archive that gives the runner the inputs' shapes: TorchScript itself does not hold them."""


class _Convolution(nn.Module):
    def __init__(self, spec: KernelSpec, in_width: int, out_width: int) -> None:
        super().__init__()
        groups = out_width if spec.kind == "depthwise_conv2d" else spec.groups
        need = [max((o - 1) * s + w - i, 0) for o, s, w, i in zip(spec.rows_out, spec.stride, spec.window, spec.rows_in, strict=True)]
        padding = ((need[0] + 1) // 2, (need[1] + 1) // 2)
        self.conv = nn.Conv2d(in_width, out_width, spec.window, spec.stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x))


class _Transposed(nn.Module):
    def __init__(self, spec: KernelSpec, in_width: int, out_width: int) -> None:
        super().__init__()
        whole = [(size - 1) * stride + window for size, stride, window in zip(spec.rows_in, spec.stride, spec.window, strict=True)]
        over = [max(size - out, 0) for size, out in zip(whole, spec.rows_out, strict=True)]
        padding = ((over[0] + 1) // 2, (over[1] + 1) // 2)
        self.conv = nn.ConvTranspose2d(in_width, out_width, spec.window, spec.stride, padding, groups=spec.groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _Recurrent(nn.Module):
    """One direction of one recurrent layer."""

    def __init__(self, spec: KernelSpec, in_width: int, out_width: int) -> None:
        super().__init__()
        kind, gates = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3), "rnn": (nn.RNN, 1)}[spec.kind]
        hidden = max(out_width // gates, 1)
        self.layer = kind(max(in_width - hidden, 1), hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


class _Attention(nn.Module):
    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = (value.reshape(len(value), self.heads, self.size).transpose(0, 1)[None] for value in (q, k))
        return functional.scaled_dot_product_attention(q, k, k)[0].transpose(0, 1).flatten(1)


class _Elementwise(nn.Module):
    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        if spec.kind == "launches":
            for _ in range(x.shape[1]):
                x = functional.softmax(x, 1)
            return x
        if spec.kind == "mean":
            return x.mean((2, 3), keepdim=True)
        if spec.kind == "max_pool":
            return functional.max_pool2d(x, spec.window, spec.stride)
        if spec.kind == "avg_pool":
            return functional.avg_pool2d(x, spec.window, spec.stride)
        if spec.kind == "hard_swish":
            return functional.hardswish(x)
        if spec.kind == "sigmoid":
            return torch.sigmoid(x)
        if spec.kind == "strided_slice":
            (high, wide), (down, right) = spec.rows_out, spec.stride
            return x[:, :, : (high - 1) * down + 1 : down, : (wide - 1) * right + 1 : right]
        if spec.kind == "mul":
            return x * x
        if spec.kind == "concat":
            half = max(x.shape[1] // 2, 1)
            return torch.cat([x[:, :half], x[:, half:]], 1)
        return x + x


def kernel_module(spec: KernelSpec, in_width: int, out_width: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The kernel ``spec`` from ``in_width`` to ``out_width`` channels as a module, and inputs for it: float32, NCHW, batch 1."""
    if spec.kind == "fully_connected":
        module: nn.Module = nn.Linear(in_width, out_width)
        example: Tensor | tuple[Tensor, ...] = torch.zeros(spec.rows_in[0] * spec.rows_in[1], in_width)
    elif spec.kind in RECURRENT:
        module = _Recurrent(spec, in_width, out_width)
        example = torch.zeros(1, spec.rows_in[0] * spec.rows_in[1], module.layer.input_size)
    elif spec.kind.startswith("attention"):
        queries, keys = attention_places(spec)
        heads, size = attention_heads(spec, out_width)
        module, example = _Attention(heads, size), (torch.zeros(queries, heads * size), torch.zeros(keys, heads * size))
    elif spec.kind == "layer_norm":
        module, example = nn.LayerNorm(out_width), torch.zeros(1, spec.rows_in[0] * spec.rows_in[1], out_width)
    elif spec.kind == "transpose_conv2d":
        module, example = _Transposed(spec, in_width, out_width), torch.zeros(1, in_width, *spec.rows_in)
    elif spec.kind in ("conv2d", "depthwise_conv2d"):
        module, example = _Convolution(spec, in_width, out_width), torch.zeros(1, in_width, *spec.rows_in)
    else:
        module, example = _Elementwise(spec), torch.zeros(1, out_width, *spec.rows_in)
    return module.eval(), example if isinstance(example, tuple) else (example,)


def single_torchscript(spec: KernelSpec, in_width: int, out_width: int) -> bytes:
    """The kernel ``spec`` from ``in_width`` to ``out_width`` channels as a frozen TorchScript file, float32, NCHW, batch 1."""
    module, examples = kernel_module(spec, in_width, out_width)
    buffer = io.BytesIO()
    inputs = json.dumps([{"shape": list(value.shape), "dtype": "float32"} for value in examples])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(module, examples, check_trace=False))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={INPUTS_FILE: inputs})
    return buffer.getvalue()
