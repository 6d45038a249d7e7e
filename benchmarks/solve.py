"""How long the program takes for large models, as a share of the limit.

    python benchmarks/solve.py [MODEL...]

Prints one JSON line for each model and set of limits, all at half of its figures: processor seconds of the analysis, of ``torch.export``
in it and of the program, the share of the limit that this took, what of every limit the plan takes, and what it loses as a share of all
that could be lost.  Weights are random.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision

from edgeprune.cost.prior import PriorTimes, power_of
from edgeprune.graph import Analysis, analyze
from edgeprune.profile import load
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.plan.program import saliency_curve

LIMIT_S = {"resnet50": 2.0, "resnet152": 5.0, "densenet201": 5.0, "vit_b_16": 2.0}
LIMITS = (("latency",), ("macs",), ("latency", "memory"), ("latency", "memory", "energy", "size"))
"""All of them for the first model, the first of them for the others."""


def main(names: list[str]) -> None:
    for number, name in enumerate(names or LIMIT_S):
        report(name, LIMITS if number == 0 else LIMITS[:1])


def report(name: str, kinds_of_limits: tuple[tuple[str, ...], ...]) -> None:
    """One line for each set of limits."""
    profile = load("raspberry-pi-4")
    torch.manual_seed(0)
    analysis, analysis_s, export_s = analysed(torchvision.models.get_model(name).eval())
    choices = all_choices(analysis, profile.channel_step)
    planner = Planner(analysis, PriorTimes(profile), choices, power_of(profile))
    random = np.random.default_rng(0)
    curves = {group.name: saliency_curve(random.random(group.rows.shape) ** 3, choices[group.name]) for group in analysis.groups}
    dense, least = planner.predict(planner.dense), planner.objective_of(curves, planner.narrowest)
    for kinds in kinds_of_limits:
        limits = {kind: 0.5 * dense.of(kind) for kind in kinds}
        begun = time.process_time()
        widths = planner.solve(curves, limits)
        seconds = time.process_time() - begun
        plan, whole = planner.predict(widths), planner.objective_of(curves, planner.dense)
        use = {kind: round(plan.of(kind) / limit, 4) for kind, limit in limits.items()}
        loss = round((whole - planner.objective_of(curves, widths)) / (whole - least), 6)
        line = {"model": name, "limits": kinds, "analysis_s": round(analysis_s, 1), "export_s": round(export_s, 1)}
        print(
            json.dumps({**line, "seconds": round(seconds, 2), "of_limit": round(seconds / LIMIT_S[name], 2), "loss": loss, "use": use}),
            flush=True,
        )


def analysed(model: torch.nn.Module) -> tuple[Analysis, float, float]:
    """The analysis, its processor seconds, and those of them that ``torch.export`` takes."""
    export, spent = torch.export.export, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        try:
            return export(*args, **kwargs)
        finally:
            spent.append(time.process_time() - begun)

    begun = time.process_time()
    with patch.object(torch.export, "export", timed):
        analysis = analyze(model, (torch.zeros(1, 3, 224, 224),))
    return analysis, time.process_time() - begun, sum(spent)


if __name__ == "__main__":
    main(sys.argv[1:])
