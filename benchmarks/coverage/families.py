"""Families of the ``transformers`` library, each built small from its configuration: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...]]
WORDS, PLACES = 200, 16

SIZES: dict[str, Any] = {
    "vocab_size": WORDS, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64, "pad_token_id": 0,
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64, "n_embed": 64, "embedding_size": 64, "emb_dim": 64,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_layers": 2, "decoder_num_hidden_layers": 2,
    "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "decoder_num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "rotary_dim": 8,
    "intermediate_size": 128, "d_ff": 128, "dff": 128, "hidden_dim": 128, "n_inner": 128, "ffn_dim": 128, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "d_inner": 128, "decoder_intermediate_size": 128, "decoder_hidden_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
"""What configurations call their sizes: each takes those that it has as a single number."""


class Answer(nn.Module):
    """A model of the library called by keyword; where it gives features a linear layer on their mean, (N, ...) to (N, 5)."""

    def __init__(self, net: nn.Module, names: tuple[str, ...], features: int | None, options: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.names, self.options = net, names, options
        self.head = nn.Linear(features, 5) if features else None

    def forward(self, *values: Tensor) -> Tensor:
        result = self.net(**dict(zip(self.names, values, strict=True)), **self.options)
        first: Tensor = result if isinstance(result, Tensor) else result[0]
        if self.head is None:
            return first
        answer: Tensor = self.head(first.mean((2, 3)) if first.dim() == 4 else first.mean(1))
        return answer


def _words() -> Tensor:
    return torch.randint(1, WORDS, (1, PLACES))


def _normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(1, *shape)


Inputs = dict[str, Callable[[], Tensor]]
TEXT: Inputs = {"input_ids": _words}
PAIR: Inputs = {"input_ids": _words, "decoder_input_ids": _words}
IMAGE: Inputs = {"pixel_values": _normal(3, 32, 32)}
LARGER: Inputs = {"pixel_values": _normal(3, 64, 64)}
VIDEO: Inputs = {"pixel_values": _normal(4, 3, 32, 32)}
WAVE: Inputs = {"input_values": _normal(1600)}
MEL: Inputs = {"input_features": _normal(16, 64), "decoder_input_ids": _words}
SERIES: Inputs = {"past_values": _normal(32, 3)}

Row = tuple[str, Inputs, int | None, dict[str, Any]]
"""The class, its inputs, how wide the features are that it gives (None: it gives an answer), and sizes of its own."""


def _named(template: str, inputs: Inputs, features: int | None, names: str, **own: Any) -> dict[str, Row]:
    """A row for every one of the class names that ``template`` makes of ``names``."""
    return {name.lower(): (template.format(name), inputs, features, own) for name in names.split()}


STAGES: dict[str, Any] = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
PYRAMID: dict[str, Any] = {"hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 2, 4], "depths": [1, 1, 1, 1], "image_size": 64}
WINDOWS: dict[str, Any] = {
    "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4, "image_size": 64
}  # fmt: skip
SPEECH: dict[str, Any] = {
    "conv_dim": (16, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0, "apply_spec_augment": False, "squeeze_factor": 2,
}  # fmt: skip
PATCHES: dict[str, Any] = {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_targets": 4}
PART: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWERS: dict[str, Any] = {"text_config": {**PART, "vocab_size": WORDS}, "vision_config": {**PART, "image_size": 32, "patch_size": 8}}

FAMILIES: dict[str, Row] = {
    **_named(
        "{}ForCausalLM", TEXT, None,
        "Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Gemma3 Phi Phi3 GPTNeoX GPTJ OPT Bloom Falcon Mpt Olmo Olmo2 Olmo3 StableLm Starcoder2 "
        "Cohere Cohere2 Granite Glm Glm4 SmolLM3 CodeGen BioGpt XGLM Mamba FalconMamba Rwkv Persimmon Exaone4 Helium Nemotron Ernie4_5 "
        "HunYuanDenseV1 Arcee Apertus RecurrentGemma BitNet Lfm2 DiffLlama ModernBertDecoder GPTBigCode NanoChat Mixtral Ministral "
        "VaultGemma SeedOss Doge Git",
    ),
    **_named(
        "{}ForCausalLM", TEXT, None, "Olmoe Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    **_named("{}ForCausalLM", TEXT, None, "GptOss GraniteMoe", num_local_experts=4, num_experts_per_tok=2),
    "gptneo": ("GPTNeoForCausalLM", TEXT, None, {"attention_types": [[["global", "local"], 1]], "window_size": 8}),
    **_named("{}LMHeadModel", TEXT, None, "GPT2 CTRL OpenAIGPT"),
    **_named(
        "{}Model", TEXT, 64,
        "Bert Albert Roberta Electra Deberta DebertaV2 DistilBert MPNet ConvBert FNet BigBird Longformer Nystromformer XLM XLNet "
        "Ernie Camembert Esm RemBert LayoutLM ModernBert EuroBert NomicBert RoFormer MegatronBert IBert Splinter Data2VecText Mra "
        "XLMRoberta RobertaPreLayerNorm Flaubert Funnel LongT5Encoder T5Encoder UMT5Encoder Canine Tapas MarkupLM RoCBert SqueezeBert",
    ),
    **_named("{}Model", TEXT, 64, "MobileBert", intra_bottleneck_size=32, true_hidden_size=32, num_feedforward_networks=2),
    **_named(
        "{}ForConditionalGeneration", PAIR, None,
        "T5 MT5 UMT5 Bart MBart Pegasus Blenderbot BlenderbotSmall M2M100 LongT5 ProphetNet SwitchTransformers FSMT BigBirdPegasus "
        "PegasusX PLBart Mvp",
    ),
    **_named("{}MTModel", PAIR, None, "Marian"),
    **_named("{}ForConditionalGeneration", MEL, None, "Whisper", num_mel_bins=16, max_source_positions=32),
    **_named(
        "{}Model", IMAGE, 64,
        "ViT DeiT Dinov2 Dinov2WithRegisters DINOv3ViT ViTMSN IJepa Beit Data2VecVision SiglipVision CLIPVision MLCDVision "
        "Aimv2Vision VitDet Pixio",
    ),
    **_named("{}ForPreTraining", IMAGE, None, "ViTMAE"),
    **_named("{}ForObjectDetection", IMAGE, None, "Yolos", image_size=[32, 32], num_detection_tokens=10),
    **_named("{}ForObjectDetection", LARGER, None, "Detr ConditionalDetr TableTransformer DeformableDetr", num_queries=10),
    **_named(
        "{}ForDepthEstimation", IMAGE, None, "DPT",
        num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32,
    ),
    **_named("{}ForSemanticSegmentation", LARGER, None, "Segformer", **PYRAMID),
    **_named("{}ForDepthEstimation", LARGER, None, "GLPN", **PYRAMID),
    **_named("{}ForImageClassification", LARGER, None, "Pvt PvtV2", **PYRAMID),
    **_named("{}Model", LARGER, 64, "Swin Swinv2 DonutSwin", **WINDOWS),
    **_named("{}ForImageSuperResolution", IMAGE, None, "Swin2SR", **{**WINDOWS, "image_size": 32, "patch_size": 1}),
    **_named("{}Model", LARGER, 64, "ConvNext ConvNextV2 DINOv3ConvNext", **STAGES),
    **_named("{}Model", LARGER, 64, "ResNet", embedding_size=16, layer_type="basic", **STAGES),
    **_named("{}Model", LARGER, 64, "RegNet", embedding_size=16, groups_width=8, **STAGES),
    **_named("{}Model", LARGER, 64, "Bit", embedding_size=16, num_groups=4, **STAGES),
    **_named("{}ForImageClassification", LARGER, None, "MobileNetV1 MobileNetV2 TextNet HGNetV2"),
    **_named(
        "{}ForImageClassification", LARGER, None, "MobileViT",
        hidden_sizes=[48, 64, 80], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 96], patch_size=2, image_size=64,
    ),
    **_named("{}ForImageClassification", LARGER, None, "MobileViTV2", patch_size=2, image_size=64, width_multiplier=0.5),
    **_named("{}ForImageClassification", LARGER, None, "SwiftFormer", image_size=64, embed_dims=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    **_named(
        "{}ForImageClassification", LARGER, None, "Hiera", image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]
    ),
    **_named("{}ForVideoClassification", VIDEO, None, "Timesformer", num_frames=4),
    **_named("{}ForVideoClassification", VIDEO, None, "Vivit", num_frames=4, tubelet_size=[2, 8, 8]),
    **_named(
        "{}Model", WAVE, 64, "Wav2Vec2 Hubert SEW SEWD WavLM UniSpeech UniSpeechSat Wav2Vec2Conformer Data2VecAudio", **SPEECH
    ),
    **_named("{}Model", {"input_features": _normal(24, 32)}, 64, "Wav2Vec2Bert", feature_projection_input_dim=32),
    **_named("{}Model", {"input_values": _normal(64, 32)}, 64, "AST", max_length=64, num_mel_bins=32),
    **_named("{}HifiGan", {"spectrogram": _normal(16, 20)}, None, "SpeechT5", model_in_dim=20, upsample_initial_channel=32),
    **_named("{}ForClassification", SERIES, None, "PatchTST", use_cls_token=True, **PATCHES),
    **_named("{}ForTimeSeriesClassification", SERIES, None, "PatchTSMixer", **PATCHES),
    **_named("{}Model", TEXT | IMAGE, None, "CLIP Siglip", **TOWERS),
    **_named("{}Model", TEXT | IMAGE, 64, "Vilt"),
}  # fmt: skip


def build(name: str) -> Built:
    """The model of that name in :data:`FAMILIES`, with random weights, and its inputs."""
    import transformers

    kind, inputs, features, own = FAMILIES[name]
    made = getattr(transformers, kind)
    known = made.config_class().to_dict()
    sizes = {size: value for size, value in SIZES.items() if size in known and isinstance(known[size], (int, type(None)))}
    net = made(made.config_class(**{**sizes, **own}))
    options = {"use_cache": False} if hasattr(net.config, "use_cache") else {}
    return Answer(net, tuple(inputs), features, options), tuple(make() for make in inputs.values())
