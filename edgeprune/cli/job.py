"""What the commands that prune share: options of a job, its resumption, its progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.budget import FIGURES, Budget
from edgeprune.cli.options import accelerator_option, budget_options, device_option, seed_option, volume, volume_options, workers_options
from edgeprune.cli.output import echo, progress
from edgeprune.cli.source import asked_options, file_options, load_task
from edgeprune.engines import DEFAULT_FORMATS

if TYPE_CHECKING:
    from edgeprune.decode import JsonObject
    from edgeprune.search import Options
    from edgeprune.search.events import EventStream
    from edgeprune.search.request import RunRequest

SCHEDULES = ("auto", "one-shot", "iterative", "online")
TRAININGS = ("fine-tune", "scratch")
_PASSED = (
    *("criterion", "objective", "race", "schedule", "training", "distillation", "weight_decay", "optimizer", "learning_rate"),
    *("lr_schedule", "warmup", "clip_norm", "label_smoothing", "ema", "device", "compile"),
    *("epochs", "engine", "accelerator", "threads", "step", "measurements", "seed", "unfreeze", "workers", "gpus_per_candidate"),
)

F = TypeVar("F", bound=Callable[..., Any])


def enter_directory(_: click.Context, __: click.Parameter, run: Path | None) -> Path | None:
    """Go to the folder that a run was started in, so that relative paths mean what they meant; the run's own path, made absolute."""
    if run is None:
        return None
    from edgeprune.runs.directory import working_directory

    run = run.resolve()
    if folder := working_directory(run):
        os.chdir(folder)
    return run


_OPTIONS = (
    click.option(
        "--target",
        metavar="TARGET",
        help="Device to measure on: a name, local:, or ssh://user@host:port; several of one kind (pi5a,pi5b, or a group) measure together.",
    ),
    file_options,
    click.option("--profile", metavar="NAME", help="Device profile. Without --target, everything is predicted from it."),
    budget_options,
    click.option(
        "--resume",
        metavar="RUN",
        type=click.Path(path_type=Path),
        callback=enter_directory,
        help="Continue an earlier run. All other settings but --device and --workers come from that run, and so does the working folder.",
    ),
    click.option("--runs", metavar="DIR", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder of the runs."),
    click.option("--epochs", type=click.FloatRange(min=0), help="Training epochs in total [default: the task's]."),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        default="auto",
        show_default=True,
        help="When channels are removed: all at once, in stages, or online while the model trains.",
    ),
    click.option(
        "--training",
        type=click.Choice(TRAININGS),
        default="fine-tune",
        show_default=True,
        help="How the pruned model is trained: from its remaining weights, or from scratch.",
    ),
    click.option(
        "--distillation", type=click.FloatRange(0, 1), help="Weight of the dense model's answers in the loss [default: the task's]."
    ),
    click.option(
        "--optimizer",
        type=click.Choice(("auto", "sgd", "adamw")),
        help="Optimizer of the training; auto goes by the kind of network [default: the task's].",
    ),
    click.option("--learning-rate", type=click.FloatRange(min=0), help="Peak learning rate [default: the task's]."),
    click.option(
        "--lr-schedule", type=click.Choice(("cosine", "linear", "constant")), help="How the learning rate falls [default: the task's]."
    ),
    click.option("--warmup", type=click.FloatRange(0, 1), help="Share of the steps over which the rate rises [default: the task's]."),
    click.option("--weight-decay", type=click.FloatRange(min=0), help="Weight decay of the training [default: the task's]."),
    click.option("--clip-norm", type=click.FloatRange(min=0), help="Largest norm of the gradient; 0 clips nothing [default: the task's]."),
    click.option(
        "--label-smoothing", type=click.FloatRange(0, 1, max_open=True), help="Label smoothing of cross-entropy [default: the task's]."
    ),
    click.option(
        "--ema",
        type=click.FloatRange(0, 1, max_open=True),
        help="Decay of an average of the weights, which the training ends with; 0 keeps none [default: the task's].",
    ),
    click.option("--criterion", metavar="NAME", help="Importance criterion for channels [default: taylor with data, else l2]."),
    click.option(
        "--objective",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="What the plan keeps most of: sensitivity, reconstructed, importance, magnitude or uniform; auto compares the plans of all.",
    ),
    click.option("--race", is_flag=True, help="Train plans that are about equally good a little, and take the better."),
    click.option("--no-sensitivity", is_flag=True, help="Do not measure how the loss depends on each group."),
    click.option("--no-reconstruction", is_flag=True, help="Do not refit the remaining weights to calibration data."),
    click.option("--engine", metavar="NAME", help="What the device runs: tflite, torchscript or onnx [default: tflite where it can]."),
    accelerator_option,
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        metavar="LIST",
        help="Any of fp32, fp16, dynamic and int8. Each one is pruned and measured; the best file that meets the budgets is kept.",
    ),
    click.option(
        "--format", "formats", default=",".join(DEFAULT_FORMATS), show_default=True, metavar="LIST", help="Formats to export at the end."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads on the device [default: its cores, at most 4]."),
    click.option("--step", type=click.IntRange(min=1), help="Keep multiples of this number of channels [default: the profile's]."),
    click.option(
        "--measurements", type=click.IntRange(min=1), default=8, show_default=True, help="Largest number of pruned models to measure."
    ),
    click.option("--no-reuse", is_flag=True, help="Measure every plan again, even if an earlier run measured it on this device."),
    click.option(
        "--unfreeze", is_flag=True, help="Train the parameters that pruning changed, even if they are frozen (requires_grad=False)."
    ),
    device_option,
    workers_options,
    click.option("--compile", is_flag=True, help="Train through torch.compile: slower at first, faster in long trainings."),
    click.option("--no-mixed-precision", is_flag=True, help="Train in float32, whatever the device is good at."),
    seed_option,
    volume_options,
)


