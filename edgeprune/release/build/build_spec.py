"""What the user asks a release to be, checked before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from edgeprune.errors import InputError
from edgeprune.export import formats
from edgeprune.profile import load as load_profile
from edgeprune.release.build.limits import Wanted, parse_gates
from edgeprune.release.bundle.manifest import SEMVER, format_time, parse_time

_PERIOD = re.compile(r"([1-9][0-9]{0,3})([dwy])")
_DAYS: Final = {"d": 1, "w": 7, "y": 365}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class BuildSpec:
    """``runs``: a run directory by variant's name.

    ``gates``: see :func:`~edgeprune.release.build.limits.parse_gates`. ``expires``: ``1y``, ``6w``, ``90d`` after its creation, a date
    (UTC), or ``never``. ``sequence``: made of the version unless given. ``formats``: which of a run's exports are shipped; all that
    devices run unless given. ``model``: the format that consumers load; the one that was measured unless given. ``evidence``: results of
    the history (numbers, labels) by variant, instead of the run's own measurement. ``profiles``: names of the device profiles that a
    variant is for; the measured device's unless given. ``recipe``: used if the run's no longer exists. ``min_memory_bytes``: of a
    device; what the process took when it was measured, unless given. ``licences``: the user's own files. ``history``: address of
    the database of results.

    Raises :class:`InputError` on what makes no sense.
    """

    runs: Mapping[str, Path]
    version: str
    product: str | None = None
    gates: Sequence[str] = ()
    expires: str = "1y"
    sequence: int | None = None
    threshold: int = 1
    formats: Sequence[str] = ()
    model: str | None = None
    evidence: Mapping[str, Sequence[str]] = field(default_factory=dict)
    profiles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    recipe: Path | None = None
    min_memory_bytes: int | None = None
    licences: Sequence[Path] = ()
    history: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("no run is given to build a release from", remedy="Give a run directory of edgeprune prune.")
        if not SEMVER.fullmatch(self.version):
            raise InputError(
                f"the version {self.version!r} is not of the form 1.4.0 or 1.4.0-rc.1 (semver.org)",
                remedy="Write three numbers with dots: --version 1.4.0.",
            )
        for name in [*(gate.variant for gate in self.wanted() if gate.variant), *self.evidence, *self.profiles]:
            if name not in self.runs:
                raise InputError(f"there is no variant {name!r}", remedy=f"Variants: {', '.join(self.runs)}.")
        for name in [*self.formats, *([self.model] if self.model else [])]:
            formats.find(name)
        for name in (one for names in self.profiles.values() for one in names):
            load_profile(name)
        _ = self.number
        self.expiry("2000-01-01T00:00:00Z" if _PERIOD.fullmatch(self.expires) else "1970-01-01T00:00:00Z")

    def wanted(self, variant: str | None = None) -> tuple[Wanted, ...]:
        """All gates, or those of a variant."""
        return tuple(gate for gate in parse_gates(self.gates) if variant is None or gate.variant in (None, variant))

    @property
    def number(self) -> int:
        """The sequence: 1004000 for 1.4.0 unless given.  Raises :class:`InputError` when none can be made of the version."""
        if self.sequence is not None:
            if self.sequence < 1:
                raise InputError(f"the sequence {self.sequence} must be at least 1", remedy="Give a number that grows with every release.")
            return self.sequence
        parts = [int(part) for part in re.split(r"[-+]", self.version)[0].split(".")]
        plain = re.fullmatch(r"[0-9.]+", self.version)
        if not plain or max(parts[1:]) > 999 or sum(parts) == 0:
            raise InputError(
                f"no sequence can be derived from the version {self.version}",
                remedy="Give one that grows with every release: --sequence N.",
            )
        return parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]

    def expiry(self, created: str) -> str | None:
        """When a release of that creation expires.  Raises :class:`InputError`."""
        if self.expires == "never":
            return None
        if match := _PERIOD.fullmatch(self.expires):
            try:
                return format_time(parse_time(created) + timedelta(days=int(match[1]) * _DAYS[match[2]]))
            except OverflowError:
                raise InputError(f"the expiry {self.expires!r} is beyond the year 9999", remedy="To set no expiry, write never.") from None
        try:
            expires = self.expires + "T00:00:00Z" if _DATE.fullmatch(self.expires) else self.expires
            parse_time(expires)
        except ValueError:
            raise InputError(
                f"{self.expires!r} is not an expiry", remedy="Write 1y, 6w, 90d, a date such as 2027-01-31, or never."
            ) from None
        if expires <= created:
            raise InputError(
                f"the release would expire at {expires}, before it was made at {created}",
                remedy="Give a later date, or a period such as 1y.",
            )
        return expires
