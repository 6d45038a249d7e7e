"""Addresses of devices: ``local:``, ``ssh://[user@]host[:port][?python=/path&known_hosts=/path]`` and ``adb:SERIAL[?python=/path]``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from edgeprune.errors import TargetError

_FORMS = (
    "Addresses look like local:, ssh://user@host:port, ssh://ALIAS (a host of ~/.ssh/config) or adb:SERIAL (of adb devices); "
    "?python=/path names the device's Python."
)
_OPTIONS = ("python", "known_hosts")


@dataclass(frozen=True)
class Address:
    """A parsed address; ``port`` and ``user`` are None where ``~/.ssh/config`` or the defaults decide.

    ``host`` is a serial number for adb.
    """

    text: str
    scheme: str
    host: str = ""
    port: int | None = None
    user: str | None = None
    python: str | None = None
    known_hosts: str | None = None


def parse_address(text: str) -> Address:
    """Parse an address.  Raises :class:`TargetError` when it is malformed, of an unknown kind, or holds a password."""
    try:
        parts = urlsplit(text)
        port = parts.port
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError as error:
        raise TargetError(f"address {text!r} is malformed: {error}", remedy=_FORMS) from error
    if parts.scheme not in ("local", "ssh", "adb"):
        raise TargetError(f"address {text!r} is of an unknown kind {parts.scheme!r}", remedy=_FORMS)
    if parts.password is not None:
        raise TargetError(
            f"address of {parts.hostname!r} holds a password", remedy="Only keys and the agent are used: run ssh-copy-id once."
        )
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise TargetError(f"address {text!r} has the unknown option {unknown[0]!r}", remedy=f"Known options: {', '.join(_OPTIONS)}.")
    chosen = {name: values[-1] for name, values in options.items()}
    if parts.scheme == "adb":
        if not parts.path or parts.netloc or parts.fragment or chosen.get("known_hosts"):
            raise TargetError(f"address {text!r} is malformed", remedy=_FORMS)
        return Address(text, "adb", unquote(parts.path), python=chosen.get("python"))
    if parts.path.strip("/") or parts.fragment or (parts.scheme == "ssh") != bool(parts.hostname):
        raise TargetError(f"address {text!r} is malformed", remedy=_FORMS)
    host = parts.netloc.rpartition("@")[2]  # urlsplit's own would be in lower case
    host = host.removesuffix(f":{port}") if port is not None else host
    user = unquote(parts.username) if parts.username else None
    return Address(text, parts.scheme, host.strip("[]"), port, user, chosen.get("python"), chosen.get("known_hosts"))
