"""``edgeprune report``: the report of a run once more."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.cli.output import echo


@click.command(short_help="Write the report of a run again.")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> int:
    """Write RUN/report.html again from what the run directory RUN holds: after an update of edgeprune, or for a run that did not end."""
    from edgeprune.errors import RunError
    from edgeprune.report import write_report
    from edgeprune.report.failure import write_failure
    from edgeprune.runs.document import NAME, read_document
    from edgeprune.runs.summary import read_summary

    document = read_document(run)
    if document is None:
        raise RunError(f"{run} is not a run directory: it has no {NAME}", remedy="Give the folder that edgeprune prune named at its end.")
    if best := document.get("best"):  # of a search of several runs
        run = run / best
    path, summary = run / "report.html", read_summary(run)
    if summary is None:
        write_failure(run)
    else:
        write_report(summary, path)
    echo(str(path))
    return 0
