"""Names for devices, kept in ``targets.json`` of the user's configuration folder."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from edgeprune.devices.address import parse_address
from edgeprune.errors import TargetError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Target:
    """A device by name: its address, and the profile that describes it (None: found by probing)."""

    name: str
    address: str
    profile: str | None = None


def targets_file() -> Path:
    """Where the names are kept."""
    return Path(platformdirs.user_config_dir("edgeprune")) / "targets.json"


def list_targets() -> list[Target]:
    """All names, sorted.  Raises :class:`TargetError` when the file is damaged."""
    path = targets_file()
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Target(name, entry["address"], entry.get("profile")) for name, entry in sorted(entries.items())]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise TargetError(f"{path} is damaged: {error}", remedy="Repair or delete it, then add the targets again.") from error


def _save(targets: list[Target]) -> None:
    path = targets_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {target.name: {key: value for key, value in asdict(target).items() if key != "name"} for target in targets}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(entries, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def add_target(name: str, address: str, profile: str | None = None) -> Target:
    """Keep a name, replacing one that exists.  Raises :class:`TargetError` when the name or the address is malformed."""
    if not _NAME.fullmatch(name) or name == "local":
        raise TargetError(f"{name!r} cannot be a target's name", remedy="Use letters, digits, dots and dashes.")
    parse_address(address)
    target = Target(name, address, profile)
    _save([other for other in list_targets() if other.name != name] + [target])
    return target


def remove_target(name: str) -> None:
    """Forget a name.  Raises :class:`TargetError` listing the known ones when it is unknown."""
    targets = list_targets()
    if name not in [target.name for target in targets]:
        raise _unknown(name, targets)
    _save([target for target in targets if target.name != name])


def resolve_target(text: str) -> Target:
    """The target of a name, or of an address such as ``local:`` or ``ssh://host``.  Raises :class:`TargetError`."""
    if text == "local" or ":" in text:
        address = "local:" if text == "local" else text
        parse_address(address)
        return Target(address, address)
    targets = list_targets()
    for target in targets:
        if target.name == text:
            return target
    raise _unknown(text, targets)


def _unknown(name: str, targets: list[Target]) -> TargetError:
    known = ", ".join(target.name for target in targets) or "none yet"
    remedy = f"Known targets: {known}. Add one: edgeprune targets add {name} ssh://user@host; or give an address (local:, ssh://user@host)."
    return TargetError(f"unknown target {name!r}", remedy=remedy)
