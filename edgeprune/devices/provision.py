"""Giving a device the runtimes that models need, and clearing it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import Requirement

from edgeprune.budget import format_quantity
from edgeprune.devices.address import parse_address
from edgeprune.devices.connect import connect, with_retries
from edgeprune.devices.events import OnEvent
from edgeprune.devices.framing import new_mark
from edgeprune.devices.program import DeviceProgram
from edgeprune.devices.pythons import PHONE_REMEDY, VENV, Found, Python, discover
from edgeprune.devices.runner import Broken, Runner, RuntimeAnswer, push_runner, runtimes_of
from edgeprune.devices.session import Session
from edgeprune.devices.wheelhouse import collect, unpacked_bytes
from edgeprune.devices.wheels import Wheel, find_wheel
from edgeprune.engines import TFLITE
from edgeprune.errors import DeviceError, DeviceFullError, InputError, NoRuntimeError, SetupError, TargetError
from edgeprune.resources import resource

T = TypeVar("T")
_UNPACK_LIMIT_S = 1800.0
_PROBE_LIMIT_S = 300.0
_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)), "python")
# NVIDIA's drivers: on a card, and on a Jetson
_NVIDIA = 'for file in /dev/nvidia[0-9]* /dev/nvhost-gpu /dev/nvgpu /proc/driver/nvidia; do [ -e "$file" ] && exit 0; done; exit 1'
_SPARE_BYTES = 16 << 20  # for what Python compiles at the first import


@dataclass(frozen=True)
class Setup:
    """What :func:`set_up` did, or with ``dry_run`` would do.

    ``base``: the device's Python that the environment is of; ``python``: the environment's own; ``wheels``: all that are in it;
    ``needed_bytes``, ``sent_bytes``: disk space for, and size of, those that were missing; ``runtimes``: package and version by engine, as
    really imported there; empty in a dry run.
    """

    address: str
    base: str
    python: str
    wheels: tuple[str, ...]
    missing: tuple[str, ...]
    needed_bytes: int
    sent_bytes: int
    runtimes: dict[str, tuple[str, str]]


def set_up(
    address: str,
    engines: Sequence[str] = (TFLITE,),
    *,
    runtime: str | None = None,
    python: str | None = None,
    index: str | None = None,
    offline: bool = False,
    dry_run: bool = False,
    lock_timeout_s: float = 600.0,
    retries: int = 2,
    on_event: OnEvent | None = None,
) -> Setup:
    """Give a device the runtimes of ``engines`` in an environment of its own, ``~/.edgeprune/venv``, which is looked into first.

    Wheels are fetched on this machine (``offline``: taken from those kept here) and sent: the device needs no network, no pip and no venv
    module.  Engines set up before stay, for another Python in wheels that fit it.  An interrupted installation continues where it was, and
    the old environment stays until the new one is complete.  ``runtime``: a package, such as ``tflite-runtime``, where an engine has
    several; ``python``: the device's Python, by name or path; ``index``: the address of a package index besides pip's own.  Raises
    :class:`NoRuntimeError` when no wheel fits, :class:`DeviceFullError`, :class:`SetupError`, and what connecting raises.
    """
    named = python or parse_address(address).python

    def once() -> Setup:
        with connect(address) as session:
            if session.address == "local:":
                raise TargetError("local: runs models with edgeprune's own Python", remedy="Install runtimes there with pip.")
            found = discover(session, [named] if named else _PYTHONS)
            job = _Job(session, found, *choose(session.address, found, engines, runtime), on_event or (lambda event: None))
            planned = job.plan(offline, index)
            return planned if dry_run else job.install(planned, lock_timeout_s)

    return with_retries(once, retries)


def choose(address: str, found: Found, engines: Sequence[str], runtime: str | None = None) -> tuple[Python, list[Wheel]]:
    """The first Python that every engine has a wheel for, and those.  Raises :class:`NoRuntimeError` saying what would fit."""
    if found.is_phone:
        raise NoRuntimeError(f"{address} runs Android, where runtimes cannot be installed from wheels", remedy=PHONE_REMEDY)
    failures: dict[str, NoRuntimeError] = {}
    for python in found.pythons:
        try:
            return python, [find_wheel(engine, python, runtime) for engine in engines]
        except NoRuntimeError as error:
            failures[error.message] = error
    raise NoRuntimeError(f"{address}: {'; '.join(failures)}", remedy=next(iter(failures.values())).remedy)


@dataclass(frozen=True)
class Environment:
    """An environment on a device, as its ``edgeprune.json`` says it: the Python it is of, what each engine needs, and the SHA-256 of the
    wheels that are unpacked there."""

    base: str = ""
    version: tuple[int, ...] = ()
    engines: dict[str, list[str]] = field(default_factory=dict)
    system: tuple[str, ...] = ()
    wheels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _State:
    """What is on the device; ``manifest``: None where this program has made nothing."""

    exists: bool
    manifest: Environment | None
    unfinished: Environment
    free_bytes: int


@dataclass(frozen=True)
class _Done:
    """Nothing more is said of what was done."""


class _Job:
    """One installation on a connected device."""

    def __init__(self, session: Session, found: Found, base: Python, chosen: list[Wheel], tell: OnEvent) -> None:
        self._session, self._found, self._base, self._chosen, self._tell = session, found, base, chosen, tell
        self._place = f"{found.home}/{VENV}"
        self._folder = f"{found.home}/{VENV.partition('/')[0]}/wheels"
        self._files: list[Path] = []
        self._manifest = Environment()
        self._installer = DeviceProgram(session, f"{base.path}, installing {self._place},", SetupError, "Begin with edgeprune teardown.")

    def _call(self, kind: type[T], command: str, **arguments: Any) -> T:
        """Run one command of the installer on the device; its answer as ``kind``."""
        source, mark = resource("targets", "installer.py").read_text(encoding="utf-8"), new_mark()
        argv = [self._base.path, "-c", source, command, json.dumps(arguments | {"place": self._place}), mark]
        answer = self._installer.call(argv, mark, _UNPACK_LIMIT_S)
        if "error" in answer:
            error, full = DeviceFullError if answer.get("full") is True else SetupError, answer.get("full") is True
            raise error(f"cannot install on {self._session.address}: {answer['error']}", remedy="Make room there." if full else None)
        return self._installer.decode(answer, kind, command)

    def plan(self, offline: bool, index: str | None) -> Setup:
        """Collect the wheels, and compare with what is there.  Raises when there is no room."""
        state = self._call(_State, "state")
        before = state.manifest
        if state.exists and before is None:
            raise SetupError(
                f"{self._place} on {self._session.address} was not made by edgeprune",
                remedy="Move it away, or install the runtime into it.",
            )
        kept = before.engines if before else {}
        if before and before.base != self._base.base:  # another Python, which may need other wheels
            given = {wheel.engine for wheel in self._chosen}
            self._chosen += [self._again(engine, needed) for engine, needed in kept.items() if engine not in given]
        self._check_system()
        engines = kept | {wheel.engine: list(wheel.requirements) for wheel in self._chosen}
        needed = [requirement for requirements in engines.values() for requirement in requirements]
        system = sorted({package for wheel in self._chosen for package in wheel.system})
        self._files = collect(
            needed, self._base, offline=offline, provided=system, index=index, nvidia=self._has_nvidia(), on_round=self._fetching
        )
        wheels = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in self._files}
        self._manifest = Environment(self._base.base, tuple(self._base.version), engines, tuple(system), wheels)
        there = wheels if before == self._manifest else state.unfinished.wheels
        missing = [file for file in self._files if there.get(file.name) != wheels[file.name]]
        return self._planned(missing, state.free_bytes)

    def _again(self, engine: str, requirements: Sequence[str]) -> Wheel:
        """An engine that was set up before, for the present Python; of the same runtime, where that fits."""
        runtime = Requirement(requirements[0]).name
        with suppress(NoRuntimeError, InputError):
            return find_wheel(engine, self._base, runtime)
        return find_wheel(engine, self._base)

    def _has_nvidia(self) -> bool:
        return self._session.run(["sh", "-c", _NVIDIA], timeout_s=_PROBE_LIMIT_S).code == 0

    def _fetching(self, names: str) -> None:
        self._tell({"event": "fetching", "name": names})

    def _planned(self, missing: list[Path], free_bytes: int) -> Setup:
        names, sizes = tuple(file.name for file in self._files), [file.stat().st_size for file in missing]
        needed = sum(map(unpacked_bytes, missing)) + max(sizes) + _SPARE_BYTES if missing else 0
        if needed > free_bytes:
            raise DeviceFullError(
                f"{self._session.address} has {format_quantity('size', free_bytes)} free in {self._found.home}, and "
                f"{', '.join(wheel.runtime for wheel in self._chosen)} takes {format_quantity('size', needed)}",
                remedy="Make room there, or begin with edgeprune teardown.",
            )
        python = f"{self._place}/bin/python"
        sent = tuple(file.name for file in missing)
        return Setup(self._session.address, self._base.path, python, names, sent, needed, sum(sizes), {})

    def _check_system(self) -> None:
        for package in {package for wheel in self._chosen for package in wheel.system}:
            if self._session.run([self._base.path, "-c", f"import {package}"], timeout_s=_PROBE_LIMIT_S).code != 0:
                raise NoRuntimeError(
                    f"{package} has no wheel for {self._base}, and {self._session.address} does not have it",
                    remedy=f"On the device: sudo apt-get install python3-{package}",
                )

    def install(self, planned: Setup, lock_timeout_s: float) -> Setup:
        """Bring what is missing, and import it, while nobody else uses the device."""
        program = push_runner(self._session, self._found.cache)
        with Runner(self._session, self._base, program, {}) as holder:
            holder.hold(self._found.cache, True, lock_timeout_s, self._tell)
            if planned.missing:
                try:
                    self._bring(set(planned.missing))
                except DeviceFullError:
                    with suppress(DeviceError):
                        self._session.run(["rm", "-rf", f"{self._place}.new", self._folder])
                    raise
            self._tell({"event": "verifying", "name": planned.python})
            return replace(planned, runtimes=self._verify(program, planned.python))

    def _bring(self, missing: set[str]) -> None:
        self._session.mkdir(self._folder)
        self._call(_Done, "begin", manifest=asdict(self._manifest))
        for file in self._files:
            if file.name in missing:
                remote = f"{self._folder}/{file.name}"
                self._session.put(file, remote, self._progress(file.name))
                self._tell({"event": "installing", "name": file.name})
                self._call(_Done, "add", wheel=remote, digest=self._manifest.wheels[file.name])
        self._call(_Done, "finish")
        self._session.run(["rm", "-rf", self._folder])

    def _progress(self, name: str) -> Any:
        return lambda sent, total: self._tell({"event": "upload", "name": name, "sent": sent, "total": total})

    def _verify(self, program: str, python: str) -> dict[str, tuple[str, str]]:
        engines = list(self._manifest.engines)
        runner = Runner(self._session, replace(self._base, path=python), program, {})
        runner.probe = runner.request("probe", _PROBE_LIMIT_S, verify=engines)
        found = runtimes_of(runner)
        for engine in engines:
            item = found.get(engine, RuntimeAnswer(error=Broken("the runner does not know this engine")))
            if item.error:
                raise NoRuntimeError(f"{engine} was installed on {self._session.address} and cannot be used: {item.error.message}")
        return {engine: (found[engine].runtime, found[engine].version) for engine in engines}
