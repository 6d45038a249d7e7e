"""A program on a device that answers a call with one line: a mark, and a JSON object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from edgeprune.decode import JsonObject, convert
from edgeprune.devices.session import Session
from edgeprune.errors import DeviceError, printable, printable_json
from edgeprune.files import parse_json

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceProgram:
    """Calls a program, and believes nothing of its answers before it is decoded.

    ``name``: what messages call it; ``error``: raised where it gives no answer, or one that is invalid; ``remedy``: against the latter.
    """

    session: Session
    name: str
    error: type[DeviceError]
    remedy: str

    def call(self, argv: list[str], mark: str, timeout_s: float, input: bytes = b"", heartbeat_s: float | None = None) -> JsonObject:
        """The object behind the last ``mark`` that it printed, its texts fit to be shown.  Raises ``error`` with what it said last, and
        what :meth:`Session.run` raises."""
        lines = list[str]()
        done = self.session.run(argv, input, timeout_s, lines.append, heartbeat_s, mark)
        try:
            return convert(printable_json(parse_json(lines[-1])), JsonObject)
        except (ValueError, LookupError):
            last = printable(done.stderr).strip().splitlines()[-1:] or ["it gave no message"]
            raise self.error(f"{self.name} on {self.session.address} gave no answer: {last[0]}") from None

    def decode(self, answer: JsonObject, kind: type[T], command: str) -> T:
        """The answer to ``command`` as ``kind``.  Raises ``error``."""
        try:
            return convert(answer, kind)
        except ValueError as flaw:
            raise self.error(
                f"{self.name} on {self.session.address} gave an invalid answer to {command!r}: {flaw}", remedy=self.remedy
            ) from flaw
