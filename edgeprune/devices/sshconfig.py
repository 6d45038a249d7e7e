"""What ``~/.ssh/config`` says about a host."""

from __future__ import annotations

import getpass
import glob
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import paramiko

from edgeprune.devices.address import Address
from edgeprune.errors import TargetError

_MAX_INCLUDES = 16  # as OpenSSH's READCONF_MAX_DEPTH


@dataclass(frozen=True)
class Endpoint:
    """Where and how to connect.

    ``jumps``: hosts to go through, in order; ``command``: a program to connect with (ProxyCommand); ``key_alias``: the name that its host
    key is known by, whatever its address (HostKeyAlias).
    """

    alias: str
    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    only_identities: bool
    known_hosts: tuple[str, ...]
    jumps: tuple[str, ...]
    command: str | None
    key_alias: str | None = None

    @property
    def key_name(self) -> str:
        """The host's name in a known_hosts file."""
        if self.key_alias:
            return self.key_alias
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def _lines(path: Path, depth: int = 0) -> list[str]:
    """A configuration's lines, with what it includes in place.  paramiko itself does not know ``Include``."""
    if depth > _MAX_INCLUDES or not path.is_file():
        return []
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.lower() != "include":
            lines.append(line)
            continue
        for pattern in shlex.split(rest):
            for name in sorted(glob.glob(os.path.join(path.parent, os.path.expanduser(pattern)))):
                lines += _lines(Path(name), depth + 1)
    return lines


def lookup(address: Address) -> Endpoint:
    """Settle an address by the user's configuration; what the address itself says comes first.

    Raises :class:`TargetError` when the configuration cannot be read.
    """
    path = Path("~/.ssh/config").expanduser()
    try:
        found = paramiko.SSHConfig.from_text("\n".join(_lines(path))).lookup(address.host)
    except (paramiko.SSHException, ValueError, OSError) as error:
        raise TargetError(f"{path} cannot be read: {error}") from error
    known = [address.known_hosts] if address.known_hosts else shlex.split(found.get("userknownhostsfile", "~/.ssh/known_hosts"))
    jumps = found.get("proxyjump") or "none"
    identities = [os.path.expanduser(name) for name in found.get("identityfile", [])]
    return Endpoint(
        alias=address.host,
        host=found.get("hostname", address.host),
        port=address.port or int(found.get("port", 22)),
        user=address.user or found.get("user") or getpass.getuser(),
        identities=tuple(name for name in identities if os.path.exists(name)),
        only_identities=found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=tuple(os.path.expanduser(name) for name in known),
        jumps=() if jumps.lower() == "none" else tuple(hop.strip() for hop in jumps.split(",")),
        command=found.get("proxycommand"),
        key_alias=found.get("hostkeyalias"),
    )