def job_options(function: F) -> F:
    """Add the options of a job: where it runs, its limits, how it is done."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class AskedJob:
    """A job as the command line or an earlier run gives it: nothing of it is loaded yet."""

    recipe: str
    target: str | None
    profile: str | None
    budget: Budget
    options: Options
    source: JsonObject | None = None

    def request(self, needs_budget: bool = True) -> RunRequest:
        """The job with its task.  What is wrong whatever the task is refused before the recipe runs, which may train for minutes."""
        from edgeprune.search.preflight import preflight
        from edgeprune.search.request import RunRequest
        from edgeprune.search.run import start_converter

        facts = preflight(self.target, self.profile, self.budget, self.options, needs_budget)
        if Path(self.recipe).is_file():
            start_converter(self.options)
        task = load_task(self.recipe, self.source)
        return RunRequest(task, self.budget, self.target, self.profile, self.options, self.recipe, facts, self.source)


def new_job(recipe: str | None, given: dict[str, Any]) -> AskedJob:
    """A job as the command line gives it."""
    from edgeprune.errors import TargetError
    from edgeprune.search import Options

    if recipe is None:
        raise click.UsageError("Give a RECIPE or an ONNX file, or --resume RUN.")
    if given["target"] is None and given["profile"] is None:
        raise TargetError(
            "neither --target nor --profile was given",
            remedy="--target local: measures on this machine; --profile raspberry-pi-4 predicts.",
        )
    source = asked_options(recipe, given)
    budget = Budget(**{kind: given[kind] for kind in (*FIGURES, "max_drop", "throughput")})
    options = Options(
        sensitivity=not given["no_sensitivity"],
        reconstruction=not given["no_reconstruction"],
        reuse=not given["no_reuse"],
        mixed_precision=not given["no_mixed_precision"],
        formats=tuple(name.strip() for name in given["formats"].split(",") if name.strip()),
        precision=tuple(name.strip() for name in given["precision"].split(",") if name.strip()),
        **{name: given[name] for name in _PASSED},
    )
    return AskedJob(str(Path(recipe).resolve()), given["target"], given["profile"], budget, options, asdict(source) if source else None)


def resumed_job(path: Path, given: dict[str, Any]) -> AskedJob:
    """The job that an earlier run was started with; where it computes is as the command line has ``given`` it."""
    from edgeprune.errors import RunError
    from edgeprune.search.fingerprint import asked_of
    from edgeprune.search.options import WHERE

    asked = asked_of(path)
    if not asked.recipe:
        raise RunError(
            f"{path} was not started from a recipe file", remedy="Resume it from Python: edgeprune.prune(task, ..., resume=path)."
        )
    where = {name: given[name] for name in WHERE}
    return AskedJob(asked.recipe, asked.target, asked.profile, asked.budget, replace(asked.options, **where), asked.source)


@contextmanager
def shown_progress() -> Iterator[EventStream]:
    """The stream of a command, on standard error: on a terminal stages are progress bars, and phases and messages lines above them; else
    lines alone."""
    from edgeprune.report.progress import Lines, ProgressBars
    from edgeprune.report.terminal import PlainConsole
    from edgeprune.search.events import EventStream

    loud = volume()
    if PlainConsole(stderr=True).is_terminal:
        with progress() as bars:
            yield EventStream(ProgressBars(bars, loud))
    else:
        with Lines(partial(echo, err=True), loud) as lines:
            yield EventStream(lines)
