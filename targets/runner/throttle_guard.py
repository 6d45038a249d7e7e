"""Windows in which the device was throttled do not count.  They are measured again after a cooldown."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional

from .probes import conditions

_CLOCK_SHARE = 0.95
_EVERY_S = 0.5
_POLL_S = 1.0
_MARGIN_C = 3.0

State = Dict[str, Any]


def reasons(before: State, now: State, limit_c: Optional[float] = None, margin_c: float = 0.0) -> List[str]:
    """What throttles the device in the state ``now``, or has since ``before``; nothing when all is well.

    ``limit_c``: a temperature above which nothing is measured, besides the device's own limits; ``margin_c``: how far below them it must
    be.
    """
    found = list(now.get("throttled") or [])
    found += [f"{name} meanwhile" for name in now.get("occurred") or [] if name not in (before.get("occurred") or [])]
    for name, count in now.get("events", {}).items():
        if count > before.get("events", {}).get(name, 0):
            found.append(f"throttling was counted in {name}")
    for zone, temperature in now.get("temperatures_c", {}).items():
        limits = [limit for limit in (limit_c, now.get("limits_c", {}).get(zone)) if limit is not None]
        if limits and temperature >= min(limits) - margin_c:
            found.append(f"{zone} is at {temperature:.1f} C, the limit is {min(limits):.1f} C")
    return found + _clocks(before, now)


def _clocks(before: State, now: State) -> List[str]:
    """A lower limit; and a clock below it, which is not a sign of rest only under the governor ``performance``."""
    limit, old = now.get("limit_mhz"), before.get("limit_mhz")
    if limit and old and limit < old:
        return [f"the clock limit fell from {old:.0f} to {limit:.0f} MHz"]
    fastest = max(now.get("clocks_mhz") or [0.0])
    if limit and fastest and now.get("governor") == "performance" and fastest < _CLOCK_SHARE * limit:
        return [f"the clock is {fastest:.0f} MHz where {limit:.0f} are allowed"]
    return []


class ThrottleGuard:
    """Watches the device during one measurement.

    ``discarded`` windows, seconds of ``cooldown_s`` and the ``causes`` are for the report.  When the device has not recovered within
    ``patience_s`` of cooling down in all, it gives up: the measurement continues and is ``unreliable``.  Each second of
    cooling is reported by the event ``cooling``.
    """

    def __init__(
        self,
        limit_c: Optional[float] = None,
        patience_s: float = 60.0,
        probe: Callable[[], State] = conditions,
        clock: Any = time,
        emit: Optional[Callable[..., None]] = None,
    ) -> None:
        self._limit_c, self._patience_s, self._probe, self._clock, self._emit = limit_c, patience_s, probe, clock, emit
        self.before = self._seen = probe()
        self._next = 0.0
        self.discarded = 0
        self.cooldown_s = 0.0
        self.causes: List[str] = []
        self.unreliable = False
        self._cool_down(reasons(self.before, self.before, limit_c))

    def due(self) -> bool:
        """Whether it is time to look again: looking costs a few files, and on some devices a process."""
        return bool(self._clock.monotonic() >= self._next)

    def passes(self, windows: int) -> bool:
        """Whether the last ``windows`` count.  When they do not, this returns after the cooldown."""
        now = self._probe()
        found = reasons(self._reference(), now, self._limit_c)
        self._seen = now
        self._next = self._clock.monotonic() + _EVERY_S
        if not found or self.unreliable:
            return True
        self._cool_down(found)
        if not self.unreliable:
            self.discarded += windows
        return self.unreliable

    def _reference(self) -> State:
        """What to compare with: clock limits with those at the start, counters with the last reading."""
        return dict(self._seen, limit_mhz=self.before.get("limit_mhz"))

    def _cool_down(self, found: List[str]) -> None:
        begin = self._clock.monotonic()
        end = begin + self._patience_s - self.cooldown_s
        while found and self._clock.monotonic() < end:
            self.causes += [cause for cause in found if cause not in self.causes]
            if self._emit:
                self._emit("cooling", causes=found)
            self._clock.sleep(_POLL_S)
            now = self._probe()
            found = reasons(self._reference(), now, self._limit_c, _MARGIN_C)
            self._seen = now
        self.causes += [cause for cause in found if cause not in self.causes]
        self.unreliable = bool(found)
        self.cooldown_s += self._clock.monotonic() - begin

    def report(self) -> Dict[str, Any]:
        """State before and after, what was discarded, and whether the device never recovered."""
        return {
            "before": self.before,
            "after": self._probe(),
            "discarded": self.discarded,
            "cooldown_s": round(self.cooldown_s, 1),
            "throttled": self.causes,
            "unreliable": self.unreliable,
        }
