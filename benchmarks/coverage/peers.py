"""Torch-Pruning in its standard use, for the column beside edgeprune's rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.models import built, find_case

RELEASE = "1.6.1"
Row = dict[str, Any]
CLASSES = {"classification": 1000, "segmentation": 21, "video": 400, "timm": 1000}


def folder() -> Path:
    """Where the tool is installed, beside the project's environment and not in it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgeprune" / "peers" / "torch-pruning"


def install() -> None:
    """Install the tool if it is not there."""
    if not (folder() / f"torch_pruning-{RELEASE}.dist-info").is_dir():
        what = ["--quiet", "--no-deps", "--target", str(folder()), f"torch-pruning=={RELEASE}"]
        subprocess.run([sys.executable, "-m", "pip", "install", *what], check=True, stdout=sys.stderr)


def measure(name: str) -> Row:
    """Prune half of every group by the norm of its weights, run the result: ``outcome``, seconds of both."""

    sys.path.insert(0, str(folder()))
    import torch_pruning as tp

    model, inputs = built(name)
    family = find_case(name).family
    before, shapes = sum(value.numel() for value in model.parameters()), output_shapes(model, inputs)
    heads, started = attention_heads(model), time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=outputs_of(model, family),
        num_heads=heads,
        round_to=next(iter(heads.values()), None),
    )
    pruner.step()
    after, pruned_shapes = sum(value.numel() for value in model.parameters()), output_shapes(model, inputs)
    outcome = "pass"
    if pruned_shapes != shapes and family != "detection":  # how many boxes are found depends on the weights
        outcome = f"silently wrong: outputs {pruned_shapes}, not {shapes}"
    elif after == before:
        outcome = "pruned nothing"
    return {"outcome": outcome, "prune_s": time.perf_counter() - started, "parameters_before": before, "parameters_after": after}


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """As the tool asks for: the number of heads of every attention layer of torch's own, and of every joint projection named ``qkv``."""
    heads: dict[nn.Module, int] = {module: module.num_heads for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for module in model.modules():
        if isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(getattr(module, "num_heads", None), int):
            heads[module.qkv] = module.num_heads  # type: ignore[index, assignment]
    return heads


def outputs_of(model: nn.Module, family: str) -> list[nn.Module]:
    """The layers whose outputs are the model's: not to be pruned."""
    if family == "detection":
        wanted = ("head", "rpn.head", "roi_heads", *(("backbone.fpn",) if hasattr(model, "roi_heads") else ()))  # as its own tests do
        return [module for name, module in model.named_modules() if name in wanted]
    if family == "optical flow":
        wanted = ("corr_block", "update_block", "mask_predictor")
        return [module for name, module in model.named_modules() if name in wanted]
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    classes = CLASSES.get(family)
    if classes is None:
        return layers[-1:]
    return [layer for layer in layers if classes in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))]


def output_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of all output tensors."""
    from edgeprune.surgery import flatten_outputs

    with torch.no_grad():
        return [tuple(value.shape) for value in flatten_outputs(model(*inputs))]
