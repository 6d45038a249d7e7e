"""What the commands that prune share: options of a job, its resumption, its progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from edgeprune.budget import FIGURES, Budget
from edgeprune.cli.options import budget_options, seed_option
from edgeprune.cli.output import progress

SCHEDULES = ("auto", "one-shot", "iterative", "online")
TRAININGS = ("fine-tune", "scratch")
_PASSED = (
    *("criterion", "schedule", "training", "distillation", "weight_decay"),
    *("epochs", "engine", "threads", "step", "measurements", "seed", "unfreeze"),
)

F = TypeVar("F", bound=Callable[..., Any])


def job_options(function: F) -> F:
    """Add the options of a job: where it runs, its limits, how it is done."""
    options = [
        click.option("--target", metavar="TARGET", help="Device to measure on: a name, local:, or ssh://user@host:port."),
        click.option("--profile", metavar="NAME", help="Known facts of a device; without --target everything is predicted from it."),
        budget_options,
        click.option(
            "--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with an earlier one; all else is taken from it."
        ),
        click.option(
            "--runs", metavar="DIR", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where they are kept."
        ),
        click.option("--epochs", type=click.FloatRange(min=0), help="Training epochs in all [default: the task's]."),
        click.option(
            "--schedule",
            type=click.Choice(SCHEDULES),
            default="auto",
            show_default=True,
            help="Cut at once, in stages, or online, while the model trains.",
        ),
        click.option(
            "--training",
            type=click.Choice(TRAININGS),
            default="fine-tune",
            show_default=True,
            help="How the cut model is trained: on from its weights, or from scratch.",
        ),
        click.option(
            "--distillation", type=click.FloatRange(0, 1), help="Weight of the dense model's answers in the loss [default: the task's]."
        ),
        click.option("--weight-decay", type=click.FloatRange(min=0), help="Of the training [default: the task's]."),
        click.option("--criterion", metavar="NAME", help="Channel importance [default: taylor with data, else l2]."),
        click.option("--no-sensitivity", is_flag=True, help="Do not measure how the loss depends on every group."),
        click.option("--no-reconstruction", is_flag=True, help="Do not solve the weights that are left anew from calibration data."),
        click.option("--engine", type=click.Choice(["tflite", "torchscript"]), help="What the device runs [default: tflite where it can]."),
        click.option(
            "--precision",
            default="fp32",
            show_default=True,
            metavar="LIST",
            help="Of fp32, fp16, dynamic and int8: each is pruned and measured, the best file that meets the budgets is kept.",
        ),
        click.option(
            "--format", "formats", default="tflite,torchscript,pt2", show_default=True, metavar="LIST", help="Formats exported at the end."
        ),
        click.option("--threads", type=click.IntRange(min=1), help="Threads on the device [default: its cores, at most 4]."),
        click.option("--step", type=click.IntRange(min=1), help="Block of channels [default: the profile's]."),
        click.option(
            "--measurements", type=click.IntRange(min=1), default=8, show_default=True, help="Most measurements of pruned models."
        ),
        click.option("--no-reuse", is_flag=True, help="Measure every plan anew, even where an earlier run did on this device."),
        click.option("--unfreeze", is_flag=True, help="Train what the cut changed although it is frozen (requires_grad=False)."),
        seed_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def new_job(recipe: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """A job as the command line gives it."""
    from edgeprune.errors import TargetError
    from edgeprune.search import Options

    if recipe is None:
        raise click.UsageError("Give a RECIPE, or --resume RUN.")
    if given["target"] is None and given["profile"] is None:
        raise TargetError(
            "neither --target nor --profile was given",
            remedy="--target local: measures on this machine; --profile raspberry-pi-4 predicts.",
        )
    budget = Budget(**{kind: given[kind] for kind in (*FIGURES, "max_drop")})
    options = Options(
        sensitivity=not given["no_sensitivity"],
        reconstruction=not given["no_reconstruction"],
        reuse=not given["no_reuse"],
        formats=tuple(name.strip() for name in given["formats"].split(",") if name.strip()),
        precision=tuple(name.strip() for name in given["precision"].split(",") if name.strip()),
        **{name: given[name] for name in _PASSED},
    )
    return {
        "recipe": str(Path(recipe).resolve()),
        "target": given["target"],
        "profile": given["profile"],
        "budget": budget,
        "options": options,
    }


def resumed_job(path: Path) -> dict[str, Any]:
    """The inputs that an earlier run was started with."""
    from edgeprune.errors import RunError
    from edgeprune.runs.directory import read_inputs
    from edgeprune.search import Options

    inputs = read_inputs(path)
    if not inputs.get("recipe"):
        raise RunError(
            f"{path} was not started from a recipe file", remedy="Resume it from Python: edgeprune.prune(task, ..., resume=path)."
        )
    try:
        lists = {name: tuple(inputs["options"][name]) for name in ("formats", "precision") if name in inputs["options"]}
        options, budget = Options(**(inputs["options"] | lists)), Budget(**inputs["budget"])
        where = {name: inputs[name] for name in ("target", "profile")}
        return inputs | where | {"recipe": str(inputs["recipe"]), "budget": budget, "options": options}
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} was made by another edgeprune, or its run.json is damaged: {error}", remedy="Start a new run.") from error


class Progress:
    """Shows stages as progress bars, and notes as lines above them."""

    def __init__(self) -> None:
        self._bars = progress()
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        self._bars.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.__exit__(kind, error, trace)

    def progress(self, stage: str, done: int, total: int) -> None:
        """A stage's bar; it goes when the stage is done."""
        name = stage.partition(" (")[0]
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[name], description=stage, completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(name))

    def note(self, text: str) -> None:
        """A line."""
        self._bars.console.print(text, highlight=False, markup=False)
