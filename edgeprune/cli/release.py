"""``edgeprune release``: what is done to a bundle here; what is done with it on devices is in :mod:`edgeprune.cli.release_device`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.budget import parse_limit
from edgeprune.cli import release_device
from edgeprune.cli.options import history_option, json_option
from edgeprune.cli.output import console, echo, print_json
from edgeprune.decode import JsonObject

if TYPE_CHECKING:
    from edgeprune.release import Bundle, Manifest, Variant

BUNDLE = click.Path(path_type=Path)


@click.group(short_help="Build, sign and verify releases, and send them to devices.")
def command() -> None:
    """Build a release from finished runs, sign it, check it, and send it to devices."""


for device_command in (release_device.push, release_device.status, release_device.rollback, release_device.prune, release_device.unpack):
    command.add_command(device_command)


def _named(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    """``NAME=A,B`` (again and again) as a list by name."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        items = [item for item in rest.split(",") if item]
        if not name or not equals or not items:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE", param=parameter)
        found.setdefault(name, []).extend(items)
    return found


def _runs(_: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Path]:
    """``pi4=RUN,pi5=RUN`` as a folder by name."""
    runs: dict[str, Path] = {}
    for item in value.split(",") if value else ():
        name, equals, path = item.partition("=")
        if not name or not equals or not path:
            raise click.BadParameter(f"{item!r} is not of the form NAME=RUN", param=parameter)
        if name in runs:
            raise click.BadParameter(f"the variant {name} is given twice", param=parameter)
        runs[name] = Path(path)
    return runs


