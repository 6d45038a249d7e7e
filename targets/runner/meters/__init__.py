"""Energy meters: one file for each way a device reports what it draws."""

from __future__ import annotations

import math
import threading
import time
from typing import List, Optional, Sequence, Tuple

from ..registry import Registry


class MeterError(Exception):
    """A meter does not answer, or answers something that is not a reading."""


class Meter:
    """Measures the energy between :meth:`start` and :meth:`stop`.  Reading raises :class:`MeterError`, never returns a guess."""

    name = ""
    covers = ""
    """What of the device it sees."""
    period_s = 0.0
    """Seconds between two new values."""
    order = 0
    """Meters of a lower order are tried first."""

    @classmethod
    def find(cls, root: str = "/") -> Optional[Meter]:
        """A meter of this kind; None when the device has none, :class:`MeterError` when it has one that cannot be read."""
        raise NotImplementedError

    @classmethod
    def open(cls, root: str = "/") -> Optional[Meter]:
        """A meter of this kind that works, or None."""
        try:
            return cls.find(root)
        except MeterError:
            return None

    @classmethod
    def connect(cls, source: str) -> Optional[Meter]:
        """The meter that the user named; ``source`` is what followed its name and a colon.  Raises what :meth:`find` raises."""
        return cls.find()

    def prepare(self) -> None:
        """Find out what takes a while: units, the update period."""

    def start(self) -> None:
        """Begin."""
        raise NotImplementedError

    def stop(self) -> float:
        """Joules since :meth:`start`."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what it holds; a second time does nothing."""


def joules(samples: Sequence[Tuple[float, float]], begin: float, end: float) -> float:
    """Energy from ``begin`` to ``end`` of (second, watts) samples in between, by trapezoids.

    Before the first and after the last, power is taken to be theirs: a reading from before or after the window is of other work.
    """
    points = [(begin, samples[0][1]), *samples, (end, samples[-1][1])]
    return sum((later - earlier) * (first + second) / 2 for (earlier, first), (later, second) in zip(points, points[1:]))


class PowerMeter(Meter):
    """A meter that reports watts: sampled by a thread, once each period, integrated by :func:`joules`.  Its readings are :meth:`watts`."""

    def __init__(self) -> None:
        self._samples: List[Tuple[float, float]] = []
        self._failure: Optional[MeterError] = None
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._begin = 0.0

    def watts(self) -> float:
        """Power now."""
        raise NotImplementedError

    def _take(self) -> None:
        begin = time.monotonic()
        value = self.watts()
        self._samples.append(((begin + time.monotonic()) / 2, value))

    def _sample(self) -> None:
        """In the middle of each period since the start: windows are whole periods, and work begins and ends a little beside their edges."""
        moment = self._begin + self.period_s / 2
        try:
            while not self._ended.wait(max(0.0, moment - time.monotonic())):
                self._take()
                moment += self.period_s * max(1, math.ceil((time.monotonic() - moment) / self.period_s))
        except MeterError as error:
            self._failure = error

    def start(self) -> None:
        """Begin.  A first reading proves that it answers; it is of what went before, and does not count."""
        self.close()
        self._samples, self._failure = [], None
        self._ended.clear()
        self.watts()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._begin = time.monotonic()
        self._thread.start()

    def stop(self) -> float:
        """Joules since :meth:`start`.  One more reading proves that it still answers; it counts only where there is no other."""
        end = time.monotonic()
        self.close()
        if self._failure:
            raise self._failure
        self._take()
        inside = [sample for sample in self._samples if sample[0] <= end]
        return joules(inside or self._samples[-1:], self._begin, end)

    def close(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None


METERS: Registry[Meter] = Registry("meter", __name__)


def available(root: str = "/") -> List[str]:
    """Names of the meters that work here."""
    found = []
    for name in METERS.names():
        meter = METERS.get(name).open(root)
        if meter is not None:
            meter.close()
            found.append(name)
    return found
