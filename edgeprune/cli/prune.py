"""``edgeprune prune``: the main job."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.budget import FIGURES, format_quantity
from edgeprune.cli.exit_codes import OF_VERDICT, epilog
from edgeprune.cli.job import job_options, new_job, resumed_job, shown_progress
from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json

if TYPE_CHECKING:
    from edgeprune.search.run import Planned


@click.command(epilog=epilog())
@click.argument("recipe", required=False)
@job_options
@click.option("--dry-run", is_flag=True, help="Print the plan and its prediction; prune nothing.")
@json_option
def command(recipe: str | None, resume: Path | None, dry_run: bool, as_json: bool, runs: Path, **given: Any) -> int:
    """Prune the model of RECIPE to budgets that are measured on a device.

    RECIPE is a Python file with a function task() -> edgeprune.Task, or a model.onnx, which learns with the data of a recipe (--data), or
    from its own answers to images (--images) or arrays (--samples). Budgets are quantities (15ms, 20MB, 40mJ, 40M) or percentages of the
    dense model. With --max-drop alone, a few whole runs search for the fastest model within that drop. Everything is kept in a run
    directory; --resume continues an interrupted run.
    """
    from edgeprune.errors import BudgetError
    from edgeprune.report.summary import next_step
    from edgeprune.search import plan_only
    from edgeprune.search.frontier import swept
    from edgeprune.search.prune import prune_request

    if resume is not None and swept(resume) is not None:
        raise click.UsageError(f"{resume} is a sweep: edgeprune frontier --resume {resume}")
    job = resumed_job(resume, given) if resume is not None else new_job(recipe, given)
    if dry_run and not job.budget.limits():
        raise BudgetError("a dry run needs a limit other than --max-drop", remedy="Give one, for example --latency 50%.")
    request = job.request()
    with shown_progress() as events:
        if dry_run:
            with tempfile.TemporaryDirectory() as folder:
                plan = plan_only(request, Path(folder), events)
        else:
            result = prune_request(request, runs, resume, events)
    if dry_run:
        print_json(plan) if as_json else _show_plan(plan)
        return 0
    if as_json:
        where = {"run": result.run, "artifacts": result.artifacts, "checkpoint": result.checkpoint}
        print_json(result.summary | where | {"met": result.met, "verdict": result.verdict, "next_step": next_step(result.summary)})
    else:
        _show(result)
    return OF_VERDICT[result.verdict]


def _show(result: Any) -> None:
    from edgeprune.report import console_table
    from edgeprune.report.terminal import PlainConsole

    console_table(result.figures, PlainConsole(markup=True))
    out = console()
    for name, path in result.artifacts.items():
        out.print(f"{name:12} {path}", highlight=False)
    out.print(f"{'checkpoint':12} {result.checkpoint}", highlight=False)
    out.print(f"{'report':12} {result.run / 'report.html'}", highlight=False)


def _show_plan(plan: Planned) -> None:
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
