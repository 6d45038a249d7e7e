"""What a release is: the manifest, the one signed member of a bundle, by which every other byte is known.

``manifest.json`` is the canonical JSON (:mod:`edgeprune.release.bundle.codec`) of a :class:`Manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from edgeprune.errors import BundleError, ExpiredError
from edgeprune.release.bundle.codec import canonical, decode, parse

SCHEMA: Final = 1
ROLES: Final = ("model", "alternative", "source", "labels", "preprocessing", "health", "evidence", "card", "sbom", "licence")
"""``model``: the one artifact that consumers load and gates judge; ``alternative``: the same model in another format;
``source``: the same model as C source, for firmware."""

LARGEST_FILE: Final = 4 << 30
"""Bytes: no file of a release is greater."""

_TAKEN = ("activator.pyz",)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_NUMBER = r"(0|[1-9][0-9]*)"
_LABELS = r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*"
SEMVER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_LABELS})?(\+{_LABELS})?")
"""A version (semver.org, 2.0.0) but for the leading zeros of numeric pre-release labels."""


@dataclass(frozen=True)
class File:
    """One file as it stands on the device: ``path`` in the release's folder; its size and SHA-256; its ``role`` (:data:`ROLES`).

    Of artifacts, ``format`` is the export format and ``engine`` what runs it (``tflite``, ``torchscript``, ...; empty: nothing here).
    """

    path: str
    bytes: int
    sha256: str
    role: str
    format: str = ""
    engine: str = ""

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or len(self.path) > 200:
            raise ValueError(f"the path {self.path!r} is not plain (letters, digits, . _ + -, no leading dot, no ..)")
        if not 0 <= self.bytes <= LARGEST_FILE:
            raise ValueError(f"{self.path} has the size {self.bytes}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.path} has the SHA-256 {self.sha256!r}, not 64 hexadecimal digits")
        if self.role not in ROLES:
            raise ValueError(f"{self.path} has the unknown role {self.role!r}")


@dataclass(frozen=True)
class Runtime:
    """A runtime package that runs ``engine``'s artifacts, and the versions of it (a PEP 440 range, such as ``>=2.3,<3``)."""

    engine: str
    package: str
    versions: str = ""

    def __post_init__(self) -> None:
        try:
            SpecifierSet(self.versions)
        except InvalidSpecifier:
            raise ValueError(f"{self.package} has the version range {self.versions!r}") from None


@dataclass(frozen=True)
class Compatibility:
    """Which devices a variant is for; an empty tuple asks for nothing.

    ``architectures``: as ``uname -m`` says. ``min_memory_bytes``: of the device's main memory. ``runtimes``: one of them must be there.
    ``boards``: starts of the device tree's model. ``profiles``: names of edgeprune's device profiles.
    """

    architectures: tuple[str, ...] = ()
    min_memory_bytes: int = 0
    runtimes: tuple[Runtime, ...] = ()
    boards: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """A limit that the evidence met when the release was built. ``kind``: ``latency`` (ms), ``memory``, ``size`` (bytes), ``energy`` (mJ):
    at most ``limit``; else the name of the task's metric, in its unit: at least ``limit``, or, of an error, ``at_most`` that."""

    kind: str
    limit: float
    at_most: bool = False


@dataclass(frozen=True)
class Health:
    """A check on the device: the role-``model`` artifact, given ``inputs``, must answer ``outputs``.

    Both are paths of ``.npy`` files in the release, in the model's order. ``tolerance``: the largest difference, relative to an output's
    largest magnitude.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"the health check's tolerance is {self.tolerance}")


@dataclass(frozen=True)
class Evidence:
    """One measurement of the artifact whose SHA-256 is ``artifact``; what was not measured is None.

    ``device``: identity of the device, reached as ``target``; of a microcontroller, whose memory is measured without one, its profile.
    ``peak_bytes``: there the smallest arena. ``metric``: of the exported file, on the validation data;
    ``metric_error``: its standard error over these samples.
    ``raw``: the path of the file with all samples; ``samples_sha256``: of these (:mod:`edgeprune.release.bundle.samples`), None where there
    are none.
    """

    artifact: str
    device: str
    target: str
    architecture: str
    os: str
    runtime: str
    runtime_version: str
    threads: int
    measured_at: str
    latency_ms: float | None
    low_ms: float | None
    high_ms: float | None
    peak_bytes: int
    rss_peak_bytes: int
    energy_mj: float | None = None
    energy_method: str | None = None
    metric_name: str | None = None
    metric: float | None = None
    metric_error: float | None = None
    raw: str | None = None
    samples_sha256: str | None = None

    def __post_init__(self) -> None:
        parse_time(self.measured_at)
        if self.samples_sha256 is not None and self.raw is None:
            raise ValueError("the measurement has a hash of raw samples, but no file with them")


@dataclass(frozen=True)
class Variant:
    """What one family of devices gets: its ``files`` besides the release's shared ones."""

    compatibility: Compatibility
    files: tuple[File, ...]
    gates: tuple[Gate, ...] = ()
    health: Health | None = None
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if sum(file.role == "model" for file in self.files) != 1:
            raise ValueError("a variant has exactly one file of the role 'model'")
        known = {file.path for file in self.files}
        for path in (*self.health.inputs, *self.health.outputs) if self.health else ():
            if path not in known:
                raise ValueError(f"the health check's file {path!r} is not among the files")

    @property
    def model(self) -> File:
        """The artifact that consumers load."""
        return next(file for file in self.files if file.role == "model")


