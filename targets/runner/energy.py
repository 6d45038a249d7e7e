"""Energy of one inference, from a run of its own so that reading a meter never disturbs the latency."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Dict, Optional, Tuple

from . import stats
from .meters import METERS, Meter, MeterError
from .protocol import RunnerError

_PAIRS = 5
_LEAST_PAIRS = 3
_PERIODS = 5
_LEAD_PERIODS = 2
_LONGEST_S = 168.0

NOTHING: Dict[str, Any] = {"energy_mj": None, "energy_low_mj": None, "energy_high_mj": None, "energy_method": None, "energy_error": None}


def find_meter(name: Optional[str] = None) -> Optional[Meter]:
    """The meter of a name (with what follows its colon, as in ``command:tool --csv``), or the first that works here.

    None when there is none; :class:`RunnerError` when the one that was named is unknown or does not work.
    """
    if name is None:
        ordered = sorted(METERS.names(), key=lambda known: METERS.get(known).order)
        return next((meter for meter in (METERS.get(known).open() for known in ordered) if meter), None)
    kind, _, source = name.partition(":")
    try:
        meter = METERS.get(kind).connect(source)
    except (ValueError, MeterError) as error:
        raise RunnerError("meter", str(error) if kind not in METERS.names() else f"the meter {kind}: {error}") from None
    if meter is None:
        raise RunnerError("meter", f"this device has no meter {kind}")
    return meter


def has_meter(name: Optional[str] = None) -> bool:
    """Whether there is one; raises what :func:`find_meter` raises, before anything is measured."""
    meter = find_meter(name)
    if meter is not None:
        meter.close()
    return meter is not None


def window_s(least_s: float, period_s: float) -> Tuple[float, int]:
    """Length of one window, a whole number of the meter's periods and at least five, and how many pairs of windows there is time for.

    Each window has two periods before it that do not count.  :class:`MeterError` when not even three pairs fit into 168 s: the meter is too
    slow.
    """
    length = max(period_s * max(_PERIODS, math.ceil(least_s / period_s)), least_s) if period_s > 0 else least_s
    pairs = min(_PAIRS, int(_LONGEST_S / (2 * (length + _LEAD_PERIODS * period_s))))
    if pairs < _LEAST_PAIRS:
        raise MeterError(f"a new value only every {period_s:.1f} s is too slow for an inference's energy")
    return length, pairs


def _joules(meter: Meter, work: Callable[[], int]) -> Tuple[float, float, int]:
    """Energy and seconds of some work, and what it returned."""
    meter.start()
    begin = time.monotonic()
    try:
        done = work()
    except BaseException:
        meter.close()
        raise
    return meter.stop(), time.monotonic() - begin, done


def per_inference(run: Callable[[int], int], least_s: float, meter: Meter) -> Dict[str, Any]:
    """Pairs of an idle and an active window, so that idle power may drift; ``run(ns)`` runs for that long; how many times.

    What a meter reports may be one period old, of an average over one: each window's work begins two periods before it.
    """

    def rest() -> int:
        time.sleep(length)
        return 0

    meter.prepare()
    length, pairs = window_s(least_s, meter.period_s)
    lead_s = _LEAD_PERIODS * meter.period_s
    energies, idles = [], []
    for _ in range(pairs):
        time.sleep(lead_s)
        idle_j, idle_s, _ = _joules(meter, rest)
        run(int(lead_s * 1e9))
        active_j, active_s, runs = _joules(meter, lambda: run(int(length * 1e9)))
        idles.append(idle_j / idle_s)
        energies.append(1e3 * (active_j - idles[-1] * active_s) / runs)
    mean, low, high = stats.mean_interval(energies)
    if mean <= 0:
        raise MeterError(f"an inference did not draw more than idling, {stats.median(idles):.2f} W: measure longer, or with a finer meter")
    method = f"{meter.name}: {meter.covers}, idle of {stats.median(idles):.2f} W subtracted, {pairs} windows of {length:.2f} s"
    return dict(NOTHING, energy_mj=mean, energy_low_mj=low, energy_high_mj=high, energy_method=method)


def measure_energy(
    run: Callable[[int], int], least_s: float, wanted: bool = True, name: Optional[str] = None, meter: Optional[Meter] = None
) -> Dict[str, Any]:
    """``energy_mj`` of one inference above idle with its 95 % interval; nulls with no meter, and ``energy_error`` where one fails."""
    if not wanted:
        return dict(NOTHING)
    meter = meter or find_meter(name)
    if meter is None:
        return dict(NOTHING)
    try:
        return per_inference(run, least_s / _PAIRS, meter)
    except MeterError as error:
        return dict(NOTHING, energy_error=f"{meter.name}: {error}")
    finally:
        meter.close()
