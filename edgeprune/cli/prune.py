"""``edgeprune prune``: the main job."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from edgeprune.budget import FIGURES, Budget, format_quantity
from edgeprune.cli.options import budget_options, json_option
from edgeprune.cli.output import console, print_json, progress


@click.command()
@click.argument("recipe", required=False)
@click.option("--target", metavar="TARGET", help="Device to measure on: a name, local:, or ssh://user@host:port.")
@click.option("--profile", metavar="NAME", help="Known facts of a device; without --target everything is predicted from it.")
@budget_options
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with an earlier run; all else is taken from it.")
@click.option(
    "--runs", metavar="DIR", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where run directories are made."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and its prediction; prune nothing.")
@click.option("--epochs", type=click.FloatRange(min=0), help="Fine-tuning epochs in all [default: the task's].")
@click.option(
    "--schedule", type=click.Choice(["auto", "one-shot", "iterative"]), default="auto", show_default=True, help="Cut at once or in stages."
)
@click.option("--criterion", metavar="NAME", help="Channel importance [default: taylor with data, else l2].")
@click.option("--no-sensitivity", is_flag=True, help="Do not measure how the loss depends on every group.")
@click.option("--no-reconstruction", is_flag=True, help="Do not solve the weights that are left anew from calibration data.")
@click.option("--engine", type=click.Choice(["tflite", "torchscript"]), help="What the device runs [default: tflite where it can].")
@click.option(
    "--format", "formats", default="tflite,torchscript,pt2", show_default=True, metavar="LIST", help="Formats exported at the end."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the device [default: its cores, at most 4].")
@click.option("--step", type=click.IntRange(min=1), help="Block of channels [default: the profile's].")
@click.option("--measurements", type=click.IntRange(min=1), default=8, show_default=True, help="Most measurements of pruned models.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def command(recipe: str | None, resume: Path | None, dry_run: bool, as_json: bool, runs: Path, **given: Any) -> int:
    """Prune the model of RECIPE to budgets that are measured on a device.

    RECIPE is a Python file with a function task() -> edgeprune.Task. Budgets are quantities (15ms, 20MB, 40mJ) or percentages of the dense
    model. Everything is kept in a run directory; an interrupted run goes on with --resume.
    """
    from edgeprune.errors import TargetError
    from edgeprune.search import plan_only, prune
    from edgeprune.task import load_recipe

    job = _resumed(resume) if resume is not None else _new(recipe, given)
    if job["target"] is None and job["profile"] is None:
        raise TargetError(
            "neither --target nor --profile was given",
            remedy="--target local: measures on this machine; --profile raspberry-pi-4 predicts.",
        )
    task = load_recipe(job["recipe"])
    budget, options = job["budget"], job["options"]
    with _Progress() as listener:
        if dry_run:
            with tempfile.TemporaryDirectory() as folder:
                plan = plan_only(task, job["target"], job["profile"], budget, options, Path(folder), listener)
        else:
            result = prune(
                task,
                job["target"],
                profile=job["profile"],
                budget=budget,
                options=options,
                runs=runs,
                resume=resume,
                listener=listener,
                recipe=job["recipe"],
            )
    if dry_run:
        print_json(plan) if as_json else _show_plan(plan)
        return 0
    if as_json:
        print_json(result.summary | {"run": result.run, "artifacts": result.artifacts, "checkpoint": result.checkpoint, "met": result.met})
    else:
        _show(result)
    return 0 if result.met else 1


def _new(recipe: str | None, given: dict[str, Any]) -> dict[str, Any]:
    from edgeprune.search import Options

    if recipe is None:
        raise click.UsageError("Give a RECIPE, or --resume RUN.")
    budget = Budget(**{kind: given[kind] for kind in (*FIGURES, "max_drop")})
    options = Options(
        sensitivity=not given["no_sensitivity"],
        reconstruction=not given["no_reconstruction"],
        formats=tuple(name.strip() for name in given["formats"].split(",") if name.strip()),
        **{name: given[name] for name in ("criterion", "schedule", "epochs", "engine", "threads", "step", "measurements", "seed")},
    )
    return {
        "recipe": str(Path(recipe).resolve()),
        "target": given["target"],
        "profile": given["profile"],
        "budget": budget,
        "options": options,
    }


def _resumed(path: Path) -> dict[str, Any]:
    """The inputs that an earlier run was started with."""
    from edgeprune.errors import RunError
    from edgeprune.search import Options
    from edgeprune.search.rundir import read_inputs

    inputs = read_inputs(path)
    if not inputs.get("recipe"):
        raise RunError(
            f"{path} was not started from a recipe file", remedy="Resume it from Python: edgeprune.prune(task, ..., resume=path)."
        )
    options = Options(**(inputs["options"] | {"formats": tuple(inputs["options"]["formats"])}))
    return inputs | {"budget": Budget(**inputs["budget"]), "options": options}


def _show(result: Any) -> None:
    from rich.console import Console

    from edgeprune.report import console_table

    console_table(result.summary, Console())
    out = console()
    for name, path in result.artifacts.items():
        out.print(f"{name:12} {path}", highlight=False)
    out.print(f"{'checkpoint':12} {result.checkpoint}", highlight=False)
    out.print(f"{'report':12} {result.run / 'report.html'}", highlight=False)


def _show_plan(plan: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("group", "kept", "of")
    for group in plan["groups"]:
        table.add_row(group["name"], str(group["kept"]), str(group["total"]))
    out = console()
    out.print(table)
    out.print("Predicted, not measured:")
    for kind, name in FIGURES.items():
        limit = plan["limits"].get(kind)
        bound = f", at most {format_quantity(kind, limit)}" if limit is not None else ""
        out.print(
            f"{kind:10} {format_quantity(kind, plan['dense'][name])} -> {format_quantity(kind, plan['predicted'][name])}{bound}",
            highlight=False,
        )


class _Progress:
    """Shows stages as progress bars, and notes as lines above them."""

    def __init__(self) -> None:
        self._bars = progress()
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Progress:
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
