"""Parameters that do not train (``requires_grad=False``), although a cut changed them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from edgeprune.errors import TrainingError
from edgeprune.graph import Analysis
from edgeprune.surgery import Pruned
from edgeprune.surgery.parameters import keep_masks
from edgeprune.surgery.plan import removed_channels


def changed(analysis: Analysis, pruned: Pruned) -> list[str]:
    """The parameters of the layers that lost channels, by name."""
    layers = {name.rpartition(".")[0] for name in keep_masks(analysis, removed_channels(analysis, pruned.plan))}
    return [name for name, _ in pruned.model.named_parameters() if name.rpartition(".")[0] in layers]


def unfreeze(model: nn.Module, names: Iterable[str]) -> None:
    """Let these parameters train."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(parameter.is_floating_point())


def trains(model: nn.Module) -> bool:
    """Whether any parameter of ``model`` trains."""
    return any(parameter.requires_grad for parameter in model.parameters())


def frozen_note(model: nn.Module, names: Iterable[str]) -> str:
    """What of ``model`` trains, where that is not all of it; ``names``: what the cut changed.  "" where nothing is frozen."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, wanted in sizes if wanted)
    if trained == total:
        return ""
    if not trained:
        return (
            f"nothing is trained: all {total:,} parameters are frozen (requires_grad=False); --unfreeze trains those that pruning changed"
        )
    stuck = [name for name in names if not model.get_parameter(name).requires_grad]
    text = f"{trained:,} of {total:,} parameters are trained, the others are frozen (requires_grad=False)"
    if not stuck:
        return text
    more = f" and {len(stuck) - 3} more" if len(stuck) > 3 else ""
    return f"{text}: pruning changed {', '.join(stuck[:3])}{more} of them, which --unfreeze trains too"


def refuse_frozen(model: nn.Module, name: str) -> None:
    """Raise :class:`TrainingError` where nothing of ``model`` trains."""
    if not trains(model):
        raise TrainingError(
            f"all parameters of {name} are frozen (requires_grad=False), and training from scratch trains them",
            remedy="Unfreeze the model: model.requires_grad_(True).",
        )
