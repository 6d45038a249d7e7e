"""The raw samples behind a release's figures: pinned by a hash in the manifest, from which the figures can be computed again."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

from edgeprune.bench import Measurement
from edgeprune.errors import BundleError, InputError
from edgeprune.release.bundle.codec import canonical, parse
from edgeprune.release.bundle.file import Bundle
from edgeprune.release.bundle.manifest import Evidence, Variant

FIGURES: Final = ("latency_ms", "low_ms", "high_ms", "peak_bytes", "rss_peak_bytes", "energy_mj")
"""What a manifest says of a measurement, by the same names."""


def samples_sha256(measured: Measurement) -> str | None:
    """The SHA-256 of the canonical JSON of the samples (ns) and of how many each window has; None where there are no samples."""
    if not measured.windows:
        return None
    return sha256(canonical({"samples_ns": list(measured.samples_ns), "windows": list(measured.windows)})).hexdigest()


def difference(claimed: object, measured: object, names: Iterable[str] = FIGURES) -> tuple[str, Any, Any] | None:
    """The first of the figures that differs, with its value in both; None where all are the same."""
    pairs = ((name, getattr(claimed, name), getattr(measured, name)) for name in names)
    return next((found for found in pairs if found[1] != found[2]), None)


def check_samples(bundle: Bundle) -> None:
    """Compute the figures of all evidence once more from the samples in the bundle.

    Evidence without a hash of samples (of a microcontroller's memory, or by a former edgeprune) is left out.  Raises :class:`BundleError`
    naming the variant, the file and what differs.
    """
    for name, variant in bundle.manifest.variants.items():
        for item in variant.evidence:
            if item.samples_sha256 is not None and (problem := _problem(bundle, variant, item)) is not None:
                raise BundleError(
                    f"{bundle.path}: the figures of variant {name} do not match the raw samples in {item.raw}: {problem}",
                    remedy="Do not use it: its builder must measure again, and build and sign it again.",
                )


def _problem(bundle: Bundle, variant: Variant, item: Evidence) -> str | None:
    file = next((file for file in variant.files if file.path == item.raw), None)
    if file is None:
        return "there is no such file"
    try:
        measured = Measurement.from_json(parse(bundle.read(file), file.path).get("measurement", {}))  # which checks it by its samples
    except InputError as error:
        return str(error)
    if samples_sha256(measured) != item.samples_sha256:
        return f"the SHA-256 of its samples is {samples_sha256(measured)}, and the manifest says {item.samples_sha256}"
    if measured.file_sha256 != item.artifact:
        return "it is the measurement of another file"
    if found := difference(item, measured):
        return "{} is {} in the manifest, and was measured as {}".format(*found)
    return None
