"""``edgeprune sparsify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgeprune.budget import format_quantity, format_score, parse_limit
from edgeprune.cli.exit_codes import OF_VERDICT, Exit
from edgeprune.cli.options import device_option, json_option, seed_option, volume_options
from edgeprune.cli.output import console, print_json
from edgeprune.decode import JsonObject


def _share(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """85%, 0.85 or auto."""
    if value is None or value == "auto":
        return value
    try:
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise click.BadParameter(f"{value!r} is not a share of zeros: write 85%, 0.85 or auto")
    return share


def _latency(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        parse_limit("latency", value)
    return value


@click.command(short_help="Make most weights zero, so that ARM devices run the model faster.")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--check",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Show whether sparse kernels will run this TFLite file, and if not, why.",
)
@click.option(
    "--sparsity", metavar="SHARE", callback=_share, help="Share of the weights to make zero: 85%; or auto, with --target and --latency."
)
@click.option("--target", metavar="TARGET", help="Device to measure on: a name, local:, or ssh://user@host:port.")
@click.option("--latency", metavar="TIME", callback=_latency, help="Latency limit (median) for auto: 15ms, or 50% of the dense model.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Start from this pruned model of the recipe (.safetensors).")
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Whether the share holds for each layer, or for all layers together.",
)
@click.option(
    "--block",
    type=click.Choice(["1", "2", "4"]),
    default="1",
    show_default=True,
    help="Number of output channels that become zero together.",
)
@click.option("--no-linear", is_flag=True, help="Keep linear layers dense: only 1x1 convolutions get faster.")
@click.option("--epochs", type=click.FloatRange(min=0), help="Epochs of training [default: the task's].")
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the device [default: its cores, at most 4].")
@device_option
@seed_option
@volume_options
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the run. Give it again to continue an interrupted run [default: runs/...].",
)
@json_option
def command(recipe: Path | None, check: Path | None, as_json: bool, **given: Any) -> int:
    """Train the model of RECIPE until most weights of its 1x1 convolutions and linear layers are zero, and export it sparse.

    ARM devices with XNNPACK (ai-edge-litert, tflite-runtime) run such a file faster if the network's structure allows it. --check tests
    any file. --sparsity auto compares sparse weights, fewer channels and both, and keeps the one with the least loss that meets --latency.
    """
    if check is not None:
        return _check(check, as_json)
    if recipe is None or given["sparsity"] is None:
        raise click.UsageError("Give a RECIPE and --sparsity, or --check FILE.")
    if given["sparsity"] == "auto" and (given["target"] is None or given["latency"] is None or given["checkpoint"] is not None):
        raise click.UsageError("--sparsity auto needs --target and --latency, and starts from the recipe's model, not from a checkpoint.")
    if given["sparsity"] != "auto" and given["latency"] is not None:
        raise click.UsageError("--latency needs --sparsity auto.")
    outcome = _run(recipe, given)
    if as_json:
        print_json(_document(outcome))
    else:
        _show(outcome)
    return Exit.DONE if outcome.verdict is None else OF_VERDICT[outcome.verdict]


def _check(path: Path, as_json: bool) -> int:
    from edgeprune.export.sparse.check import sparse_check

    report = sparse_check(path)
    if as_json:
        print_json({"path": path} | _check_json(report))
    else:
        _show_check(report)
    return 0 if report.taken else 1


def _run(recipe: Path, given: dict[str, Any]) -> Any:
    from edgeprune.cli.job import shown_progress
    from edgeprune.placement import resolve
    from edgeprune.runs.directory import RunDirectory
    from edgeprune.search.sparse.run import SparseSettings, check_sparse, make_sparse, sparsify_to
    from edgeprune.task import load_recipe

    check_sparse(None if given["sparsity"] == "auto" else given["sparsity"], given["target"], given["checkpoint"])
    if given["device"] is not None:
        resolve(given["device"])
    task = load_recipe(recipe)
    if given["device"] is not None:
        task = replace(task, device=given["device"])
    settings = SparseSettings(
        given["scope"], int(given["block"]), not given["no_linear"], given["epochs"], threads=given["threads"], seed=given["seed"]
    )
    run = RunDirectory(given["output"]) if given["output"] is not None else RunDirectory.create(Path("runs"), f"{task.name}-sparse")
    try:
        with shown_progress() as events:
            if given["sparsity"] == "auto":
                return sparsify_to(task, given["latency"], given["target"], run, events, settings)
            return make_sparse(task, given["sparsity"], run, events, settings, pruned=given["checkpoint"], target=given["target"])
    finally:
        run.close()


def _document(outcome: Any) -> JsonObject:
    files = {name: {"path": path, "size_bytes": path.stat().st_size} for name, path in outcome.files.items()}
    ratio = None if outcome.ratio is None else dict(zip(("ratio", "low", "high"), outcome.ratio, strict=True))
    scores: JsonObject = {}
    for name, score in (("dense_score", outcome.dense_score), ("score", outcome.score)):
        scores |= {name: score.value if score else None, f"{name}_error": score.error if score else None}
    names = ("kind", "sparsity", "layers", "checkpoint", "met", "verdict")
    check = None if outcome.check is None else _check_json(outcome.check)
    return {name: getattr(outcome, name) for name in names} | scores | {"files": files, "latency": ratio, "check": check}


def _check_json(report: Any) -> JsonObject:
    from dataclasses import asdict

    return {"taken": report.taken, "wrong": report.wrong} | asdict(report)


def _show(outcome: Any) -> None:
    out = console()
    if outcome.kind != "channel":
        out.print(f"{100 * outcome.sparsity:.1f} % of the weights are zero", highlight=False)
    if outcome.score is not None:
        before, after = (format_score(one.value, one.error) for one in (outcome.dense_score, outcome.score))
        out.print(f"score      {before} -> {after}", highlight=False)
    if outcome.ratio is not None:
        ratio, low, high = outcome.ratio
        against = "dense file's" if outcome.met is None else "dense model's"
        out.print(f"latency    {ratio:.3f} of the {against} ({low:.3f} to {high:.3f}), measured in turns", highlight=False)
    for name, path in outcome.files.items():
        out.print(f"{name:13} {path} ({format_quantity('size', path.stat().st_size)})", highlight=False, soft_wrap=True)
    out.print(f"{'checkpoint':13} {outcome.checkpoint}", highlight=False)
    if outcome.check is not None:
        _show_check(outcome.check)


def _show_check(report: Any) -> None:
    out = console()
    if report.taken:
        share = f"{100 * report.zeros:.0f} % of their weights are zero"
        out.print(
            f"Sparse kernels run {report.sparse} of {report.pointwise} 1x1 convolutions on ARM: {share}.", highlight=False, soft_wrap=True
        )
    elif report.wrong:
        out.print("This file gives wrong results on ARM devices, or does not load there.", highlight=False)
    elif report.pointwise:
        out.print("No sparse kernel will run: this file is as fast as the dense one.", highlight=False)
    else:
        out.print("No sparse kernel will run: the network has no 1x1 convolution.", highlight=False)
    for finding in report.findings:
        place = finding.output.split(";")[0].rsplit("/", 1)[-1]
        out.print(
            f"  operator {finding.index}, {finding.operation} ({place}): {finding.why}. {finding.remedy}", highlight=False, soft_wrap=True
        )
