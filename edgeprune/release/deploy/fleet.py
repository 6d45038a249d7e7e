"""A release for many devices: a few first, then in waves, and no further when too many fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from edgeprune.bench.fleet import Outcome, side_by_side
from edgeprune.devices.events import DeviceEvent, OnEvent
from edgeprune.devices.targets import Target
from edgeprune.errors import BundleError, InputError
from edgeprune.release.bundle.file import Bundle
from edgeprune.release.deploy.push import Pushed, PushOptions, push


@dataclass(frozen=True)
class Waves:
    """``canary``: how many devices come first, none of which may fail; ``wave``: how many at a time then; ``max_failures``: the share
    of the devices tried so far that may fail, beyond which no further wave begins."""

    canary: int = 1
    wave: int = 10
    max_failures: float = 0.0

    def __post_init__(self) -> None:
        if self.canary < 0 or self.wave < 1 or not 0 <= self.max_failures <= 1:
            raise InputError("waves need a canary of at least 0 devices, a wave of at least 1, and a share of failures from 0 to 100%")

    def of(self, targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
        """The targets, wave by wave."""
        if self.canary and targets:
            yield targets[: self.canary]
        for begin in range(self.canary, len(targets), self.wave):
            yield targets[begin : begin + self.wave]


@dataclass(frozen=True)
class Rollout:
    """What became of the devices that were tried, in order, and those that were ``spared`` since too many had failed."""

    outcomes: tuple[Outcome[Pushed], ...]
    spared: tuple[Target, ...] = ()

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(outcome.error is not None for outcome in self.outcomes)


def push_all(
    bundle: Bundle,
    targets: Sequence[Target],
    options: PushOptions | None = None,
    waves: Waves | None = None,
    on_event: Callable[[Target, DeviceEvent], None] | None = None,
    now: datetime | None = None,
) -> Rollout:
    """Push a verified bundle to all targets, wave by wave; those of one wave side by side.

    A device that fails has gone back, or still has what it had.
    """
    waves = waves or Waves()

    def work(target: Target, tell: OnEvent) -> Pushed:
        with Bundle.open(bundle.path) as own:  # each reads at its own pace
            if own.identity != bundle.identity:
                raise BundleError(f"{bundle.path} was replaced after it was verified")
            return push(own, target, options, tell, now)

    outcomes: list[Outcome[Pushed]] = []
    for wave in waves.of(targets):
        outcomes += side_by_side(wave, work, on_event)
        allowed = 0 if len(outcomes) <= waves.canary else math.floor(waves.max_failures * len(outcomes) + 1e-9)
        if sum(outcome.error is not None for outcome in outcomes) > allowed:
            break
    return Rollout(tuple(outcomes), tuple(targets[len(outcomes) :]))
