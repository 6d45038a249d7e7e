"""Names for devices and groups of them, kept in ``targets.json`` of the user's configuration folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgeprune.decode import JsonObject, convert
from edgeprune.devices.address import parse_address
from edgeprune.errors import TargetError, suggest
from edgeprune.files import locked, parse_json, write_atomically
from edgeprune.profile import load as load_profile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Target:
    """A device by name: its address, the profile that describes it (None: found by probing), and what runs its models (None: its
    processor)."""

    name: str
    address: str
    profile: str | None = None
    accelerator: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, so that what else is done here disturbs what is measured."""
        return parse_address(self.address).scheme == "local"


def targets_file() -> Path:
    """Where the names are kept."""
    return Path(platformdirs.user_config_dir("edgeprune")) / "targets.json"


@dataclass(frozen=True)
class _Device:
    """A device as the file holds it, by its name."""

    address: str
    profile: str | None = None
    accelerator: str | None = None


@dataclass(frozen=True)
class _Group:
    """A group as the file holds it, by its name."""

    members: tuple[str, ...]


def _load() -> dict[str, _Device | _Group]:
    """All entries that can be read, sorted; the others are those of :func:`damaged_entries`."""
    return _read()[0]


def damaged_entries() -> list[str]:
    """What is wrong with the entries of the file that cannot be read: they are left out, and kept when it is changed."""
    return [f"{targets_file()}: the entry {name!r} {reason}" for name, reason in _read()[1].items()]


def _read() -> tuple[dict[str, _Device | _Group], dict[str, str]]:
    """The good entries, and why the others are not.  Fields that this version does not know are ignored, and kept."""
    good: dict[str, _Device | _Group] = {}
    wrong: dict[str, str] = {}
    for name, value in sorted(_document().items()):
        try:
            good[name] = _entry(value)
        except ValueError as error:
            wrong[name] = str(error)
    if wrong and not good:
        name, reason = next(iter(wrong.items()))
        raise _damaged(f"the entry {name!r} {reason}")
    return good, wrong


def _document() -> JsonObject:
    path = targets_file()
    try:
        entries = parse_json(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError(f"it holds {type(entries).__name__}, not an object of names")
        return entries
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(error) from error


def _damaged(why: object) -> TargetError:
    return TargetError(f"{targets_file()} is damaged: {why}", remedy="Repair or delete it, then add the targets again.")


def _entry(value: object) -> _Device | _Group:
    """A target or a group.  Raises :class:`ValueError` saying why it is neither."""
    try:
        if not isinstance(value, dict) or "members" not in value:
            return convert(value, _Device)
        group = convert(value, _Group)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not group.members:
        raise ValueError("is a group without members")
    return group


def _members(value: object) -> tuple[str, ...]:
    """Of a group; nothing of a device, or of what cannot be read."""
    try:
        entry = _entry(value)
    except ValueError:
        return ()
    return entry.members if isinstance(entry, _Group) else ()


@contextmanager
def _changing() -> Iterator[JsonObject]:
    """The document, to be changed inside: written whole at the end, while no other process changes it."""
    path = targets_file()
    try:
        with locked(path):
            entries = _document()
            yield entries
            write_atomically(path, json.dumps(entries, indent=2))
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror or error}", remedy="Free some space, or make it writable.") from error


def list_targets() -> list[Target]:
    """All names of devices, sorted.  Raises :class:`TargetError` when the file is damaged."""
    return [Target(name, entry.address, entry.profile, entry.accelerator) for name, entry in _load().items() if isinstance(entry, _Device)]


def list_groups() -> dict[str, tuple[str, ...]]:
    """The names of all groups, sorted, with their members.  Raises :class:`TargetError` when the file is damaged."""
    return {name: entry.members for name, entry in _load().items() if isinstance(entry, _Group)}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "local":
        raise TargetError(f"{name!r} cannot be a target's name", remedy="Use letters, digits, dots and dashes.")


