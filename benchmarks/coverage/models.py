"""The models of the coverage benchmark: how each is built with random weights, and what it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.graph import Analysis
from edgeprune.surgery import Pruned, apply, plan_from_saliency

Built = tuple[nn.Module, tuple[Any, ...]]
"""A model and its positional example inputs, a batch of 1."""

TIMM = [
    "resnet18",
    "resnest14d",
    "res2net50_14w_8s",
    "regnetx_002",
    "regnety_002",
    "tf_efficientnet_b0",
    "tinynet_e",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "mobilenetv4_hybrid_medium_075",
    "mnasnet_small",
    "ghostnet_050",
    "ghostnetv2_100",
    "hrnet_w18_small",
    "dla46x_c",
    "densenet121",
    "inception_v4",
    "xception41",
    "dm_nfnet_f0",
    "eca_nfnet_l0",
    "ese_vovnet19b_slim",
    "cspresnet50",
    "cspdarknet53",
    "dpn48b",
    "skresnet18",
    "seresnext26d_32x4d",
    "repvgg_a0",
    "rexnet_100",
    "hgnetv2_b0",
    "convnext_atto",
    "convnextv2_atto",
    "inception_next_atto",
    "convmixer_768_32",
    "fasternet_t0",
    "starnet_s1",
    "rdnet_tiny",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "pvt_v2_b0",
    "twins_pcpvt_small",
    "twins_svt_small",
    "levit_128s",
    "mixer_s32_224",
    "resmlp_12_224",
    "gmlp_s16_224",
    "poolformer_s12",
    "caformer_s18",
    "coatnet_pico_rw_224",
    "maxvit_pico_rw_256",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "fastvit_t8",
    "repvit_m0_9",
    "tiny_vit_5m_224",
    "xcit_nano_12_p16_224",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "davit_tiny",
    "focalnet_tiny_srf",
    "crossvit_tiny_240",
    "mvitv2_tiny",
    "visformer_tiny",
    "pit_ti_224",
    "nest_tiny",
    "sequencer2d_s",
    "hiera_tiny_224",
]
"""The smallest variant of every family."""

SIZES = {"inception_v3": (3, 299, 299), "s3d": (3, 16, 224, 224), "mvit_v1_b": (3, 16, 224, 224), "mvit_v2_s": (3, 16, 224, 224)}
"""Where a family's size is not legal or not usual."""

BY_FAMILY = {"classification": (3, 224, 224), "segmentation": (3, 224, 224), "video": (3, 16, 112, 112)}
DETECTION_SIZE, FLOW_SIZE = 320, 128


@dataclass(frozen=True)
class Case:
    """One model. ``family``: the table it stands in. ``build`` makes it with random weights, before :func:`awake`."""

    name: str
    family: str
    build: Callable[[], Built]


def torchvision_cases() -> list[Case]:
    """Every model that torchvision lists, but the quantized ones."""
    from torchvision import models

    modules = {
        "classification": models,
        "segmentation": models.segmentation,
        "detection": models.detection,
        "video": models.video,
        "optical flow": models.optical_flow,
    }
    return [
        Case(name, family, lambda name=name, family=family: _torchvision(name, family))  # type: ignore[misc]
        for family, module in modules.items()
        for name in models.list_models(module=module)
    ]


def timm_cases() -> list[Case]:
    """The smallest variant of every family named in ``TIMM``."""
    return [Case(f"timm/{name}", "timm", lambda name=name: _timm(name)) for name in TIMM]  # type: ignore[misc]


def zoo_cases() -> list[Case]:
    """Recurrent networks, Keras models and the shapes of :mod:`coverage_zoo`."""
    from benchmarks.coverage.zoo import ZOO

    return [Case(f"zoo/{name}", "zoo", build) for name, build in ZOO.items()]


