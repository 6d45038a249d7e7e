"""``edgeprune inspect``: what may be pruned in a model, what may not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.budget import counted
from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, print_json
from edgeprune.cli.source import asked_options, load_task, size_options

if TYPE_CHECKING:
    from edgeprune.report.structure import BlockEntry, GroupDetail, GroupEntry, Structure

REASONS_SHOWN = 12


@click.command(short_help="Show which channels of a model can be pruned, and why others cannot.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--group", "name", metavar="NAME", help="Show one group in full.")
@click.option(
    "--attention",
    type=click.Choice(["heads", "dimensions"]),
    help="What attention layers lose: whole heads, or the same number of dimensions in every head [default: the recipe's choice].",
)
@size_options
@json_option
def command(recipe: Path, name: str | None, attention: Any, as_json: bool, **given: Any) -> None:
    """Show which channels in the model of RECIPE can be pruned, and why others cannot.

    RECIPE is a Python file with a function task() -> edgeprune.Task, or a model.onnx. Nothing is measured or changed.

    A group is a set of channels with one number to decide: of its R x K units, each of the R rows keeps the same number. A group owns the
    parameters that go with its channels, in the layers that produce them and in the layers that read them. A weight between two groups
    counts for both, so the shares can add up to more than 100 %. A block is a residual branch that can be removed as a whole.
    """
    from rich.console import Console

    from edgeprune.graph import analyze
    from edgeprune.report.structure import describe, detail, find_group

    task = load_task(recipe, asked_options(recipe, given))
    with Console(stderr=True).status(f"analysing the channels of {recipe.name}"):
        analysis = analyze(task.model, task.example_inputs, tuple(task.protect), attention or task.attention)
        document = describe(analysis, task)
    if name is not None:
        entry = detail(analysis, task.model, find_group(analysis, name))
        print_json(entry) if as_json else _show_detail(entry)
    elif as_json:
        print_json(document)
    else:
        _show(document)


def _show(document: Structure) -> None:
    from rich.table import Table

    out = console()
    table = _numbers(Table(title="groups", title_justify="left"), "group", "units", "parameters", "share")
    constrained = any(group["constraints"] for group in document["groups"])
    for heading in ("produced by", "read by", *(["rows keep equally many"] if constrained else [])):
        table.add_column(heading, overflow="fold")
    for group in document["groups"]:
        texts = [_brief(group["producers"]), _brief(group["readers"])] + (["; ".join(group["constraints"])] if constrained else [])
        table.add_row(group["name"], _units(group), *_owned(group), *texts)
    out.print(table)
    if document["blocks"]:
        table = _numbers(Table(title="blocks that can be removed", title_justify="left"), "block", "parameters", "share", "redundancy")
        table.add_column("groups in it")
        for block in document["blocks"]:
            score = "" if block["redundancy"] is None else f"{block['redundancy']:.3f}"
            table.add_row(block["name"], *_owned(block), score, _brief(block["groups"]))
        out.print(table)
    _show_fixed(document, out)
    if document["parts"]:
        text = f"Analysed by submodule ({', '.join(document['parts'])}), because it cannot be captured whole: {document['whole']}"
        out.print(text, highlight=False, soft_wrap=True)
    made = document["outputs"]
    units = sum(group["rows"] * group["units"] for group in document["groups"])
    groups, blocks = counted(len(document["groups"]), "group"), counted(len(document["blocks"]), "block")
    out.print(
        f"{document['model']}: {groups} of {units:,} channels own {_percent(document['prunable'])} of {document['parameters']:,} "
        f"parameters; {blocks} can be removed. "
        f"Of {made['channels']:,} channels that layers make, {made['channels'] - made['free']:,} stay.",
        highlight=False,
        soft_wrap=True,
    )


def _show_fixed(document: Structure, out: Any) -> None:
    from rich.table import Table

    if document["fixed"]:
        table = _numbers(Table(title="channels that stay, and why", title_justify="left"), "", "channels")
        table.columns[0].header = "reason"
        for entry in document["fixed"][:REASONS_SHOWN]:
            table.add_row(entry["reason"], str(entry["channels"]))
        if more := document["fixed"][REASONS_SHOWN:]:
            table.add_row(f"{len(more)} more reasons: --json lists all", str(sum(entry["channels"] for entry in more)))
        out.print(table)
    if (training := document["training"]) and (training["layers"] or training["why"]):
        names = ", ".join(name or "the model itself" for name in training["layers"]) or "training"
        how = f"not captured: {training['why']}" if training["why"] else "cut along, and checked in training too"
        out.print(f"acts in training only: {names} ({how})", highlight=False, soft_wrap=True)
    if document["unsupported"]:
        counts = Counter(entry["operation"] for entry in document["unsupported"])
        table = _numbers(Table(title="operations without a rule: all that reaches them stays", title_justify="left"), "operation", "times")
        for operation, count in counts.most_common():
            table.add_row(operation, str(count))
        out.print(table)


def _show_detail(entry: GroupDetail) -> None:
    from rich.table import Table

    out = console()
    owned, share = _owned(entry)
    out.print(f"{entry['name']}: {_units(entry)} units, which own {owned} parameters ({share})", highlight=False)
    for reason in entry["constraints"]:
        out.print(f"  every row keeps equally many: {reason}", highlight=False)
    if entry["block"]:
        out.print(f"  may go whole with block {entry['block']}", highlight=False)
    table = Table("parameter or buffer", "", "shape")
    table.add_column("owned", justify="right")
    for part in entry["stored"]:
        shape = " x ".join(str(size) for size in part["shape"] or ())
        table.add_row(part["name"], f"{part['role']} them", shape, f"{part['owned']:,}" if part["owned"] else "")
    out.print(table)


def _numbers(table: Any, first: str, *others: str) -> Any:
    """Columns of which all but the first hold numbers."""
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _units(group: GroupEntry) -> str:
    return str(group["units"]) if group["rows"] == 1 else f"{group['rows']} x {group['units']}"


def _owned(entry: GroupEntry | BlockEntry) -> tuple[str, str]:
    return f"{entry['parameters']:,}", _percent(entry["share"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _brief(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"