def _memory(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    limit = parse_limit("memory", value)
    if limit.relative:
        raise click.BadParameter("give bytes, such as 512MB")
    return int(limit.value)


def _list(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in value.split(",") if item.strip())


@command.command(short_help="Build a bundle from finished runs.")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--variants", callback=_runs, metavar="NAME=RUN,...", help="One run for each device family; RUN itself becomes the variant default."
)
@click.option("--version", required=True, help="Version of the release, such as 1.4.0 (semver.org).")
@click.option("--product", help="The product's name [default: the task's].")
@click.option(
    "--gate", "gates", multiple=True, metavar="GATES", help="Limits to meet: latency:15ms,accuracy:0.91; for one variant: pi4=latency:15ms."
)
@click.option("--expires", default="1y", show_default=True, help="Expiry: 1y, 6w or 90d after the evidence, a date, or never.")
@click.option(
    "--sequence", type=click.IntRange(min=1), help="Number that grows with every release [default: from the version, 1004000 for 1.4.0]."
)
@click.option("--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="Number of signatures that the release needs.")
@click.option("--formats", default="", callback=_list, help="Exports to ship, separated by commas [default: all that devices run].")
@click.option("--model", help="The format that devices load [default: the measured one].")
@click.option(
    "--evidence",
    multiple=True,
    callback=_named,
    metavar="NAME=RESULT",
    help="A result of edgeprune history to use instead of the run's own.",
)
@click.option("--devices", "profiles", multiple=True, callback=_named, metavar="NAME=PROFILE", help="The profiles a variant is for.")
@click.option(
    "--min-memory",
    "min_memory_bytes",
    callback=_memory,
    metavar="BYTES",
    help="Least memory of a device [default: what the measured process used].",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe that scores the exported file [default: the run's].")
@click.option("--licence", "licences", multiple=True, type=click.Path(path_type=Path, dir_okay=False), help="A licence file to include.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write [default: PRODUCT-VERSION.epb].")
@history_option
@json_option
def build(run: Path | None, variants: dict[str, Path], output: Path | None, as_json: bool, **given: Any) -> None:
    """Build one file from RUN, or from one run for each device family: artifacts, labels, evidence, model card, bill of materials.

    The shipped file itself must be measured to meet every gate.  The same runs give the same bytes.
    """
    from edgeprune.release import Bundle
    from edgeprune.release.build.build import build as build_bundle
    from edgeprune.release.build.build_spec import BuildSpec

    if run is None and not variants:
        raise click.UsageError("give RUN, or --variants")
    if run is not None and "default" in variants:
        raise click.UsageError("RUN is the variant default, and --variants has another of that name")
    if given["evidence"] and given["history"] is None:
        raise click.UsageError("--evidence names results of the history, which is off")
    spec = BuildSpec(runs=({"default": run} if run else {}) | variants, **given)
    path = build_bundle(spec, output, lambda text: echo(text, err=True))
    with Bundle.open(path) as bundle:
        _tell(bundle, as_json)


@command.command(short_help="Add a signature.")
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="An SSH private key, or a public key whose private key is in the agent."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@json_option
def sign(bundle: Path, key: Path, output: Path | None, as_json: bool) -> None:
    """Sign BUNDLE with an ordinary SSH key, as ssh-keygen -Y sign does.  Signatures by other keys stay."""
    from edgeprune.release.bundle.file import NAMESPACE
    from edgeprune.release.bundle.sign import sign as sign_bundle

    signed = sign_bundle(bundle, key, output)
    if as_json:
        print_json({"bundle": output or bundle, "key": signed.text, "fingerprint": signed.fingerprint, "namespace": NAMESPACE})
        return
    echo(f"{output or bundle} is signed by {signed.fingerprint}. Devices accept it by a line of allowed signers:")
    echo(f'you@example.org namespaces="{NAMESPACE}" {signed.text}')


@command.command(short_help="Check signatures, expiry and every byte.")
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--allowed-signers", required=True, type=click.Path(path_type=Path), help="File of trusted signers, in the format of ssh-keygen -Y."
)
@click.option("--threshold", type=click.IntRange(min=1), help="Number of valid signatures to require, if more than the bundle asks for.")
@json_option
def verify(bundle: Path, allowed_signers: Path, threshold: int | None, as_json: bool) -> None:
    """Check BUNDLE: signatures, expiry, and that it holds the files of its manifest and nothing else."""
    from edgeprune.release import Bundle
    from edgeprune.release.bundle.signers import read_signers
    from edgeprune.release.bundle.verify import verify as verify_bundle

    allowed = read_signers(allowed_signers)
    with Bundle.open(bundle) as opened:
        found = verify_bundle(opened, allowed, threshold)
        manifest = opened.manifest
        if as_json:
            print_json(_brief(opened) | {"verified": found})
            return
        echo(f"{bundle}: {manifest.product} {manifest.version} is signed by {', '.join(found.signers)}; every byte is as signed")
        for fingerprint in found.unknown:
            echo(f"a signature that is not trusted: {fingerprint}", err=True)


@command.command(short_help="Show what is in a bundle.")
@click.argument("bundle", type=BUNDLE)
@json_option
def show(bundle: Path, as_json: bool) -> None:
    """Show what is in BUNDLE.  Only its form is checked: use edgeprune release verify to check signatures."""
    from edgeprune.release import Bundle

    with Bundle.open(bundle) as opened:
        _tell(opened, as_json)


def _signatures(bundle: Bundle) -> list[str]:
    """The fingerprints of the keys that have signed."""
    from edgeprune.release.bundle.sshsig import Signature

    return [Signature.parse(text, short).key.fingerprint for short, text in bundle.signatures.items()]


def _brief(bundle: Bundle) -> JsonObject:
    return {
        "bundle": bundle.path,
        "bytes": bundle.path.stat().st_size,
        "identity": bundle.identity,
        "signatures": _signatures(bundle),
        "manifest": bundle.manifest,
    }


def _tell(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        print_json(_brief(bundle))
        return
    manifest = bundle.manifest
    until = f"until {manifest.expires}" if manifest.expires else "without expiry"
    echo(f"{bundle.path} ({_size(bundle.path.stat().st_size)}): {manifest.product} {manifest.version}, sequence {manifest.sequence}")
    echo(f"made {manifest.created}, valid {until}; manifest SHA-256 {bundle.identity}")
    needed = f"{manifest.threshold} needed" if manifest.threshold > 1 else ""
    echo(f"signatures (not verified): {', '.join(_signatures(bundle)) or 'none'}" + (f"; {needed}" if needed else ""))
    console().print(_files(manifest))
    for name, variant in manifest.variants.items():
        for line in _lines(name, variant):
            echo(line)


def _size(value: float) -> str:
    from edgeprune.budget import format_quantity

    return format_quantity("size", value)


def _files(manifest: Manifest) -> Any:
    from rich.table import Column, Table

    table = Table("variant", Column("file", overflow="fold"), "role", Column("size", justify="right"), Column("SHA-256", no_wrap=True))
    for name, files in [("all", manifest.files), *((name, variant.files) for name, variant in manifest.variants.items())]:
        for file in files:
            table.add_row(name, file.path, file.role, _size(file.bytes), file.sha256[:12])
    return table


def _lines(name: str, variant: Variant) -> list[str]:
    from edgeprune.release.build.card import figures
    from edgeprune.release.build.limits import describe

    asked = variant.compatibility
    kinds = ", ".join((*asked.profiles, *asked.boards, *asked.architectures)) or "any device"
    runtimes = " or ".join(f"{one.package} {one.versions}".strip() for one in asked.runtimes) or "any runtime"
    lines = [f"{name} is for {kinds} with {_size(asked.min_memory_bytes)} of memory or more, and {runtimes}"]
    lines.append(f"  gates met: {'; '.join(map(describe, variant.gates)) or 'none were set'}")
    for item in variant.evidence:
        threads = "1 thread" if item.threads == 1 else f"{item.threads} threads"
        lines.append(f"  measured {item.measured_at} on {item.device}, {item.runtime} {item.runtime_version}, {threads}:")
        lines.append("    " + ", ".join(f"{what} {value}" for what, value in figures(item).items()))
        lines.append(f"    raw samples in {item.raw}, SHA-256 {item.samples_sha256}" if item.samples_sha256 else "    no raw samples")
    return lines if variant.evidence else [*lines, "  nothing was measured on a device"]
