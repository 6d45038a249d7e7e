"""How long the program takes for ResNet-50 at half of its figures, as a share of the limit: two seconds.

    python benchmarks/solve.py

Prints one JSON line for each set of limits: seconds, the share of the limit, and what of every limit the plan takes.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
import torchvision

from edgeprune.cost.prior import PriorTimes, power_of
from edgeprune.graph import analyze
from edgeprune.profile import load
from edgeprune.search.plan.planner import Planner, all_choices
from edgeprune.search.plan.program import saliency_curve

LIMIT_S = 2.0
LIMITS = (("latency",), ("macs",), ("latency", "memory"), ("latency", "memory", "energy", "size"))


def main() -> None:
    profile = load("raspberry-pi-4")
    analysis = analyze(torchvision.models.resnet50().eval(), (torch.zeros(1, 3, 224, 224),))
    choices = all_choices(analysis, profile.channel_step)
    planner = Planner(analysis, PriorTimes(profile), choices, power_of(profile))
    random = np.random.default_rng(0)
    value = {group.name: saliency_curve(random.random(group.rows.shape) ** 3, choices[group.name]) for group in analysis.groups}
    dense = planner.predict(planner.dense)
    for kinds in LIMITS:
        limits = {kind: 0.5 * dense.of(kind) for kind in kinds}
        begun = time.perf_counter()
        plan = planner.predict(planner.solve(value, limits))
        seconds = time.perf_counter() - begun
        use = {kind: round(plan.of(kind) / limit, 3) for kind, limit in limits.items()}
        print(json.dumps({"limits": kinds, "seconds": round(seconds, 2), "of_limit": round(seconds / LIMIT_S, 2), "use": use}))


if __name__ == "__main__":
    main()
