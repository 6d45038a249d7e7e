"""What ``edgeprune doctor --target`` looks at on a device; it waits for no lock and changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.cli.checks import Check
from edgeprune.errors import EdgepruneError, NoRuntimeError

if TYPE_CHECKING:
    from edgeprune.bench import DeviceInfo
    from edgeprune.devices import Target


def target_checks(target: Target) -> Iterator[Check]:
    """Of one device: what cannot be reached has no further lines."""
    from edgeprune.bench import probe

    try:
        info = probe(target.name)
    except EdgepruneError as error:
        name = "python" if isinstance(error, NoRuntimeError) else "connection"
        yield Check(name, "broken", error.message, error.remedy)
        return
    yield Check("connection", "ok", f"{info.address}: {info.board or info.cpu}, {info.arch}, {info.cores} cores, {info.os}")
    yield _python(info)
    yield from _engines(info)
    yield from _state(info)
    if info.meters:
        yield Check("energy meters", "ok", ", ".join(info.meters))
    else:
        yield Check(
            "energy meters", "missing", "none: energy is modelled", "docs/devices.md lists the meters that are found by themselves."
        )
    if info.profile or target.profile:
        yield Check("profile", "ok", str(target.profile or info.profile))
    else:
        name = "NAME" if target.name == target.address else target.name
        remedy = f"edgeprune profiles list, then edgeprune targets add {name} {target.address} --profile PROFILE --replace"
        yield Check("profile", "warning", "none matches: the facts of generic-linux are used", remedy)
    if target.address.startswith("ssh:"):
        yield _setup(target)


def _python(info: DeviceInfo) -> Check:
    if not info.python:
        return Check("python", "missing", "none; the engine native needs none", "Phones are measured by benchmark_model: docs/devices.md.")
    return Check("python", "ok", f"{info.python} ({info.python_path})")


def _engines(info: DeviceInfo) -> Iterator[Check]:
    for engine, (name, version) in info.runtimes.items():
        yield Check(f"engine {engine}", "ok", f"{name} {version}")
    for engine, reason in info.broken.items():
        yield Check(f"engine {engine}", "warning", f"installed, and cannot be used: {reason}", _install(info, engine))
    if not info.runtimes:
        yield Check("engines", "broken", "no runtime: nothing can be measured", _install(info, "tflite"))


def _install(info: DeviceInfo, engine: str) -> str:
    if info.address == "local:":
        return "pip install ai-edge-litert" if engine == "tflite" else f"Reinstall the runtime of {engine} with pip."
    return f"edgeprune setup {shlex.quote(info.address)} --engine {engine}"


def _state(info: DeviceInfo) -> Iterator[Check]:
    """What disturbs measurements: the governor, heat, load."""
    state = info.conditions
    governor, limits = state.get("governor"), state.get("limits_c") or {}
    if not governor:
        yield Check("clocks", "missing", "no governor is reported: clocks cannot be fixed", "Nothing to do: rounds are measured in turns.")
    elif governor == "performance":
        yield Check("clocks", "ok", "governor performance")
    else:
        yield Check(
            "clocks", "warning", f"governor {governor}: clocks change while measuring", "edgeprune bench --tune fixes them meanwhile."
        )
    if throttled := state.get("throttled"):
        yield Check("heat", "warning", f"throttled now: {', '.join(throttled)}", "Let it cool, add a fan, or a stronger power supply.")
    elif occurred := state.get("occurred"):
        yield Check("heat", "warning", f"was throttled since it started: {', '.join(occurred)}", "Check its power supply and its cooling.")
    else:
        zones = [f"{zone} {value:.0f} °C" for zone, value in (state.get("temperatures_c") or {}).items()]
        limit = f", at most {min(limits.values()):.0f} °C" if limits else ""
        yield Check("heat", "ok", (", ".join(zones) + limit) if zones else "no temperature is reported")
    load = state.get("loadavg") or 0.0
    if load > 0.5 * info.cores:
        yield Check("load", "warning", f"{load:.1f} programs want {info.cores} cores", "End what else runs there before measuring.")
    else:
        yield Check("load", "ok", f"{load:.1f} programs on {info.cores} cores")


def _setup(target: Target) -> Check:
    """What ``edgeprune setup`` would install."""
    from edgeprune.devices.provision import set_up

    again = f"edgeprune setup {target.name}"
    try:
        planned = set_up(target.address, dry_run=True, retries=0)
    except EdgepruneError as error:
        return Check("setup", "warning", error.message, error.remedy)
    if not planned.missing:
        return Check("setup", "ok", f"{again} has nothing to install")
    return Check("setup", "missing", f"{again} would install {len(planned.missing)} wheels with {planned.base}", again)
