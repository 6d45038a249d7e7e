"""``edgeprune frontier``: the metric against a limit, swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.budget import FIGURES
from edgeprune.cli.exit_codes import Exit, epilog
from edgeprune.cli.job import job_options, new_job, resumed_job, shown_progress
from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json


@click.command(epilog=epilog())
@click.argument("recipe", required=False)
@click.option("--kind", type=click.Choice(list(FIGURES)), default="latency", show_default=True, help="The limit to sweep.")
@click.option("--levels", metavar="LIST", default="80%,65%,50%,40%,30%", show_default=True, help="Values of that limit.")
@job_options
@json_option
def command(recipe: str | None, kind: str, levels: str, resume: Path | None, as_json: bool, runs: Path, **given: Any) -> int:
    """Prune the model of RECIPE to several limits and show the Pareto front.

    Every level is a run of its own, tuned and measured. All runs share the device's table, the dense model's measurement and the
    sensitivities. Other limits hold at every level. The command writes frontier.json and frontier.html (a chart). --resume continues an
    interrupted sweep.
    """
    from edgeprune.report.frontier import console_frontier
    from edgeprune.search.frontier import check_levels, frontier_of, swept

    if resume is not None:
        job, sweep = resumed_job(resume, given), swept(resume)
        if sweep is None:
            raise click.UsageError(f"{resume} is not a sweep: edgeprune prune --resume {resume}")
        kind, wanted = sweep.kind, sweep.levels
    else:
        job, wanted = new_job(recipe, given), [level.strip() for level in levels.split(",") if level.strip()]
    check_levels(kind, wanted, job.budget)
    request = job.request(needs_budget=False)
    with shown_progress() as events:
        found = frontier_of(request, kind, wanted, runs, resume, events)
    if as_json:
        print_json(found.to_json() | {"folder": found.folder})
    else:
        out = console()
        out.print(console_frontier(found))
        out.print(f"{found.folder / 'frontier.html'}", highlight=False)
    return Exit.DONE if any(point.best for point in found.points) else Exit.MISSED
