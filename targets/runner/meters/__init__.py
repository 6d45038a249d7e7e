"""Energy meters: one file for each way a device tells what it draws."""

from __future__ import annotations

from typing import List, Optional

from ..registry import Registry


class Meter:
    """Measures the energy between :meth:`start` and :meth:`stop`."""

    covers = ""

    @classmethod
    def open(cls, root: str = "/") -> Optional[Meter]:
        """A meter of this kind, or None when the device has none that this user may read."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin."""
        raise NotImplementedError

    def stop(self) -> float:
        """Joules since :meth:`start`."""
        raise NotImplementedError


METERS: Registry[Meter] = Registry("meter", __name__)


def available(root: str = "/") -> List[str]:
    """Names of the meters that work here."""
    return [name for name in METERS.names() if METERS.get(name).open(root)]
