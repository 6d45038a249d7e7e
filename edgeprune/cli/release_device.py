"""``edgeprune release push``, ``status``, ``rollback``, ``prune`` and ``unpack``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli.live import watch
from edgeprune.cli.options import json_option
from edgeprune.cli.output import console, echo, error_json, failures_code, print_json, show_error
from edgeprune.decode import JsonObject

if TYPE_CHECKING:
    from edgeprune.bench.fleet import Outcome
    from edgeprune.devices import Target
    from edgeprune.release.deploy.fleet import Rollout
    from edgeprune.release.deploy.installed import Status
    from edgeprune.release.deploy.push import Pushed

F = TypeVar("F", bound=Callable[..., Any])
_ROOT = "Folder on the device that holds a folder for every product.  [default: ~/edgeprune]"
_TARGET = "A target's name, a group or an address, or several: pi4,pi5."


def parse_share(_: click.Context, __: click.Parameter, text: str) -> float:
    """``10%`` as 0.1."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is not a share from 0% to 100%")
    return share


def device_options(function: F) -> F:
    """Add ``--target``, ``--root`` (passed as ``base``) and ``--json``."""
    function = json_option(function)
    function = click.option("--root", "base", metavar="FOLDER", default="~/edgeprune", help=_ROOT)(function)
    return click.option("--target", required=True, help=_TARGET)(function)


@click.command(short_help="Send a release to devices and switch them to it.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--allowed-signers", type=click.Path(path_type=Path), required=True, help="File of trusted signers (ssh-keygen's format).")
@click.option("--threshold", type=click.IntRange(min=1), help="Number of valid signatures to require.  [default: as the release asks]")
@click.option("--replace-signers", is_flag=True, help="Make the device trust the --allowed-signers file instead of the one it has.")
@click.option("--variant", metavar="NAME", help="The variant to send [default: the one that fits].")
@click.option("--after", metavar="COMMAND", help="Run this on the device, in the new release's folder; the device goes back if it fails.")
@click.option(
    "--canary", type=click.IntRange(min=0), default=1, show_default=True, help="Number of devices that get the release first, alone."
)
@click.option("--wave", type=click.IntRange(min=1), default=10, show_default=True, help="Number of devices at a time after that.")
@click.option(
    "--max-failures", callback=parse_share, default="0%", show_default=True, help="Stop if more than this share of the devices has failed."
)
@click.option(
    "--wait", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Longest wait for other users of a device, in seconds."
)
@device_options
def push(bundle: Path, target: str, as_json: bool, **given: Any) -> int:
    """Verify BUNDLE, send each device what it lacks, check on the device that it works, and switch to it.

    At every moment a device serves the whole old release or the whole new one. A device on which the release does not work goes back by
    itself.  A second push continues an interrupted one.

    Exit codes: 0 all have it; 1 the only device failed, or the bundle is refused; with several devices, 10 plus the number that failed.
    """
    from edgeprune.devices.targets import resolve_targets
    from edgeprune.release.bundle.file import Bundle
    from edgeprune.release.bundle.signers import read_signers
    from edgeprune.release.bundle.verify import verify
    from edgeprune.release.deploy.fleet import Waves, push_all
    from edgeprune.release.deploy.push import PushOptions

    targets = resolve_targets(target)
    waves = Waves(given["canary"], given["wave"], given["max_failures"])
    with Bundle.open(bundle) as opened:
        threshold = given["threshold"] or opened.manifest.threshold
        verified = verify(opened, read_signers(given["allowed_signers"]), threshold)
        options = PushOptions(
            **{name: given[name] for name in ("base", "variant", "replace_signers", "after")},
            signers=given["allowed_signers"],
            threshold=threshold,
            lock_timeout_s=given["wait"],
        )
        with watch(targets) as show:
            rollout = push_all(opened, targets, options, waves, show)
        release = {"product": opened.manifest.product, "version": opened.manifest.version, "signers": list(verified.signers)}
    if len(targets) == 1 and (error := rollout.outcomes[0].error):
        raise error
    if as_json:
        print_json(release | _rollout_json(rollout))
    else:
        _print_rollout(f"{opened.manifest.product} {opened.manifest.version}", opened.manifest.version, verified.signers, rollout)
    return failures_code([outcome.error for outcome in rollout.outcomes])


