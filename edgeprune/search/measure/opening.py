"""Which backend a request is for."""

from __future__ import annotations

from edgeprune.bench import BenchOptions
from edgeprune.budget import Budget
from edgeprune.devices import resolve_targets
from edgeprune.errors import TargetError
from edgeprune.profile import Profile
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.events import EventStream
from edgeprune.search.measure.backend import MeasurementBackend
from edgeprune.search.measure.device import DeviceBackend, check_device_engine
from edgeprune.search.measure.micro import MicroBackend, check_micro
from edgeprune.search.measure.pool import PoolBackend
from edgeprune.search.measure.predicted import PredictedBackend
from edgeprune.search.request import RunRequest


def open_backend(request: RunRequest, run: RunDirectory, events: EventStream) -> MeasurementBackend:
    """The backend of ``request``.  Devices are connected to when the first measurement is needed."""
    options, profile = request.options, request.known_profile
    if request.target is not None:
        kind = DeviceBackend if len(targets := resolve_targets(request.target)) == 1 else PoolBackend
        target = targets[0].name if len(targets) == 1 else request.target
        measuring = BenchOptions(threads=options.threads, seed=options.seed, accelerator=options.accelerator)
        return kind(run, target, options.engine, measuring, events)
    assert profile is not None, "preflight refuses requests with neither"
    if profile.micro:
        return MicroBackend(run, profile)
    return PredictedBackend(profile, options.engine)


def check_backend(target: str | None, profile: Profile | None, engine: str | None, budget: Budget) -> None:
    """Refuse what no backend can do, before anything is opened.  Raises :class:`TargetError`, :class:`InputError`, :class:`BudgetError`,
    :class:`ExportError`."""
    if profile is not None and profile.micro:
        if target is not None:
            raise TargetError(f"{profile.name} is a microcontroller, and {target} is not", remedy="Give the profile without a target.")
        check_micro(profile, engine, budget)
    else:
        check_device_engine(engine)
