"""Which variant of a release is a device's."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from edgeprune.bench.info import DeviceInfo
from edgeprune.budget import format_quantity
from edgeprune.errors import IncompatibleError
from edgeprune.release.bundle.manifest import Compatibility, Manifest

_SAME_ARCHITECTURE = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}


def obstacles(wanted: Compatibility, device: DeviceInfo) -> list[str]:
    """Why a device must not get what is only for ``wanted``; empty when it may.  Of an engine that it does not have, nothing is said."""
    found = []
    if wanted.architectures and _plain(device.arch) not in map(_plain, wanted.architectures):
        found.append(f"it is {device.arch}, not {' or '.join(wanted.architectures)}")
    if device.memory_bytes < wanted.min_memory_bytes:
        has, needs = (format_quantity("memory", value) for value in (device.memory_bytes, wanted.min_memory_bytes))
        found.append(f"it has {has} of memory, not {needs}")
    if wanted.boards and not device.board.startswith(wanted.boards):
        found.append(f"it is a {device.board or 'board without a name'}, not a {' or '.join(wanted.boards)}")
    if wanted.profiles and device.profile not in wanted.profiles:
        found.append(f"its profile is {device.profile or 'unknown'}, not {' or '.join(wanted.profiles)}")
    engines = {item.engine for item in wanted.runtimes}
    if engines & set(device.runtimes) and not _has_runtime(wanted, device):
        has = ", ".join(f"{package} {version}" for engine, (package, version) in device.runtimes.items() if engine in engines)
        found.append(f"it has {has}, not {' or '.join(f'{item.package} {item.versions}'.strip() for item in wanted.runtimes)}")
    return found


def choose(manifest: Manifest, device: DeviceInfo, wanted: str | None = None) -> str:
    """The name of the variant for a device: ``wanted``, or the one that fits; of several, the one that asks for most.

    Raises :class:`IncompatibleError` saying why none fits, or which do equally; :class:`BundleError` when there is no variant ``wanted``.
    """
    if wanted is not None:
        manifest.files_of(wanted)
    names = [wanted] if wanted is not None else list(manifest.variants)
    why = {name: obstacles(manifest.variants[name].compatibility, device) for name in names}
    fitting = sorted((name for name in names if not why[name]), key=lambda name: _demand(manifest, name), reverse=True)
    what = f"{manifest.product} {manifest.version}"
    if not fitting:
        listed = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in why.items())
        raise IncompatibleError(f"{what} is not for {device.address} ({listed})")
    best = [name for name in fitting if _demand(manifest, name) == _demand(manifest, fitting[0])]
    if len(best) > 1:
        raise IncompatibleError(f"{device.address} could take {' or '.join(best)} of {what}", remedy="Say which: --variant NAME")
    return best[0]


def _demand(manifest: Manifest, name: str) -> tuple[bool, bool, bool, int, bool]:
    wanted = manifest.variants[name].compatibility
    return bool(wanted.boards), bool(wanted.profiles), bool(wanted.architectures), wanted.min_memory_bytes, bool(wanted.runtimes)


def _plain(architecture: str) -> str:
    return _SAME_ARCHITECTURE.get(architecture, architecture)


def _has_runtime(wanted: Compatibility, device: DeviceInfo) -> bool:
    for item in wanted.runtimes:
        package, version = device.runtimes.get(item.engine, ("", "0"))
        if package == item.package and SpecifierSet(item.versions).contains(version, prereleases=True):
            return True
    return False
