"""``edgeprune compare-criteria``."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.options import device_option, json_option, seed_option, workers_options
from edgeprune.cli.output import console, print_json, progress


def _shares(_: click.Context, __: click.Parameter, value: str) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.25,0.5") from error


@click.command(short_help="Show how well each criterion predicts the effect of removing channels.")
@click.argument("recipe")
@click.option("--criteria", metavar="LIST", help="Criteria to judge: l2,taylor [default: all that apply].")
@click.option(
    "--share", "shares", metavar="LIST", default="0.25,0.5", show_default=True, callback=_shares, help="Shares of every group to remove."
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=96,
    show_default=True,
    help="Number of random channels, and of random subsets, to remove.",
)
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Training samples for each measurement.")
@device_option
@workers_options
@seed_option
@json_option
def command(
    recipe: str,
    criteria: str | None,
    device: str | None,
    workers: str | None,
    gpus_per_candidate: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how well each criterion predicts the effect of removing channels from the model of RECIPE.

    Channels, and random subsets of them, are masked and the batch-norm statistics measured again. The answers are compared with the whole
    model's on training data that no criterion has seen. "one channel", "all groups" (their channels together) and "subset" are rank
    correlations of predictions and measurements, with 95 % intervals: 1 is the true order, 0 is chance. "one group" is the loss
    from removing the largest share of one group in the criterion's order, relative to random subsets: 1 is chance, lower is better. The
    losses are those of the model without the lowest-ranked share of every group. Nothing is changed, and no target is needed.
    """
    from edgeprune.criteria.study import check_asked, compare_criteria
    from edgeprune.execute import executor_of
    from edgeprune.graph import analyze
    from edgeprune.placement import resolve
    from edgeprune.task import load_recipe

    names = [name.strip() for name in criteria.split(",") if name.strip()] if criteria else None
    check_asked(names, options["shares"])
    if device is not None:
        resolve(device)
    with progress() as bars, ExitStack() as stack:
        bar = bars.add_task("analysing", total=None)
        task = load_recipe(recipe)
        made = executor_of(workers, gpus_per_task=gpus_per_candidate, folder_of_recipe=Path(recipe).resolve().parent)
        executor = stack.enter_context(closing(made))
        task = task if device is None else replace(task, device=device)
        analysis = analyze(task.model, task.example_inputs, task.protect, task.attention)
        found = compare_criteria(
            task,
            analysis,
            names,
            on_progress=lambda done, total, what: bars.update(bar, completed=done, total=total, description=what),
            executor=executor,
            **options,
        )
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Any) -> None:
    from rich.table import Table

    shares = [followed.share for followed in found.criteria[0].followed] if found.criteria else []
    table = Table("criterion", "one channel", "all groups", "subset", "one group", *(f"loss -{share:.0%}" for share in shares), "seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found.criteria:
        losses = [f"{followed.effect.recalibrated.loss:.3g}" for followed in one.followed]
        table.add_row(one.name, *map(_interval, (one.channel, one.across, one.subset, one.alone)), *losses, f"{one.seconds:.1f}")
    out = console()
    out.print(table)
    out.print(
        f"Loss of the whole model: {found.dense.plain.loss:.3g}. Rank correlations with the measured divergence of "
        f"{len(found.channels)} channels and {len(found.subsets)} subsets, each on {found.images} samples.",
        highlight=False,
    )
    for name, reason in found.skipped.items():
        out.print(f"{name}: {reason}", highlight=False)


def _interval(estimate: Any) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f}..{estimate.high:.2f})"
