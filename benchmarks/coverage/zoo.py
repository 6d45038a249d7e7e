"""Small models of every kind that torchvision and timm do not have: recurrent, text, audio, sensors, Keras, dense prediction."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Built = tuple[nn.Module, tuple[Any, ...]]
WORDS = 200


class Recurrent(nn.Module):
    """A sequence classifier: (N, T, features), or (T, N, features) unless ``batch_first``, to (N, 6)."""

    def __init__(self, kind: str, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(9, 32, batch_first=batch_first, **options)
        self.time = 1 if batch_first else 0
        width = (options.get("proj_size") or 32) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.recurrent(x)
        scores: Tensor = self.head(outputs.select(self.time, -1))
        return scores


class TextLstm(nn.Module):
    """Embedding, two LSTM layers, the mean over time: (N, T) word numbers to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24)
        self.lstm = nn.LSTM(24, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.head(self.lstm(self.embedding(words))[0].mean(1))
        return scores


class Encoder(nn.Module):
    """nn.TransformerEncoder over embedded words: (N, T) to (N, 4)."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32)
        self.positions = nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(self.embedding(words) + self.positions).mean(1))
        return scores


class UNet(nn.Module):
    """Two levels, transposed convolutions upwards, concatenated skips: (N, 3, H, W) to (N, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _double(3, 16), _double(16, 32), _double(32, 64)
        self.up2, self.level2 = nn.ConvTranspose2d(64, 32, 2, 2), _double(64, 32)
        self.up1, self.level1 = nn.ConvTranspose2d(32, 16, 2, 2), _double(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        x = self.level2(torch.cat([self.up2(self.bottom(functional.max_pool2d(two, 2))), two], 1))
        scores: Tensor = self.head(self.level1(torch.cat([self.up1(x), one], 1)))
        return scores


def _double(source: int, result: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, result, 3, 1, 1, bias=False),
        nn.BatchNorm2d(result),
        nn.ReLU(),
        nn.Conv2d(result, result, 3, 1, 1, bias=False),
        nn.BatchNorm2d(result),
        nn.ReLU(),
    )


def har_cnn() -> nn.Module:
    """A one-dimensional network over windows of inertial sensors: (N, 6, 128) to (N, 6)."""
    layers: list[nn.Module] = []
    for source, result in ((6, 32), (32, 64), (64, 64)):
        layers += [nn.Conv1d(source, result, 5, padding=2), nn.BatchNorm1d(result), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 6))


def ds_cnn() -> nn.Module:
    """Keyword spotting on 49 x 10 MFCCs, after DS-CNN small (Zhang et al., 2017): (N, 1, 49, 10) to (N, 12)."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def normed(norm: str) -> nn.Module:
    """Convolutions under ``GroupNorm`` or ``InstanceNorm2d``: (N, 3, H, W) to (N, 5)."""

    def layer(width: int) -> nn.Module:
        return nn.GroupNorm(4, width) if norm == "GroupNorm" else nn.InstanceNorm2d(width, affine=True)

    layers = [nn.Conv2d(3, 32, 3, 1, 1), layer(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), layer(64), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 64, 3, 1, 1), layer(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))


class Tcn(nn.Module):
    """A temporal network of causal, dilated, residual blocks: (N, 9, 64) to (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(9, 24, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Conv1d(24, 48, 3, dilation=step), nn.Conv1d(48, 24, 3, dilation=step)]) for step in (1, 2, 4)
        )
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step, (wide, narrow) in zip((1, 2, 4), self.blocks, strict=True):  # type: ignore[misc]
            y = functional.relu(wide(functional.pad(x, (2 * step, 0))))
            x = functional.relu(x + narrow(functional.pad(y, (2 * step, 0))))
        scores: Tensor = self.head(x[:, :, -1])
        return scores


def hugging_face(kind: str) -> Built:
    """A small transformer of that kind, from a configuration."""
    import transformers as hf

    words = (torch.randint(1, WORDS, (1, 16)),)
    common = {"vocab_size": WORDS, "max_position_embeddings": 32}
    if kind == "bert":
        config = hf.BertConfig(**common, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
        return hf.BertForSequenceClassification(config), words
    if kind == "distilbert":
        return hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**common, dim=64, n_layers=2, n_heads=4, hidden_dim=128)), words
    if kind == "vit":
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10)), (torch.randn(1, 3, 32, 32),)
    if kind == "whisper":
        return WhisperClassifier(), (torch.randn(1, 16, 64),)
    config = hf.LlamaConfig(
        **common,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=128,
        use_cache=False,
    )
    return hf.LlamaForCausalLM(config), words


