"""How long a training step takes on the CPU beside what it took before it was made faster, in turns in one process.

``python -m benchmarks.tuning_step [--rounds 8] [--keep]`` prunes the CIFAR-10 ResNet-20 to 70 % of its channels (about
half of its multiply-accumulates), trains it with the dense one as teacher, and writes the ratio to ``results/tuning_step.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.batches import Batch
from edgeprune.graph import analyze
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task, load_recipe
from edgeprune.tuning.context import as_float32, native_bf16, reduced_precision
from edgeprune.tuning.distill import distillation_loss
from edgeprune.tuning.engine import engine
from edgeprune.tuning.layout import channels_last, laid_out, takes_channels_last
from edgeprune.tuning.optimizer import settings_for
from edgeprune.tuning.teacher import Teacher
from edgeprune.tuning.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "cifar10_resnet20.py"
RESULT = Path(__file__).parent / "results" / "tuning_step.json"
KEPT = 0.7


class Before:
    """A step as it was until version 0.1: the teacher as the user's model, under autocast; the loss read first."""

    def __init__(self, model: nn.Module, task: Task, teacher: nn.Module) -> None:
        self.model, self.task, self.teacher = model, task, copy.deepcopy(teacher).eval().requires_grad_(False)
        self.parameters = [value for value in model.parameters() if value.requires_grad]
        groups = [
            {"params": [value for value in self.parameters if value.dim() > 1], "weight_decay": 5e-4},
            {"params": [value for value in self.parameters if value.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        loss = self._loss(batch)
        assert math.isfinite(loss.item())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        assert math.isfinite(torch.nn.utils.clip_grad_norm_(self.parameters, 5.0).item())
        self.optimizer.step()

    def _loss(self, batch: Batch) -> Tensor:
        def cast() -> torch.autocast | nullcontext[None]:
            return torch.autocast("cpu", dtype=torch.bfloat16) if native_bf16() else nullcontext()

        with cast():
            outputs = laid_out(self.model, batch, training=True).call(self.model)
        outputs = as_float32(outputs)
        loss: Tensor = self.task.loss_of(outputs, batch.targets, "in training")
        with torch.no_grad(), cast():
            wanted = laid_out(self.teacher, batch).call(self.teacher)
        distance = distillation_loss(outputs, as_float32(wanted), batch.targets)
        assert distance is not None
        return (1 - self.task.distillation) * loss + self.task.distillation * distance


def pruned(task: Task) -> nn.Module:
    """The task's model with ``KEPT`` of every group's channels."""
    analysis = analyze(task.model, task.example_inputs)
    generator = np.random.default_rng(0)
    saliency = {group.name: generator.random(group.rows.shape) for group in analysis.groups}
    widths = {group.name: max(1, round(KEPT * group.size)) for group in analysis.groups}
    return apply(task.model, analysis, plan_from_saliency(analysis, saliency, widths)).model


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def compare(rounds: int) -> dict[str, object]:
    """Median seconds of a step and of the teacher alone, before and now, in turns; and their ratios."""
    task = load_recipe(RECIPE)
    batch = next(task.batches("train"))
    cpu, small = torch.device("cpu"), pruned(task)
    other = copy.deepcopy(small)
    with channels_last(small, takes_channels_last(small, batch, training=True)), channels_last(other, True):
        dtype = reduced_precision(cpu, True)
        before = Before(other.train(), task, task.model)
        takes_channels_last(other, batch, training=True)
        with engine(cpu, dtype) as running:
            teacher = Teacher(task.model, batch, cpu, dtype, remember=False)
            now = Trainer(small.train(), task, teacher, settings_for(small, task), running, 10_000, 196)
            ways: dict[str, Callable[[], object]] = {
                "step_before": lambda: before.step(batch),
                "step_now": lambda: now.step(batch, 5000),
                "teacher_before": lambda: _asked(before, batch),
                "teacher_now": lambda: teacher(batch),
            }
            for way in ways.values():
                way()
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    times[name].append(timed(way))
    pairs = {
        what: [now / then for now, then in zip(times[f"{what}_now"], times[f"{what}_before"], strict=True)] for what in ("step", "teacher")
    }
    return {
        "machine": platform.machine(),
        "bf16": native_bf16(),
        "threads": torch.get_num_threads(),
        "batch": batch.size,
        "rounds": rounds,
        "torch": torch.__version__,
        **{f"{name}_s": statistics.median(values) for name, values in times.items()},
        **{f"{name}_ratio": statistics.median(values) for name, values in pairs.items()},
    }


def _asked(before: Before, batch: Batch) -> object:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=native_bf16()):
        return laid_out(before.teacher, batch).call(before.teacher)


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="write results/tuning_step.json")
    options = parser.parse_args()
    result = compare(options.rounds)
    print(json.dumps(result, indent=2))
    if options.keep:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