def add_target(name: str, address: str, profile: str | None = None, *, accelerator: str | None = None, replace: bool = True) -> Target:
    """Keep a name.  Raises :class:`TargetError` when the name or the address is malformed, or the name is taken and not to be replaced,
    :class:`~edgeprune.errors.ProfileError` when there is no such profile."""
    _check_name(name)
    parse_address(address)
    if profile is not None:
        load_profile(profile)
    with _changing() as entries:
        before = entries.get(name)
        entry = {"address": address, "profile": profile} | ({} if accelerator is None else {"accelerator": accelerator})
        if not replace and before is not None and before != entry:
            raise _taken(name, before)
        entries[name] = entry
    return Target(name, address, profile, accelerator)


def add_group(name: str, members: Sequence[str], *, replace: bool = True) -> tuple[str, ...]:
    """Let a name stand for several targets (names or addresses); its members.

    Raises :class:`TargetError` when the name is malformed, that of a target, or that of another group that is not to be replaced; when a
    member is unknown or a group, or when there is none.
    """
    _check_name(name)
    chosen = tuple(dict.fromkeys(members))
    if not chosen:
        raise TargetError(f"group {name!r} has no members", remedy=f"Name them: edgeprune targets group {name} TARGET...")
    with _changing() as entries:
        before = entries.get(name)
        if isinstance(before, dict) and "address" in before:
            raise TargetError(f"{name!r} is the name of a target", remedy=f"Choose another, or remove it: edgeprune targets remove {name}")
        for member in chosen:
            resolve_target(member)
        if not replace and before is not None and before != {"members": list(chosen)}:
            raise _taken(name, before)
        entries[name] = {"members": list(chosen)}
    return chosen


def _taken(name: str, entry: object) -> TargetError:
    kept = entry if isinstance(entry, dict) else {}
    stands_for = kept.get("address") or ", ".join(map(str, kept.get("members") or ())) or "something else"
    return TargetError(f"the name {name!r} already stands for {stands_for}", remedy="Choose another name, or add --replace.")


def remove_target(name: str) -> None:
    """Forget a target, also as a member of groups, or a group.  Raises :class:`TargetError` listing the known ones when it is unknown."""
    with _changing() as entries:
        if name not in entries:
            raise _unknown(name, entries)
        del entries[name]
        for group, value in list(entries.items()):
            if isinstance(value, dict) and name in (members := _members(value)):
                value["members"] = [member for member in members if member != name]
                if not value["members"]:
                    del entries[group]


def resolve_target(text: str) -> Target:
    """The target of a name, or of an address such as ``local:`` or ``ssh://host``.  Raises :class:`TargetError`."""
    if "," in text:
        raise TargetError(f"{text!r} names several devices, and one is wanted", remedy="Give one of them.")
    if text == "local" or ":" in text:
        address = "local:" if text == "local" else text
        parse_address(address)
        return Target(address, address)
    entries = _load()
    entry = entries.get(text)
    if entry is None:
        if reason := _read()[1].get(text):
            raise TargetError(f"{targets_file()}: the entry {text!r} {reason}", remedy="Repair it there, or add it again with --replace.")
        raise _unknown(text, entries)
    if isinstance(entry, _Group):
        raise TargetError(f"{text!r} is a group, and one device is wanted", remedy=f"Its members: {', '.join(entry.members)}.")
    return Target(text, entry.address, entry.profile, entry.accelerator)


def resolve_targets(text: str) -> list[Target]:
    """The targets of a comma-separated list of names, groups and addresses, each once.  Raises :class:`TargetError`."""
    return list(dict.fromkeys(named_targets(text)))


def named_targets(text: str) -> list[Target]:
    """:func:`resolve_targets`, but each as often as it is named."""
    groups = list_groups()
    names = [name.strip() for name in text.split(",")]
    if len(names) > 1 and not all(names):
        raise TargetError(f"{text!r} has no name beside a comma", remedy="Write one comma between names: pi5a,pi5b.")
    return [resolve_target(member) for name in names for member in groups.get(name, (name,))]


def _unknown(name: str, entries: Iterable[str]) -> TargetError:
    add = f"Add one: edgeprune targets add {name or 'NAME'} ssh://user@host; or give an address (local:, ssh://user@host)."
    return TargetError(f"unknown target {name!r}", remedy=f"{suggest(name, entries, 'targets')} {add}")