class WhisperClassifier(nn.Module):
    """Whisper's encoder over 16 mel bands with a linear head: (N, 16, 64) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = WhisperConfig(
            d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128, num_mel_bins=16, max_source_positions=32
        )
        self.encoder = WhisperEncoder(config)
        self.head = nn.Linear(64, 5)

    def forward(self, mel: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(mel).last_hidden_state.mean(1))
        return scores


def keras_cnn() -> Built:
    """Keras on the torch backend: depthwise and residual convolutions under batch norms, (N, 32, 32, 3) to (N, 10)."""
    layers = _keras().layers
    inputs = layers.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    y = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Conv2D(32, 3, padding="same")(x)))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return _keras().Model(inputs, outputs), (torch.randn(1, 32, 32, 3),)


def keras_lstm() -> Built:
    """Keras on the torch backend: an LSTM over sensor windows, (N, 32, 6) to (N, 5)."""
    layers = _keras().layers
    inputs = layers.Input((32, 6))
    return _keras().Model(inputs, layers.Dense(5)(layers.LSTM(24)(inputs))), (torch.randn(1, 32, 6),)


def keras_attention() -> Built:
    """Keras on the torch backend: one transformer layer, (N, 16, 24) to (N, 5)."""
    layers = _keras().layers
    inputs = layers.Input((16, 24))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(4, 6)(inputs, inputs))
    x = layers.LayerNormalization()(x + layers.Dense(24)(layers.Dense(48, activation="gelu")(x)))
    return _keras().Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x))), (torch.randn(1, 16, 24),)


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    return keras


def _recurrent(kind: str, **options: Any) -> Callable[[], Built]:
    shape = (1, 32, 9) if options.get("batch_first", True) else (32, 1, 9)
    return lambda: (Recurrent(kind, **options), (torch.randn(shape),))


def _of(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Built]:
    return lambda: (make(), (torch.randn(shape),))


def _text(make: Callable[[], nn.Module]) -> Callable[[], Built]:
    return lambda: (make(), (torch.randint(0, WORDS, (1, 16)),))


ZOO: dict[str, Callable[[], Built]] = {
    "lstm": _recurrent("LSTM"),
    "lstm_2_layers": _recurrent("LSTM", num_layers=2),
    "lstm_bidirectional_2_layers": _recurrent("LSTM", num_layers=2, bidirectional=True),
    "lstm_projected": _recurrent("LSTM", num_layers=2, proj_size=16),
    "lstm_time_first": _recurrent("LSTM", batch_first=False),
    "gru": _recurrent("GRU"),
    "gru_bidirectional_time_first": _recurrent("GRU", bidirectional=True, batch_first=False),
    "gru_2_layers": _recurrent("GRU", num_layers=2),
    "rnn": _recurrent("RNN"),
    "rnn_bidirectional_2_layers": _recurrent("RNN", num_layers=2, bidirectional=True),
    "text_lstm": _text(TextLstm),
    "transformer_encoder": _text(Encoder),
    "transformer_encoder_norm_first": _text(lambda: Encoder(norm_first=True)),
    "hf_bert": lambda: hugging_face("bert"),
    "hf_distilbert": lambda: hugging_face("distilbert"),
    "hf_vit": lambda: hugging_face("vit"),
    "hf_whisper_encoder": lambda: hugging_face("whisper"),
    "hf_llama": lambda: hugging_face("llama"),
    "keras_cnn": keras_cnn,
    "keras_lstm": keras_lstm,
    "keras_attention": keras_attention,
    "unet": _of(UNet, 1, 3, 32, 32),
    "har_cnn": _of(har_cnn, 1, 6, 128),
    "ds_cnn": _of(ds_cnn, 1, 1, 49, 10),
    "group_norm": _of(lambda: normed("GroupNorm"), 1, 3, 16, 16),
    "instance_norm": _of(lambda: normed("InstanceNorm2d"), 1, 3, 16, 16),
    "tcn": _of(Tcn, 1, 9, 64),
}
"""A name to a function that builds the model with random weights and its example inputs."""