def _rollout_json(rollout: Rollout) -> JsonObject:
    devices = [_outcome_json(outcome, asdict(outcome.result) if outcome.result else {}) for outcome in rollout.outcomes]
    return {"devices": devices, "failed": rollout.failed, "spared": [target.name for target in rollout.spared]}


def _outcome_json(outcome: Outcome[Any], result: JsonObject) -> JsonObject:
    return {"target": outcome.target.name} | result | error_json(outcome.error)


def _print_rollout(name: str, version: str, signers: Sequence[str], rollout: Rollout) -> None:
    echo(f"{name}, signed by {', '.join(signers)}")
    for outcome in rollout.outcomes:
        if outcome.result:
            echo(f"  {_name(outcome.target.name)}: {_outcome_text(outcome.result)}")
            for note in outcome.result.notes:
                echo(f"    {note}")
    _show_failures(rollout.outcomes)
    if rollout.spared:
        names = ", ".join(target.name for target in rollout.spared)
        show_error(f"stopped: {rollout.failed} of {len(rollout.outcomes)} devices failed", f"Not touched: {names}")
        if any(outcome.result for outcome in rollout.outcomes):
            again = f"edgeprune release rollback --from {version} --target ..."
            echo(f"to roll back the devices that use it now, and no others: {again}", err=True)


def _name(target: str) -> str:
    """A target's name as the beginning of a line."""
    return target.rstrip(":")


def _outcome_text(done: Pushed) -> str:
    """A device's part in a line."""
    from edgeprune.budget import counted, format_quantity

    if done.state == "unchanged":
        return f"unchanged, nothing sent ({done.path})"
    parts = [f"variant {done.variant}", f"sent {format_quantity('size', done.sent_bytes)} in {counted(done.sent_files, 'file')}"]
    if done.health.deviation is not None:
        parts.append(f"outputs within {done.health.deviation:.1g}" if done.health.deviation else "outputs equal")
    if done.health.latency_ms is not None:
        parts.append(f"{done.health.latency_ms:.3f} ms")
    if done.signed:
        parts.append(f"{counted(done.signed, 'signer')} verified on the device")
    came = f"was {done.previous}" if done.previous else "the first release"
    gave_up = f"; {done.recovered}, left unconfirmed by an interrupted push, was given up" if done.recovered else ""
    did = "mended" if done.previous == done.version else f"switched ({came}{gave_up})"
    return f"{did}; {', '.join(parts)}"


def _show_failures(outcomes: Sequence[Outcome[Any]]) -> None:
    for outcome in outcomes:
        if outcome.error:
            show_error(f"{_name(outcome.target.name)}: {outcome.error.message}", outcome.error.remedy)


def _each(target: str, work: Callable[[Target], Any]) -> list[Outcome[Any]]:
    """Do something on every target, side by side; what goes wrong on the only one is raised."""
    from edgeprune.bench.fleet import side_by_side
    from edgeprune.devices.targets import resolve_targets

    outcomes: list[Outcome[Any]] = side_by_side(resolve_targets(target), lambda one, _: work(one))
    if len(outcomes) == 1 and (error := outcomes[0].error):
        raise error
    return outcomes


def _finish(outcomes: Sequence[Outcome[Any]], as_json: bool, document: Callable[[Any], JsonObject], line: Callable[[Any], None]) -> int:
    if as_json:
        devices = [_outcome_json(outcome, document(outcome.result) if outcome.result is not None else {}) for outcome in outcomes]
        print_json({"devices": devices})
    else:
        for outcome in outcomes:
            if outcome.result:
                line(outcome.result)
            elif outcome.error is None:
                echo(f"{_name(outcome.target.name)}: no releases")
        _show_failures(outcomes)
    return failures_code([outcome.error for outcome in outcomes])


@click.command(short_help="Show the releases on devices, and which is in use.")
@click.option("--check", is_flag=True, help="Read every file on the device, and name the damaged ones.")
@device_options
def status(target: str, base: str, check: bool, as_json: bool) -> int:
    """Show the releases of every product on the devices.  With --check, the exit code is 3 if a file is damaged."""
    from edgeprune.release.deploy.installed import status as installed

    outcomes = _each(target, lambda one: installed(one, base, check))
    code = _finish(outcomes, as_json, lambda found: {"products": [asdict(item) for item in found]}, _print_status)
    bad = any(release.damaged for outcome in outcomes for item in outcome.result or () for release in item.releases)
    return code or (3 if bad else 0)


