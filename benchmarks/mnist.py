"""A CNN on MNIST, pruned in several ways: what accuracy, size and training time become.

    python -m benchmarks.mnist [--runs DIR]

Needs MNIST's digits (EDGEPRUNE_DATA).  Writes ``docs/mnist.md``.  Times are processor seconds of one thread, of training steps alone;
passes are over the 21,000 training digits of ``recipes/mnist.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import edgeprune
from edgeprune.budget import format_score
from edgeprune.importance.unstructured import Masks, apply_masks, importance_masks, sparsity_of, threshold_masks
from edgeprune.task import Task
from edgeprune.tuning import finetune, score_with_error

ROOT = Path(__file__).parents[1]
WANTED, PARTS = 97.0, 8  # percent; scores a pass
THETA = 0.05
SHARE = "50%"
WAYS: dict[str, dict[str, Any]] = {
    "channels, one-shot, fine-tuned": {},
    "channels, iterative, fine-tuned": {"schedule": "iterative"},
    "channels, online, fine-tuned": {"schedule": "online"},
    "channels, one-shot, from scratch": {"training": "scratch"},
}


@dataclass
class Row:
    """One network. ``cut``, ``tuned``: scores before and after training; ``seconds``: of a pass; ``passes``: until ``WANTED``, or None."""

    name: str
    kept: int
    cut: str
    tuned: str
    seconds: float
    passes: float | None

    def line(self, dense: Row) -> str:
        """In Markdown."""
        until = "not reached" if self.passes is None else f"{self.passes:g}"
        needed = "–" if self.passes is None else f"{self.passes * self.seconds:.1f} s"
        share = f"{self.kept:,} ({100 * self.kept / dense.kept:.0f} %)"
        return f"| {self.name} | {share} | {self.cut} | {self.tuned} | {self.seconds:.1f} s | {until} | {needed} |"


class Clock:
    """Processor seconds of training steps, without what is scored between them."""

    def __init__(self) -> None:
        self.seconds, self.last, self.scores = 0.0, time.process_time(), list[float]()

    def step(self, done: int, total: int, loss: float) -> None:
        """A step ended."""
        now = time.process_time()
        self.seconds, self.last = self.seconds + now - self.last, now

    def part(self, entry: Mapping[str, float | None]) -> None:
        """A part of a pass was scored."""
        if entry["epoch"] and entry["score"] is not None:
            self.scores.append(entry["score"])
        self.last = time.process_time()

    def passes_to(self, wanted: float) -> float | None:
        """After how many passes the score first was that high."""
        return next(((number + 1) / PARTS for number, score in enumerate(self.scores) if score >= wanted), None)


def trained(model: nn.Module, task: Task, passes: int, teacher: nn.Module | None = None) -> Clock:
    """Train ``model`` in place, scored ``PARTS`` times a pass."""
    clock = Clock()
    parts = replace(task, steps_per_epoch=task.epoch_length() // PARTS)
    finetune(model, parts, teacher=teacher, epochs=passes * PARTS, on_progress=clock.step, on_epoch=clock.part)
    clock.seconds /= passes
    return clock


def shown(model: nn.Module, task: Task) -> str:
    """The score with its error."""
    found = score_with_error(model, task)
    return format_score(found.value, found.error, task.metric_unit)


@contextlib.contextmanager
def held(parameters: Mapping[str, Tensor], masks: Masks) -> Iterator[None]:
    """What is masked is zero, and so are its gradients while it is trained."""
    apply_masks(parameters, masks)
    hooks = [parameter.register_hook(lambda gradient, keep=masks[name]: gradient * keep) for name, parameter in parameters.items()]
    yield
    for hook in hooks:
        hook.remove()


def importance(model: nn.Module, task: Task, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of every weight: the mean over 50 batches of (weight x gradient)², as in Molchanov et al., 2019."""
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for number, batch in enumerate(task.batches("train")):
        if number == 50:
            break
        model.zero_grad()
        task.loss_of(batch.call(model), batch.targets, "here").backward()
        for name, parameter in parameters.items():
            found[name] += (parameter.detach() * parameter.grad).square() / 50
    model.zero_grad()
    return found


def of_weights(name: str, task: Task, masks: Callable[[Mapping[str, Tensor]], Masks]) -> Row:
    """The dense network without single weights."""
    model = copy.deepcopy(task.model)
    parameters = {key: value for key, value in model.named_parameters() if value.dim() > 1}
    with held(parameters, masks(parameters)):
        cut = shown(model, task)
        clock = trained(model, task, 2, task.model)
    kept = sum(int(value.count_nonzero()) for value in model.parameters())
    return Row(f"{name}: {100 * sparsity_of(parameters):.0f} % zero", kept, cut, shown(model, task), clock.seconds, clock.passes_to(WANTED))