@dataclass(frozen=True)
class Manifest:
    """One release of a product.

    ``sequence``: grows with every release; a device takes no lower one. ``created``, ``expires``: UTC, ``2026-01-31T12:00:00Z``.
    ``files``: for every device. ``threshold``: how many signers the builder asks for; a verifier may ask for more.
    """

    product: str
    version: str
    sequence: int
    created: str
    expires: str | None
    variants: dict[str, Variant]
    files: tuple[File, ...] = ()
    threshold: int = 1
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        for name in (self.product, *self.variants):
            if not _NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} is not plain (lower-case letters, digits, . _ -; at most 64)")
        if self.product in _TAKEN:
            raise ValueError(f"the product's name {self.product!r} is taken: devices keep a program of that name beside the products")
        if not SEMVER.fullmatch(self.version):
            raise ValueError(f"the version {self.version!r} is not of the form 1.4.0 or 1.4.0-rc.1 (semver.org)")
        if self.sequence < 1 or self.threshold < 1:
            raise ValueError("sequence and threshold are at least 1")
        if parse_time(self.created) >= (parse_time(self.expires) if self.expires else datetime.max.replace(tzinfo=UTC)):
            raise ValueError(f"it expires at {self.expires}, before it was created at {self.created}")
        if not self.variants:
            raise ValueError("there is no variant")
        for name in self.variants:
            _check_paths(name, self.files_of(name))
        sizes: dict[str, int] = {}
        for file in self.all_files():
            if sizes.setdefault(file.sha256, file.bytes) != file.bytes:
                raise ValueError(f"{file.path} has another size than a file of the same SHA-256")

    def files_of(self, variant: str) -> tuple[File, ...]:
        """All that a device of ``variant`` gets.  Raises :class:`BundleError` that lists the variants when there is none of the name."""
        if variant not in self.variants:
            raise BundleError(f"{self.product} {self.version} has no variant {variant!r}", remedy=f"Variants: {', '.join(self.variants)}.")
        return (*self.files, *self.variants[variant].files)

    def all_files(self) -> Iterator[File]:
        """Every file, those of the same content too."""
        yield from self.files
        for variant in self.variants.values():
            yield from variant.files

    def objects(self) -> dict[str, int]:
        """Size by SHA-256 of every content, sorted."""
        return dict(sorted((file.sha256, file.bytes) for file in self.all_files()))

    def check_time(self, now: datetime) -> None:
        """Raise :class:`ExpiredError` when ``now`` (with a time zone) is at or past the expiry."""
        if self.expires is not None and now >= parse_time(self.expires):
            raise ExpiredError(
                f"{self.product} {self.version} expired at {self.expires} (it is {format_time(now)})",
                remedy="Build and sign a newer release; or set this machine's clock right.",
            )

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is signed."""
        return canonical(self)

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """From what :meth:`to_bytes` made, and nothing else.  Raises :class:`BundleError` that names the field."""
        value = parse(content, "manifest.json")
        if value.get("schema") != SCHEMA:
            raise BundleError(
                f"manifest.json is of schema {value.get('schema')!r}, and this edgeprune reads {SCHEMA}", remedy="Update edgeprune."
            )
        return decode(cls, value, "manifest")


Kind = Literal["file", "folder"]


def _check_paths(variant: str, files: tuple[File, ...]) -> None:
    """No two files of a device at one path, and none where another needs a folder; no matter the case, for some file systems."""
    seen: dict[str, Kind] = {}
    for file in files:
        path = PurePosixPath(file.path.lower())
        if found := seen.get(str(path)):
            raise ValueError(f"variant {variant} has {file.path} " + ("twice" if found == "file" else "as a file and as a folder"))
        seen[str(path)] = "file"
        for parent in path.parents:
            if seen.setdefault(str(parent), "folder") == "file":
                raise ValueError(f"variant {variant} has {file.path}, and a file {parent}")


def parse_time(text: str) -> datetime:
    """``2026-01-31T12:00:00Z``.  Raises ``ValueError``."""
    try:
        time = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        time = None
    if time is None or format_time(time) != text:
        raise ValueError(f"the time {text!r} is not of the form 2026-01-31T12:00:00Z")
    return time


def format_time(time: datetime) -> str:
    """In UTC, as :func:`parse_time` reads it; parts of a second are cut off."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
