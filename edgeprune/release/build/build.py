"""Build a bundle of finished runs: one variant for each device family, each with its evidence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from edgeprune.errors import BundleError, InputError
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.release.build.card import card
from edgeprune.release.build.licences import third_party
from edgeprune.release.build.sbom import sbom
from edgeprune.release.build.variant import Assembly, Contents
from edgeprune.release.bundle.file import SUFFIX, Bundle, write_bundle
from edgeprune.release.bundle.manifest import File, Manifest, Variant, format_time, parse_time
from edgeprune.runs.finished import FinishedRun, read_run


def build(spec: BuildSpec, output: Path | None = None, note: Callable[[str], None] = lambda _: None) -> Path:
    """Build a bundle, unsigned, and return its path: ``<product>-<version>.epb`` in the working folder unless ``output`` is given.

    The same runs, spec and ``SOURCE_DATE_EPOCH`` make the same bytes; without that variable a release is as old as the newest evidence in
    it. A signed bundle that is there already is replaced by the same release alone, which keeps the signatures. ``note`` hears what is
    being done. Raises :class:`GateError` naming the gate that is not met, :class:`EvidenceError`, :class:`RunError`, :class:`InputError`,
    :class:`BundleError`.
    """
    runs = {name: read_run(path) for name, path in sorted(spec.runs.items())}
    product = spec.product or _product(runs)
    path = output or Path(f"{product}-{spec.version}{SUFFIX}")
    _check_output(path)
    contents, variants, times = Contents(), dict[str, Variant](), list[str]()
    for name, run in runs.items():
        note(f"gathering {name} from {run.path}")
        assembly = Assembly(name, run, spec, contents)
        variants[name] = assembly.variant(note)
        times += assembly.times
    created = _created(times)
    files = _shared(spec, product, created, variants, runs, contents)
    try:
        manifest = Manifest(product, spec.version, spec.number, created, spec.expiry(created), variants, files, spec.threshold)
        Manifest.from_bytes(manifest.to_bytes())  # no reader may refuse what was built
    except (ValueError, BundleError) as error:
        raise InputError(f"the release cannot be built: {error}", remedy="Correct what is named, then build it again.") from error
    if manifest.expires is not None and parse_time(manifest.expires) <= datetime.now(UTC):
        note(f"the release has already expired, at {manifest.expires}: no device will accept it (--expires)")
    _write(path, manifest, contents)
    return path


def _product(runs: Mapping[str, FinishedRun]) -> str:
    names = {re.sub(r"[^a-z0-9._-]+", "-", str(run.result.task).lower()).strip("._-") for run in runs.values()}
    if len(names) != 1:
        raise InputError(f"the runs are of several tasks: {', '.join(sorted(names))}", remedy="Name the product: --product NAME.")
    return names.pop() or "model"


def _created(times: list[str]) -> str:
    """``SOURCE_DATE_EPOCH`` (reproducible-builds.org), or the newest time of what is in the release."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return max(times)
    try:
        return format_time(datetime.fromtimestamp(int(epoch), UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, not seconds since 1970", remedy="Unset it, or set it to a number such as $(date +%s)."
        ) from error


def _shared(
    spec: BuildSpec, product: str, created: str, variants: dict[str, Variant], runs: dict[str, FinishedRun], contents: Contents
) -> tuple[File, ...]:
    """What every device gets: card, bill of materials, licences."""
    runtimes = [runtime for variant in variants.values() for runtime in variant.compatibility.runtimes]
    files = [
        contents.file("MODEL_CARD.md", card(product, spec.version, created, variants, runs), "card"),
        contents.file("sbom.cdx.json", sbom(product, spec.version, created, variants, _tools(runs)), "sbom"),
        contents.file("licences/third-party.md", third_party(runtimes), "licence"),
    ]
    for path in spec.licences:
        try:
            files.append(contents.file(f"licences/{path.name}", path.read_bytes(), "licence"))
        except OSError as error:
            raise InputError(f"the licence {path} cannot be read: {error.strerror}", remedy="Give the path of a text file.") from error
    return tuple(sorted(files, key=lambda file: file.path))


def _tools(runs: Mapping[str, FinishedRun]) -> dict[str, str]:
    """Versions of what made the artifacts; of runs that differ, all of them."""
    found: dict[str, set[str]] = {}
    for run in runs.values():
        for name, version in run.result.versions.items():
            if version != "not installed":
                found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _check_output(path: Path) -> None:
    """What can be said before any work: :class:`BundleError` where no bundle can be written, or something else would be lost."""
    if not path.absolute().parent.is_dir():
        raise BundleError(
            f"the bundle {path} cannot be written: there is no folder {path.absolute().parent}",
            remedy="Make the folder, or name another file with --output.",
        )
    if path.exists():
        try:
            Bundle.open(path).close()
        except BundleError as error:
            raise BundleError(f"{path} exists, and is not a whole bundle", remedy="Give another --output, or remove it.") from error


def _write(path: Path, manifest: Manifest, contents: Contents) -> None:
    def pieces(sha256: str) -> Callable[[], list[bytes]]:
        return lambda: [contents.by_hash[sha256]]

    content = manifest.to_bytes()
    objects = {sha256: (size, pieces(sha256)) for sha256, size in manifest.objects().items()}
    write_bundle(path, content, _signatures(path, content), objects)


def _signatures(path: Path, content: bytes) -> Mapping[str, bytes]:
    """Those that the bundle at ``path`` has already where it is this release.  Another's are not overwritten: :class:`BundleError`."""
    if not path.exists():
        return {}
    with Bundle.open(path) as there:
        if not there.signatures or there.manifest_bytes == content:
            return there.signatures
        version = there.manifest.version
    raise BundleError(
        f"{path} is a signed bundle of {version} with another content, and would be lost",
        remedy="Give the new one another --version or --output, or remove the old one.",
    )
