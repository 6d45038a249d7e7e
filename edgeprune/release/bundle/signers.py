"""Who may sign: a file of allowed signers, as ``ssh-keygen -Y verify -f`` reads it.

Source: ssh-keygen(1), "ALLOWED SIGNERS"; ssh_config(5), "PATTERNS".
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edgeprune.errors import SignatureError
from edgeprune.release.bundle.sshsig import PublicKey, load_key

# principals, then options unless the key's type follows, then the type and the key
_LINE = re.compile(r'("[^"]*"|\S+)\s+(?:((?:[^\s"]|"[^"]*")+)\s+)??([a-z0-9-]+(?:@openssh\.com)?)\s+([A-Za-z0-9+/]+=*)(?:\s.*)?', re.ASCII)
_OPTION = re.compile(r'([a-z-]+)(?:="([^"]*)")?(?:,|$)', re.IGNORECASE)
_TIME = re.compile(r"(\d{8})(\d{4}(?:\d{2})?)?(Z?)")
_OPTIONS: Final = ("namespaces", "valid-after", "valid-before")


@dataclass(frozen=True)
class Signer:
    """A line of the file. ``principals``: as written there, by which signers are distinguished. ``line``: its number."""

    principals: str
    key: PublicKey
    namespaces: str | None
    valid_after: datetime | None
    valid_before: datetime | None
    line: int

    def refusal(self, namespace: str, now: datetime) -> str | None:
        """Why the key counts for nothing in ``namespace`` at ``now``; None when it counts."""
        if self.namespaces is not None and not matches(namespace, self.namespaces):
            return f"its key is allowed for {self.namespaces} only"
        if self.valid_after is not None and now < self.valid_after:
            return f"its key is valid from {self.valid_after:%Y-%m-%d %H:%M %Z} on"
        if self.valid_before is not None and now > self.valid_before:
            return f"its key was valid until {self.valid_before:%Y-%m-%d %H:%M %Z}"
        return None


def read_signers(path: str | Path) -> tuple[Signer, ...]:
    """The lines of a file of allowed signers.

    Raises :class:`SignatureError` naming file and line: it cannot be read, a malformed line, an unknown option, a certificate authority
    (its certificates are not checked here), a key of a type that is not accepted, or no line at all.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # as OpenSSH does: at nothing else that a reader may take for an end
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SignatureError(f"the allowed signers {path} cannot be read: {reason}") from error
    kept = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    signers = tuple(_signer(line, number, f"{path}:{number}") for number, line in kept if line and not line.startswith("#"))
    if not signers:
        raise SignatureError(f"{path} lists no signer", remedy=_EXAMPLE)
    return signers


_EXAMPLE: Final = 'Write lines such as: release@example.org namespaces="edgeprune-release" ssh-ed25519 AAAA...'


def _signer(line: str, number: int, where: str) -> Signer:
    if not line.replace("\t", " ").isprintable():
        raise SignatureError(f"{where} has invisible characters", remedy="Write the line again, by hand.")
    match = _LINE.fullmatch(line)
    if match is None:
        raise SignatureError(f"{where} is not a line of allowed signers", remedy=_EXAMPLE)
    principals, options, kind, encoded = match.groups()
    values = _options(options or "", where)
    try:
        key = PublicKey(base64.b64decode(encoded, validate=True))
    except ValueError as error:
        raise SignatureError(f"{where} has a malformed key: {error}") from error
    load_key(key, where)
    if key.type != kind:
        raise SignatureError(f"{where} says {kind}, but its key is of type {key.type}")
    return Signer(
        principals.strip('"'),
        key,
        values.get("namespaces"),
        _time(values.get("valid-after"), where),
        _time(values.get("valid-before"), where),
        number,
    )


def _options(text: str, where: str) -> dict[str, str]:
    values: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        name = match[1].lower() if match else text[position:]
        if name == "cert-authority":
            raise SignatureError(
                f"{where} names a certificate authority, and certificates are not checked here", remedy="List the signers' own keys."
            )
        if match is None or name not in _OPTIONS or match[2] is None:
            raise SignatureError(f"{where} has the unknown option {name!r}", remedy=f'Known options: {", ".join(_OPTIONS)}, each ="...".')
        if name in values:
            raise SignatureError(f"{where} has the option {name} twice")
        values[name] = match[2]
        position = match.end()
    return values


def _time(text: str | None, where: str) -> datetime | None:
    """``YYYYMMDD[HHMM[SS]]Z``.  Without the Z, ssh-keygen takes it for the time zone of the machine it runs on: another on every device."""
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    try:
        if match is None or not match[3]:
            raise ValueError
        time = datetime.strptime(match[1] + (match[2] or "").ljust(6, "0"), "%Y%m%d%H%M%S")
        return time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise SignatureError(
            f"{where} has the time {text!r}", remedy="Write YYYYMMDDZ or YYYYMMDDHHMMZ: in UTC, which is the same on every device."
        ) from None


def matches(value: str, patterns: str) -> bool:
    """Whether ``value`` matches a list of patterns: one of them, and none that ``!`` is before.  ``*`` and ``?`` stand for characters."""
    found = False
    for pattern in patterns.split(","):
        expression = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern.removeprefix("!"))
        if re.fullmatch(expression, value, re.DOTALL):
            if pattern.startswith("!"):
                return False
            found = True
    return found
