"""How long a training step takes on the CPU beside what it took before it was made faster, in turns.

``python -m benchmarks.tuning_step [--rounds 20] [--keep]`` prunes the CIFAR-10 ResNet-20 to 70 % of its channels (about
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
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.batches import Batch
from edgeprune.graph import analyze
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.task import Task, load_recipe
from edgeprune.tuning.allocator import kept_memory
from edgeprune.tuning.context import as_float32, native_bf16
from edgeprune.tuning.distill import distillation_loss
from edgeprune.tuning.engine import engine
from edgeprune.tuning.layout import channels_last, laid_out, slices_keep_layout, takes_channels_last
from edgeprune.tuning.norms import quick_norms
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
        with _cast():
            outputs = laid_out(self.model, batch, training=True).call(self.model)
        outputs = as_float32(outputs)
        loss: Tensor = self.task.loss_of(outputs, batch.targets, "in training")
        distance = distillation_loss(outputs, self.answers(batch), batch.targets)
        assert distance is not None
        return (1 - self.task.distillation) * loss + self.task.distillation * distance

    def answers(self, batch: Batch) -> object:
        """The teacher's."""
        with torch.no_grad(), _cast():
            return as_float32(laid_out(self.teacher, batch).call(self.teacher))


_reduced: list[bool] = []
"""Whether this process computes in bfloat16."""


def _cast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=_reduced[-1])


def pruned(task: Task) -> nn.Module:
    """The task's model with ``KEPT`` of every group's channels."""
    analysis = analyze(task.model, task.example_inputs)
    generator = np.random.default_rng(0)
    saliency = {group.name: generator.random(group.rows.shape) for group in analysis.groups}
    widths = {group.name: max(1, round(KEPT * group.size)) for group in analysis.groups}
    return apply(task.model, analysis, plan_from_saliency(analysis, saliency, widths)).model


def timed(function: Callable[[], object]) -> float:
    """CPU seconds of one call, of all threads: others on the machine do not count."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def child(side: str, pipe: Connection, bf16: bool) -> None:
    """Time steps of one side whenever asked to: each has a process of its own, since the memory's settings are a process's."""
    torch.set_num_threads(1)
    _reduced.append(bf16)
    task = load_recipe(RECIPE)
    batch, cpu, model = next(task.batches("train")), torch.device("cpu"), pruned(task)
    dtype = torch.bfloat16 if bf16 else None
    with ExitStack() as stack:
        stack.enter_context(channels_last(model, takes_channels_last(model, batch, training=True)))
        ways: dict[str, Callable[[], object]] = {}
        if side == "before":
            before = Before(model.train(), task, task.model)
            ways = {"step": lambda: before.step(batch), "teacher": lambda: before.answers(batch)}
        else:
            stack.enter_context(quick_norms(model))
            stack.enter_context(slices_keep_layout())
            stack.enter_context(kept_memory())
            running = stack.enter_context(engine(cpu, dtype))
            teacher = Teacher(task.model, batch, cpu, dtype, remember=False)
            now = Trainer(model.train(), task, teacher, settings_for(model, task), running, 10_000, 196)
            ways = {"step": lambda: now.step(batch, 5000), "teacher": lambda: teacher(batch)}
        for way in (*ways.values(), *ways.values()):
            way()
        pipe.send(None)
        while pipe.recv():
            pipe.send({name: timed(way) for name, way in ways.items()})


def compare(rounds: int, bf16: bool) -> dict[str, object]:
    """Median CPU seconds of a step and of the teacher alone, before and now, in turns; and the medians of their ratios."""
    pipes: dict[str, Connection] = {}
    for side in ("before", "now"):
        pipes[side], other = get_context("spawn").Pipe()
        get_context("spawn").Process(target=child, args=(side, other, bf16), daemon=True).start()
    for pipe in pipes.values():
        pipe.recv()
    times: dict[str, list[dict[str, float]]] = {side: [] for side in pipes}
    for _ in range(rounds):
        for side, pipe in pipes.items():
            pipe.send(True)
            times[side].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    result: dict[str, object] = {
        "machine": platform.machine(), "bf16": bf16, "threads": 1, "batch": 128, "rounds": rounds, "torch": torch.__version__
    }  # fmt: skip
    for what in ("step", "teacher"):
        for side, found in times.items():
            result[f"{what}_{side}_s"] = round(statistics.median(one[what] for one in found), 4)
        pairs = [now[what] / then[what] for now, then in zip(times["now"], times["before"], strict=True)]
        result[f"{what}_ratio"] = round(statistics.median(pairs), 3)
    return result


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="write results/tuning_step.json")
    options = parser.parse_args()
    result = [compare(options.rounds, bf16) for bf16 in ((True, False) if native_bf16() else (False,))]
    print(json.dumps(result, indent=2))
    if options.keep:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
