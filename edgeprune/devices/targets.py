"""Names for devices and groups of them, kept in ``targets.json`` of the user's configuration folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from edgeprune.devices.address import parse_address
from edgeprune.errors import TargetError, suggest
from edgeprune.files import write_atomically

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


def _load() -> dict[str, Any]:
    path = targets_file()
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries.values():
            if not isinstance(entry.get("address"), str) and not _is_list_of_names(entry["members"]):
                raise TypeError("an address is no text, or a group no list of names")
        return dict(sorted(entries.items()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise TargetError(f"{path} is damaged: {error}", remedy="Repair or delete it, then add the targets again.") from error


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def _save(entries: dict[str, Any]) -> None:
    path = targets_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(entries, indent=2))


def list_targets() -> list[Target]:
    """All names of devices, sorted.  Raises :class:`TargetError` when the file is damaged."""
    return [Target(name, entry["address"], entry.get("profile")) for name, entry in _load().items() if "address" in entry]


def list_groups() -> dict[str, tuple[str, ...]]:
    """The names of all groups, sorted, with their members.  Raises :class:`TargetError` when the file is damaged."""
    return {name: tuple(entry["members"]) for name, entry in _load().items() if "members" in entry}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "local":
        raise TargetError(f"{name!r} cannot be a target's name", remedy="Use letters, digits, dots and dashes.")


def add_target(name: str, address: str, profile: str | None = None) -> Target:
    """Keep a name, replacing one that exists.  Raises :class:`TargetError` when the name or the address is malformed."""
    _check_name(name)
    parse_address(address)
    target = Target(name, address, profile)
    _save(_load() | {name: {"address": address, "profile": profile}})
    return target


def add_group(name: str, members: Sequence[str]) -> tuple[str, ...]:
    """Let a name stand for several targets (names or addresses); its members.

    Raises :class:`TargetError` when the name is malformed or that of a target, when a member is unknown or a group, or when there is none.
    """
    _check_name(name)
    entries = _load()
    if "address" in entries.get(name, {}):
        raise TargetError(f"{name!r} is the name of a target", remedy=f"Choose another, or forget it: edgeprune targets remove {name}")
    chosen = tuple(dict.fromkeys(members))
    if not chosen:
        raise TargetError(f"group {name!r} has no members", remedy=f"Name them: edgeprune targets group {name} TARGET...")
    for member in chosen:
        resolve_target(member)
    _save(entries | {name: {"members": list(chosen)}})
    return chosen


def remove_target(name: str) -> None:
    """Forget a target, also as a member of groups, or a group.  Raises :class:`TargetError` listing the known ones when it is unknown."""
    entries = _load()
    if name not in entries:
        raise _unknown(name, entries)
    del entries[name]
    for group in [group for group, entry in entries.items() if name in entry.get("members", ())]:
        entries[group]["members"].remove(name)
        if not entries[group]["members"]:
            del entries[group]
    _save(entries)


def resolve_target(text: str) -> Target:
    """The target of a name, or of an address such as ``local:`` or ``ssh://host``.  Raises :class:`TargetError`."""
    if text == "local" or ":" in text:
        address = "local:" if text == "local" else text
        parse_address(address)
        return Target(address, address)
    entries = _load()
    entry = entries.get(text)
    if entry is None:
        raise _unknown(text, entries)
    if "members" in entry:
        raise TargetError(f"{text!r} is a group, and one device is wanted", remedy=f"Its members: {', '.join(entry['members'])}.")
    return Target(text, entry["address"], entry.get("profile"))


def resolve_targets(text: str) -> list[Target]:
    """The targets of a comma-separated list of names, groups and addresses, each once.  Raises :class:`TargetError`."""
    groups = list_groups()
    names = [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(resolve_target(member) for name in names for member in groups.get(name, (name,))))


def _unknown(name: str, entries: dict[str, Any]) -> TargetError:
    add = f"Add one: edgeprune targets add {name} ssh://user@host; or give an address (local:, ssh://user@host)."
    return TargetError(f"unknown target {name!r}", remedy=f"{suggest(name, entries, 'targets')} {add}")
