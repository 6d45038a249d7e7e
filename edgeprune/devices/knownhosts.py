"""The host keys that the user trusts."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey


def load_known_hosts(files: Iterable[str], into: Any) -> frozenset[bytes]:
    """Add the keys of known_hosts files to a ``paramiko.HostKeys``; the revoked ones, which are not added.

    paramiko's own loader stops at a marker (``@revoked``, ``@cert-authority``) and at bytes that are not text; here, as in OpenSSH
    (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), one bad line does not hide the good ones.  A revoked key is revoked for every host.  Host
    certificates are not supported, so authorities are passed over.
    """
    lines = [line.split() for file in files if Path(file).is_file() for line in _lines(Path(file))]
    revoked = frozenset(key for words in lines if words[:1] == ["@revoked"] and (key := _decoded(words[3:4])))
    for words in lines:
        entry = _entry(words)
        if entry is not None and entry.key.asbytes() not in revoked:
            for name in entry.hostnames:
                into.add(name, entry.key.get_name(), entry.key)
    return revoked


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _decoded(words: list[str]) -> bytes:
    try:
        return base64.b64decode(words[0], validate=True) if words else b""
    except ValueError:
        return b""


def _entry(words: list[str]) -> Any:
    """The entry of one line, or None when it is a comment, a marker or damaged."""
    if len(words) < 3 or words[0][0] in "#@" or not _decoded(words[2:3]):
        return None
    try:
        entry = HostKeyEntry.from_line(" ".join(words[:3]))
    except (InvalidHostKey, paramiko.SSHException, ValueError):
        return None
    return entry if entry is not None and entry.key is not None else None