def _print_status(found: list[Status]) -> None:
    from rich.table import Table

    from edgeprune.budget import format_quantity

    for item in found:
        echo(f"{_name(item.target)}: {item.product} {item.current or '(nothing in use)'}, {item.path}")
        if item.pending:
            echo(f"  {item.pending} is not confirmed: its push was interrupted. The next push, or the device's next start, goes back")
        table = Table("version", "sequence", "variant", "size", "state")
        for release in reversed(item.releases):
            role = {item.committed: "in use", item.previous: "before"}.get(release.version, "")
            whole = "" if release.damaged is None else "damaged: " + ", ".join(release.damaged) if release.damaged else "whole"
            size = format_quantity("size", release.bytes)
            table.add_row(release.version, str(release.sequence), release.variant, size, ", ".join(filter(None, (role, whole))))
        console().print(table)


@click.command(short_help="Switch devices back to an earlier release that they have.")
@click.option("--product", help="The product, if a device has several.")
@click.option("--to", "version", metavar="VERSION", help="The version to go back to [default: the one before].")
@click.option("--from", "only_from", metavar="VERSION", help="Change only devices that use this version now.")
@click.option("--after", metavar="COMMAND", help="Run this on the device, in the release's folder; the device stays as it was if it fails.")
@device_options
def rollback(
    target: str, base: str, product: str | None, version: str | None, only_from: str | None, after: str | None, as_json: bool
) -> int:
    """Switch devices back to an earlier release that they still have. Nothing is sent."""
    from edgeprune.release.deploy.installed import RolledBack
    from edgeprune.release.deploy.installed import rollback as roll

    outcomes = _each(target, lambda one: roll(one, product, version, base, after, only_from))

    def line(it: RolledBack) -> None:
        echo(f"{_name(it.target)}: {it.product} {it.version} ({'stays in use' if it.left == it.version else f'was {it.left}'})")

    return _finish(outcomes, as_json, asdict, line)


@click.command(short_help="Remove old releases from devices.")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Number of newest releases to keep.")
@click.option("--product", help="Only releases of this product.")
@device_options
def prune(target: str, base: str, keep: int, product: str | None, as_json: bool) -> int:
    """Remove all but the newest releases; the one in use and the one before always stay."""
    from edgeprune.release.deploy.installed import PrunedReleases, prune_releases

    def line(found: list[PrunedReleases]) -> None:
        from edgeprune.budget import format_quantity

        for item in found:
            removed = ", ".join(item.removed) or "nothing"
            echo(f"{_name(item.target)}: {item.product}: removed {removed}, freed {format_quantity('size', item.freed_bytes)}")

    outcomes = _each(target, lambda one: prune_releases(one, keep, product, base))
    return _finish(outcomes, as_json, lambda found: {"products": [asdict(item) for item in found]}, line)


@click.command(short_help="Write a release's files to a folder, to build into a program.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--allowed-signers", type=click.Path(path_type=Path), required=True, help="File of trusted signers (ssh-keygen's format).")
@click.option("--threshold", type=click.IntRange(min=1), help="Number of valid signatures to require.  [default: as the release asks]")
@click.option("--variant", metavar="NAME", help="The variant to write [default: the only one].")
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write.")
@json_option
def unpack(bundle: Path, allowed_signers: Path, threshold: int | None, variant: str | None, folder: Path, as_json: bool) -> None:
    """Verify BUNDLE and write the files of one variant as devices store them, for a phone's assets or for firmware."""
    from edgeprune.release.bundle.file import Bundle
    from edgeprune.release.bundle.signers import read_signers
    from edgeprune.release.bundle.unpack import unpack as write
    from edgeprune.release.bundle.verify import verify

    with Bundle.open(bundle) as opened:
        verify(opened, read_signers(allowed_signers), threshold)
        write(opened, variant, folder)
        release = {"product": opened.manifest.product, "version": opened.manifest.version, "folder": folder}
    if as_json:
        print_json(release)
    else:
        echo(f"{release['product']} {release['version']}: {folder}")