def of_channels(name: str, task: Task, network: Callable[[], nn.Module], settings: dict[str, Any], runs: Path) -> Row:
    """The network with fewer channels; its training is repeated from new weights to be timed."""
    options = edgeprune.Options(engine="torchscript", formats=("torchscript",), **settings)
    budget = edgeprune.Budget(latency=SHARE)
    result = edgeprune.prune(task, profile="raspberry-pi-4", budget=budget, options=options, runs=runs, listener=lambda event: None)
    summary = result.summary
    found, before = summary["pruned"], next((entry["score"] for entry in summary["history"] if entry["epoch"] == 0), None)
    again = edgeprune.load(network(), result.checkpoint)
    for module in again.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    clock = trained(again, task, 4)
    tuned = format_score(found["metric"], found["metric_error"], task.metric_unit)
    cut = "–" if before is None or settings.get("training") == "scratch" else f"{before:.1f} %"
    return Row(name, int(found["parameters"]), cut, tuned, clock.seconds, clock.passes_to(WANTED))


def measured(runs: Path) -> list[Row]:
    """All rows, the dense network's first."""
    sys.path.insert(0, str(ROOT / "recipes"))
    import mnist

    from edgeprune.task import load_recipe

    task = load_recipe(ROOT / "recipes" / "mnist.py")
    torch.manual_seed(0)
    fresh = mnist.network()
    clock = trained(fresh, task, 4)
    parameters = sum(value.numel() for value in fresh.parameters())
    rows = [Row("dense", parameters, "–", shown(task.model, task), clock.seconds, clock.passes_to(WANTED))]
    print(rows[0], flush=True)

    def by_threshold(weights: Mapping[str, Tensor]) -> Masks:
        return threshold_masks(weights, THETA)

    def by_importance(weights: Mapping[str, Tensor]) -> Masks:
        scores = importance(task.model, task, dict(task.model.named_parameters()))
        scores = {name: scores[name] for name in weights}
        gone = sum(int((value.abs() < THETA).sum()) for value in weights.values())  # as many as by the threshold
        gamma = float(torch.cat([value.flatten() for value in scores.values()]).sort().values[gone - 1])
        return importance_masks(scores, gamma)

    for name, masks in (("weights by threshold", by_threshold), ("weights by importance", by_importance)):
        rows.append(of_weights(name, task, masks))
        print(rows[-1], flush=True)
    for name, settings in WAYS.items():
        rows.append(of_channels(name, task, mnist.network, settings, runs))
        print(rows[-1], flush=True)
    return rows


HEAD = """# MNIST: a network before and after pruning

`python -m benchmarks.mnist` trains the CNN of `recipes/mnist.py` (two convolutions, two linear layers) on 21,000 digits, prunes it in several ways, and scores each on 3,000 test digits.
Training after pruning is 2 passes with the dense network as teacher.

| network | weights kept | accuracy when cut | after training | a pass | passes to {wanted:g} % | time to it |
| --- | --- | --- | --- | --- | --- | --- |
{lines}

- **Weights by threshold**: what is smaller than {theta} in magnitude becomes zero (`threshold_masks`).
  **By importance**: as many weights go, those whose (weight x gradient)² is least (`importance_masks`).
  Zeros of single weights do not make the training faster: every product with a zero is still computed.
- **Channels**: `edgeprune prune recipes/mnist.py --profile raspberry-pi-4 --latency {share}`, with the schedule or training that the row names.
  What is left is a smaller dense network, whose remaining weights were refitted by least squares before they were scored "when cut".
- **A pass** is processor time of the training steps over all training digits; of channels, without a teacher.
  **Passes to {wanted:g} %** and the time they take: for the dense network and for channels, the network trained from new weights; for single weights, the fine-tuning.
- The standard error of an accuracy is the binomial one, and each way was run once. Differences of half a point say nothing.

Times are of one thread of {processor}, which others used too.
"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(runs or Path(folder))
    write(rows)


def write(rows: Sequence[Row]) -> None:
    """The page."""
    page = ROOT / "docs" / "mnist.md"
    lines = "\n".join(row.line(rows[0]) for row in rows)
    page.write_text(HEAD.format(lines=lines, wanted=WANTED, theta=THETA, share=SHARE, processor=processor()))
    subprocess.run([sys.executable, "-m", "mdformat", str(page)], check=False)


def processor() -> str:
    """This machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
