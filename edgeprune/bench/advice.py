"""What a reader has to know about a measurement, and what to do about it."""

from __future__ import annotations

from edgeprune.bench.answers import ModelAnswer
from edgeprune.bench.conditions import Conditions
from edgeprune.budget import counted
from edgeprune.engines import CPU

MANY_OUTLIERS = 0.01
LARGE_DRIFT = 0.05
BUSY = 0.75
OTHERS = 0.05
"""The share of the processors' time from which on what other programs take is worth a warning."""

NOT_SETTLED = (
    "the median did not settle, its interval is wider than requested: end other programs, fix the clocks (tune), or measure longer"
)
NO_ENERGY = "energy was not measured: "


def is_busy(conditions: Conditions) -> bool:
    """Whether the load average says that other programs were running when a measurement began."""
    return (conditions.get("loadavg") or 0) > BUSY * (conditions.get("cores") or 1)


def advice(result: ModelAnswer, tuned: tuple[str, ...] = (), disturber: str = "") -> list[str]:
    """Warnings about one model of the runner's result, each with what to do; nothing when all is well.

    ``tuned``: what held the clocks. ``disturber``: the program that took most of the processors' time meanwhile, if known.
    """
    return [
        *_unstable(result),
        *_throttled(result),
        *_surroundings(result, tuned, disturber),
        *_energy(result),
        *_delegated(result),
        *filter(None, [result.note]),
    ]


def _unstable(result: ModelAnswer) -> list[str]:
    found = []
    if not result.settled:
        found.append("it was still warming up when sampling began: allow a longer warm-up")
    drift = result.drift
    if abs(drift) > LARGE_DRIFT:
        way, cause = ("slower", "heat or other work grew") if drift > 0 else ("faster", "it was still warming up, or other work ended")
        found.append(f"it became {abs(drift):.0%} {way} while it was measured ({cause}): let the device rest and measure again")
    if result.outliers > MANY_OUTLIERS:
        found.append(f"{result.outliers:.1%} of the runs were stalls: end other programs, or keep the model on some processors (affinity)")
    if not result.stable and not found:
        found.append(NOT_SETTLED)
    return found


def _throttled(result: ModelAnswer) -> list[str]:
    causes = ", ".join(result.throttled)
    if not causes:
        return []
    if result.discarded:
        return [f"the device was throttled ({causes}): {counted(result.discarded, 'window')} discarded and repeated after a cooldown"]
    return [f"the device was throttled ({causes}): cool it, or give it a better power supply"]


def _surroundings(result: ModelAnswer, tuned: tuple[str, ...], disturber: str) -> list[str]:
    before = result.before
    found = []
    if before.get("governor") not in ("", "performance", None) and not tuned:
        found.append(f"the clock governor is {before['governor']}: clocks vary (tune fixes them)")
    others = result.others
    if others is not None and others > OTHERS:
        who = f"{disturber} of a core; all together" if disturber else "it"
        found.append(f"something else was running ({who} took {others:.0%} of the processors' time): end it and measure again")
    elif others is None and is_busy(before):
        found.append(f"something else was running (load average {before['loadavg']:.1f}): end it and measure again")
    return found


def _delegated(result: ModelAnswer) -> list[str]:
    """What an accelerator did not take."""
    if result.accelerator == CPU or result.delegated == 1:
        return []
    if result.delegated is None:
        return [f"how much of the model {result.accelerator} took is not known: this runtime does not report it"]
    left = ", ".join(f"{result.on_cpu.count(kind)} {kind}" for kind in sorted(set(result.on_cpu)))
    what = f"only {result.delegated:.1%} of the operators" if result.delegated else "nothing"
    return [f"{result.accelerator} took {what}, the processor ran the rest ({left}): replace these operators, or measure on the cpu"]


def _energy(result: ModelAnswer) -> list[str]:
    error, low, high = result.energy_error, result.energy_low_mj, result.energy_high_mj
    if error:
        return [f"{NO_ENERGY}{error}"]
    if low is not None and high is not None and low <= 0 < high:
        return ["the energy cannot be distinguished from 0: the meter is too coarse for this model, measure longer"]
    return []
