"""What importance curves cost beside copies of the model: run from each plan's first change on, and one whole copy after the other.

    python -m benchmarks.sensitivity [--groups 6] [RECIPE ...]

Measures the curves of so many groups, spread over the network, both ways, and of all groups the fast way, in seconds of processor time on
one thread, and writes them with the rank correlation of the two to ``results/sensitivity.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import spearmanr

from edgeprune.graph import Analysis, analyze
from edgeprune.importance import score
from edgeprune.profile import load
from edgeprune.search.plan.planner import all_choices
from edgeprune.search.plan.sensitivity import ImportanceCurves, importance_curves
from edgeprune.task import Task, load_recipe

RECIPES = ("fsdd", "cifar10_resnet20", "cifar10_resnet56")
FOLDER = Path(__file__).parents[1] / "recipes"
RESULT = Path(__file__).parent / "results" / "sensitivity.json"


def measured(task: Task, analysis: Analysis, groups: int) -> dict[str, object]:
    """The figures of one task."""
    saliency = score(task, analysis, "l2")
    choices = all_choices(analysis, load("raspberry-pi-4").channel_step)
    places = np.unique(np.linspace(0, len(analysis.groups) - 1, groups).round().astype(int))
    chosen = {analysis.groups[place].name for place in places}
    some = {name: widths if name in chosen else widths[-1:] for name, widths in choices.items()}

    def timed(of: Mapping[str, Sequence[int]], reconstructed: bool = False) -> tuple[float, ImportanceCurves]:
        begun = time.process_time()
        found = importance_curves(task, analysis, saliency, of, reconstructed=reconstructed)
        return time.process_time() - begun, found

    result: dict[str, object] = {"groups": len(analysis.groups), "compared_groups": len(chosen)}
    for reconstructed in (False, True):
        fast_s, fast = timed(some, reconstructed)
        with patch("edgeprune.search.plan.sensitivity.rerun_of", lambda *_: None):
            slow_s, slow = timed(some, reconstructed)
        pairs = [(one, other) for name in chosen for one, other in zip(fast[name][:-1], slow[name][:-1], strict=True)]
        result["reconstructed" if reconstructed else "masked"] = {
            "copies_s": round(slow_s, 2),
            "from_the_first_change_s": round(fast_s, 2),
            "ratio": round(fast_s / slow_s, 3),
            "rank_correlation": round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 4),
            "all_groups_s": round(timed(choices, reconstructed)[0], 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--groups", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in given.recipes:
        task = load_recipe(FOLDER / f"{name}.py")
        analysis = analyze(task.model, task.example_inputs, tuple(task.protect), task.attention)
        figures = measured(task, analysis, given.groups)
        known[name] = {**figures, "machine": platform.machine(), "torch": torch.__version__}
        print(json.dumps({name: known[name]}), flush=True)
        RESULT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
