"""Where a device keeps a product's releases, and the program there that changes them (``targets/activator``)."""

from __future__ import annotations

import json
import posixpath
import sys
from typing import Any, Final, Self, TypeVar

from edgeprune.devices.address import parse_address
from edgeprune.devices.connect import connect
from edgeprune.devices.framing import new_mark
from edgeprune.devices.pack import pack
from edgeprune.devices.program import DeviceProgram
from edgeprune.devices.pythons import discover
from edgeprune.devices.session import Session
from edgeprune.errors import (
    BundleError,
    DeviceBusyError,
    DeviceError,
    DeviceFullError,
    EdgepruneError,
    ExpiredError,
    OlderReleaseError,
    ReleaseError,
    SignatureError,
)
from edgeprune.release.deploy.answers import After, Products

T = TypeVar("T")

PROTOCOL: Final = 1
BASE: Final = "~/edgeprune"
"""Below it, a folder for each product."""
_PROGRAM = "activator.pyz"
_HEARTBEAT_S = 5.0
_LEAST_S, _SLOWEST_B_S = 120.0, 2e6  # a slow processor's hashing of a release, some times over


class ReleaseStore:
    """The folder ``base`` of a connected device; ``python``: path of its Python; ``home``: for a ``base`` that begins with ``~``."""

    def __init__(self, session: Session, python: str, home: str, base: str = BASE) -> None:
        self.session, self._python = session, python
        self.base = posixpath.normpath(home + base[1:] if base == "~" or base.startswith("~/") else base)
        if not self.base.startswith("/"):
            raise ReleaseError(f"the folder {base!r} is not an absolute path", remedy="Write one such as /opt/edgeprune or ~/edgeprune.")
        self.program = f"{self.base}/{_PROGRAM}"

    def install(self) -> None:
        """Bring the program, unless it is there."""
        self.session.run(["mkdir", "-p", self.base])
        self.session.put(pack("activator"), self.program)

    def root(self, product: str) -> str:
        """The folder of a product's releases."""
        return f"{self.base}/{product}"

    def products(self) -> list[str]:
        """The products that have releases here, sorted."""
        if not self.session.exists(self.program):
            return []
        return list(self._call(Products, "products", self.base, _LEAST_S).products)

    def call(self, kind: type[T], command: str, product: str, reads_bytes: int = 0, **arguments: Any) -> T:
        """Do one command of ``targets/activator`` for a product; its answer as ``kind``.  ``reads_bytes``: how much it has to hash.

        Raises :class:`ReleaseError` and those below it, :class:`DeviceError` and those below it.
        """
        return self._call(kind, command, self.root(product), _LEAST_S + reads_bytes / _SLOWEST_B_S, **arguments)

    def run_after(self, product: str, command: str, timeout_s: float) -> After:
        """Run a shell command on the device (``targets/activator/after.py``); it is ended when it takes too long, or this side is gone."""
        return self._call(After, "after", self.root(product), timeout_s + _LEAST_S, _HEARTBEAT_S, shell=command, timeout_s=timeout_s)

    def _call(self, kind: type[T], command: str, root: str, limit_s: float, heartbeat_s: float | None = None, **arguments: Any) -> T:
        mark, address = new_mark(), self.session.address
        activator = DeviceProgram(
            self.session, self.program, DeviceError, "Another program answers in its place: remove it there, and push again."
        )
        request = json.dumps(arguments | {"root": root, "mark": mark}).encode() + b"\n"
        answer = activator.call([self._python, self.program, command], mark, limit_s, request, heartbeat_s)
        if (protocol := answer.get("protocol")) != PROTOCOL:
            raise DeviceError(
                f"{self.program} on {address} speaks protocol {protocol}, and {PROTOCOL} was expected",
                remedy="Another version of edgeprune replaced it: use one version.",
            )
        if "error" in answer:
            raise _error(str(answer.get("kind")), f"{address.rstrip(':')}: {answer['error']}")
        return activator.decode(answer, kind, command)


def find_python(session: Session, address: str) -> tuple[str, str]:
    """The path of the device's first Python, and its home folder.  Raises :class:`NoRuntimeError` when it has none."""
    named = parse_address(address).python or (sys.executable if session.address == "local:" else None)
    found = discover(session, [named] if named else [])
    return found.pythons[0].path, found.home


class OpenReleaseStore(ReleaseStore):
    """A store with a connection of its own, for what needs no runner.  A context manager."""

    def __init__(self, address: str, base: str = BASE) -> None:
        session = connect(address)
        try:
            super().__init__(session, *find_python(session, address), base)
        except BaseException:
            session.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def _error(kind: str, message: str) -> EdgepruneError:
    match kind:
        case "older":
            return OlderReleaseError(message, remedy="Build a newer one; to go back to one that is there: edgeprune release rollback")
        case "expired":
            return ExpiredError(message, remedy="Set this machine's clock right, or build and sign a newer release.")
        case "signature":
            return SignatureError(message, remedy="Sign it with keys that the device knows, or replace them: --replace-signers")
        case "keygen":
            return SignatureError(message, remedy="Install OpenSSH's client there: 8.2 or newer, for signers with times 8.7.")
        case "name":
            return BundleError(message)
        case "busy":
            return DeviceBusyError(message)
        case "full":
            return DeviceFullError(message, remedy="Make room there: edgeprune release prune")
        case "state":
            return DeviceError(
                message,
                remedy="Check the device's disk, and remove the file: it is made again from the releases there, so that what is in use "
                "stays so, and older releases are still refused.",
            )
        case "newer":
            return DeviceError(message, remedy="A newer edgeprune has written it: update this one.")
        case "damaged" | "disk":
            return DeviceError(message, remedy="Push the release again; if it happens again, check the device's disk.")
        case _:
            return ReleaseError(message)
