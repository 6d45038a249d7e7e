"""A TorchScript file that holds one kernel and nothing else."""

from __future__ import annotations

import io
import json
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.cost.kernels import RECURRENT, Form, attention_heads, attention_places

INPUTS_FILE = "edgeprune.inputs.json"
"""The extra file of an archive that tells the runner the inputs' shapes: TorchScript itself does not hold them."""


class _Convolution(nn.Module):
    def __init__(self, form: Form, source: int, result: int) -> None:
        super().__init__()
        groups = result if form.kind == "depthwise_conv2d" else form.groups
        need = [max((o - 1) * s + w - i, 0) for o, s, w, i in zip(form.rows_out, form.stride, form.window, form.rows_in, strict=True)]
        padding = ((need[0] + 1) // 2, (need[1] + 1) // 2)
        self.conv = nn.Conv2d(source, result, form.window, form.stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x))


class _Transposed(nn.Module):
    def __init__(self, form: Form, source: int, result: int) -> None:
        super().__init__()
        whole = [(size - 1) * stride + window for size, stride, window in zip(form.rows_in, form.stride, form.window, strict=True)]
        over = [max(size - out, 0) for size, out in zip(whole, form.rows_out, strict=True)]
        padding = ((over[0] + 1) // 2, (over[1] + 1) // 2)
        self.conv = nn.ConvTranspose2d(source, result, form.window, form.stride, padding, groups=form.groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _Recurrent(nn.Module):
    """One direction of one recurrent layer."""

    def __init__(self, form: Form, source: int, result: int) -> None:
        super().__init__()
        kind, gates = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3), "rnn": (nn.RNN, 1)}[form.kind]
        hidden = max(result // gates, 1)
        self.layer = kind(max(source - hidden, 1), hidden, batch_first=True)

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
    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        form = self.form
        if form.kind == "mean":
            return x.mean((2, 3), keepdim=True)
        if form.kind == "max_pool":
            return functional.max_pool2d(x, form.window, form.stride)
        if form.kind == "avg_pool":
            return functional.avg_pool2d(x, form.window, form.stride)
        if form.kind == "hard_swish":
            return functional.hardswish(x)
        if form.kind == "sigmoid":
            return torch.sigmoid(x)
        if form.kind == "strided_slice":
            (high, wide), (down, right) = form.rows_out, form.stride
            return x[:, :, : (high - 1) * down + 1 : down, : (wide - 1) * right + 1 : right]
        if form.kind == "mul":
            return x * x
        if form.kind == "concat":
            half = max(x.shape[1] // 2, 1)
            return torch.cat([x[:, :half], x[:, half:]], 1)
        return x + x


def single_torchscript(form: Form, source: int, result: int) -> bytes:
    """The kernel ``form`` from ``source`` to ``result`` channels as a frozen TorchScript file, float32, NCHW, batch 1."""
    if form.kind == "fully_connected":
        module: nn.Module = nn.Linear(source, result)
        example: Tensor | tuple[Tensor, ...] = torch.zeros(form.rows_in[0] * form.rows_in[1], source)
    elif form.kind in RECURRENT:
        module = _Recurrent(form, source, result)
        example = torch.zeros(1, form.rows_in[0] * form.rows_in[1], module.layer.input_size)
    elif form.kind.startswith("attention"):
        queries, keys = attention_places(form)
        heads, size = attention_heads(form, result)
        module, example = _Attention(heads, size), (torch.zeros(queries, heads * size), torch.zeros(keys, heads * size))
    elif form.kind == "layer_norm":
        module, example = nn.LayerNorm(result), torch.zeros(1, form.rows_in[0] * form.rows_in[1], result)
    elif form.kind == "transpose_conv2d":
        module, example = _Transposed(form, source, result), torch.zeros(1, source, *form.rows_in)
    elif form.kind in ("conv2d", "depthwise_conv2d"):
        module, example = _Convolution(form, source, result), torch.zeros(1, source, *form.rows_in)
    else:
        module, example = _Elementwise(form), torch.zeros(1, result, *form.rows_in)
    buffer = io.BytesIO()
    examples = example if isinstance(example, tuple) else (example,)
    inputs = json.dumps([{"shape": list(value.shape), "dtype": "float32"} for value in examples])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(module.eval(), examples, check_trace=False))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={INPUTS_FILE: inputs})
    return buffer.getvalue()
