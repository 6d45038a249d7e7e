"""Pruning while the model trains: gates learn what the budget can do without, and the model shrinks to it step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from edgeprune.cost.width import Widths
from edgeprune.graph import Analysis
from edgeprune.search.events import EventStream
from edgeprune.search.plan.objective import Objective
from edgeprune.search.plan.planner import Planner
from edgeprune.search.plan.program import saliency_curve
from edgeprune.surgery import apply, plan_from_saliency, restore
from edgeprune.task import Task
from edgeprune.tuning import finetune
from edgeprune.tuning.frozen import changed, unfreeze
from edgeprune.tuning.gates import GatedModel
from edgeprune.tuning.optimizer import RATE, settings_for

STEPS = 5
"""How often the model shrinks."""

GATED = 0.6
"""The share of the epochs that gates are trained in; the rest tunes the final model."""

Limits = Callable[[float], Mapping[str, float]]
"""The limits that share of the way from the dense model to the budget."""


def train_online(
    task: Task,
    analysis: Analysis,
    planner: Planner,
    limits: Limits,
    epochs: float,
    folder: Path,
    seed: int,
    events: EventStream,
) -> tuple[nn.Module, Objective]:
    """Train ``task.model``'s copy for ``epochs`` in ``STEPS`` stages, narrower after each but the last; ``planner.choices`` shrink with it.

    In every stage gates are trained with the weights under a penalty on what they cost; then the program chooses the widths of most
    first-order importance, which the gates gathered, under limits on the way to the budget. Returns the model in the dense shapes, and what
    its channels are worth, for the last cut. Every stage continues from its checkpoint in ``folder``.
    """
    model, widths = task.model, dict(planner.dense)
    saliency = {group.name: 1.0 + 0.0 * group.rows for group in analysis.groups}
    steps = math.ceil(epochs / STEPS * task.epoch_length())
    for stage in range(STEPS):
        here, there = limits(stage / STEPS), limits((stage + 1) / STEPS)
        pruned = apply(model, analysis, plan_from_saliency(analysis, saliency, widths))
        tightest = min(there, key=lambda kind: there[kind] / here[kind])
        share = there[tightest] / here[tightest]
        if task.unfreeze:
            unfreeze(pruned.model, changed(analysis, pruned))
        gated = GatedModel(pruned, analysis, prices(planner, widths, tightest), share, steps, _mean_rate(task))
        events.note(f"training with gates, stage {stage + 1} of {STEPS}: down to {100 * share:.0f} % of the present {tightest}")
        finetune(
            gated,
            task,
            teacher=task.model,
            epochs=epochs / STEPS,
            checkpoint=folder / f"tune-online-{stage}.safetensors",
            seed=seed + stage,
            **events.training(f"online training {stage + 1} of {STEPS}", epochs / STEPS, task.metric_name),
        )
        gated.fold()
        saliency = gated.saliency()
        model = restore(model, analysis, pruned)
        if stage < STEPS - 1:
            curves = {name: saliency_curve(saliency[name], choices) for name, choices in planner.choices.items()}
            widths = planner.solve(curves, there)
            planner.narrow_to(widths)
            events.note(f"kept {sum(widths.values())} of {sum(planner.dense.values())} units")
    return model, Objective(saliency, {name: saliency_curve(saliency[name], choices) for name, choices in planner.choices.items()})


def _mean_rate(task: Task) -> float:
    """Of a cosine schedule."""
    return (settings_for(task.model, task).learning_rate or RATE["sgd"]) / 2


def prices(planner: Planner, widths: Widths, kind: str) -> dict[str, float]:
    """For every group what one of its channels costs at ``widths``, in the figure that a limit of ``kind`` bounds; milliseconds where none
    costs any of it (narrowing one group seldom lowers a peak of memory)."""
    found = _saved(planner, widths, kind)
    return found if any(found.values()) else _saved(planner, widths, "latency")


def _saved(planner: Planner, widths: Widths, kind: str) -> dict[str, float]:
    whole, found = planner.predict(widths).predicted(kind), {}
    for group in planner.analysis.groups:
        width = int(widths[group.name])
        narrower = max((choice for choice in planner.choices[group.name] if 0 < choice < width), default=0)
        if not narrower:
            found[group.name] = 0.0
            continue
        saved = whole - planner.predict({**widths, group.name: narrower}).predicted(kind)
        found[group.name] = max(saved, 0.0) / (width - narrower) / len(group.rows)
    return found