def transformers_cases() -> list[Case]:
    """Families of Hugging Face's library."""
    from benchmarks.coverage.families import FAMILIES, build

    return [Case(f"transformers/{name}", "transformers", partial(build, name)) for name in FAMILIES]


def find_case(name: str) -> Case:
    """The case of that name; raises ``KeyError`` for an unknown one."""
    suites = {"timm": timm_cases, "zoo": zoo_cases, "transformers": transformers_cases}
    cases = suites.get(name.partition("/")[0], torchvision_cases)
    return {case.name: case for case in cases()}[name]


def _torchvision(name: str, family: str) -> Built:
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if family in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if family == "detection" and not name.startswith("ssd"):
        options |= {"min_size": DETECTION_SIZE, "max_size": DETECTION_SIZE}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = models.get_model(name, **options)
    if family == "detection":
        return model, ([torch.rand(3, DETECTION_SIZE, DETECTION_SIZE)],)
    if family == "optical flow":
        return model, (torch.rand(1, 3, FLOW_SIZE, FLOW_SIZE), torch.rand(1, 3, FLOW_SIZE, FLOW_SIZE))
    return model, (torch.randn(1, *SIZES.get(name, BY_FAMILY.get(family, ()))),)


def _timm(name: str) -> Built:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, (torch.randn(1, *model.pretrained_cfg["input_size"]),)


def awake(model: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> nn.Module:
    """``model`` in eval mode with nothing left as it was initialised to zeros or ones, where mistakes would hide.

    Constant parameters are drawn again; batch norms get random scales, and the statistics of a forward pass over random inputs, so that
    activations neither vanish nor explode on their way through a deep model.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() < 2 or not parameter.is_floating_point() or not bool((parameter == parameter.flatten()[0]).all()):
                continue
            value = float(parameter.flatten()[0])
            if value:
                parameter.copy_(uniform(parameter, 0.5, 1.5) * (value if abs(value) >= 0.1 else 0.1))
            else:
                spread = 0.3 if parameter.dim() == 1 or parameter.shape[0] == 1 else parameter[0].numel() ** -0.5
                parameter.copy_(uniform(parameter, -spread, spread))
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), Tensor):
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))  # type: ignore[operator, union-attr]
                module.running_var.copy_(uniform(module.running_var, 0.5, 1.5))  # type: ignore[operator, union-attr]
        _settle(model.eval(), inputs, generator)
    return model


def _settle(model: nn.Module, inputs: tuple[Any, ...], generator: torch.Generator) -> None:
    """Give batch norms the statistics of one forward pass over random inputs (two of each, where the model takes that)."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    if not norms or any(not isinstance(value, Tensor) for value in inputs):
        return
    kept = [(module, module.momentum, module.running_var.clone()) for module in norms]  # type: ignore[union-attr]
    for module in norms:
        module.momentum = 1.0
        module.train()
    twice = tuple(torch.randn(2, *value.shape[1:], generator=generator) if value.is_floating_point() else value for value in inputs)
    model(*twice)
    for module, momentum, _ in kept:
        variance = module.running_var
        assert variance is not None
        variance.clamp_(min=0.1 * float(variance.mean()) + 1e-3)  # a channel that happened to be still must not amplify rounding
        module.momentum = momentum
    model.eval()


def built(name: str) -> Built:
    """The model of that name and its inputs: random weights, the same in every run, nothing at zeros and ones."""
    torch.manual_seed(0)
    model, inputs = find_case(name).build()
    return awake(model.eval(), inputs), inputs


def half(model: nn.Module, analysis: Analysis) -> Pruned:
    """``model`` with half of every group (rounded down, at least one stays) chosen at random, and checked."""
    generator = np.random.default_rng(0)
    saliency = {group.name: generator.random(group.rows.shape) for group in analysis.groups}
    widths = {group.name: max(1, group.size // 2) for group in analysis.groups}
    return apply(model, analysis, plan_from_saliency(analysis, saliency, widths))
