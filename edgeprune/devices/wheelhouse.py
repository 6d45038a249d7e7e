"""Wheels for a device, collected on this machine: the device needs neither a network nor pip."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Sequence
from email.parser import HeaderParser
from pathlib import Path

import platformdirs
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

from edgeprune.devices.pythons import Python
from edgeprune.devices.wheels import glibc, platforms
from edgeprune.errors import NoRuntimeError, SetupError
from edgeprune.files import move_atomically

_MAX_ROUNDS = 20
_PIP_LIMIT_S = 1800
_NVIDIA = ("nvidia-", "cuda-")  # without them torch's builds for these GPUs do not even import


def wheels_folder(python: Python) -> Path:
    """Where wheels for such a device are kept on this machine."""
    version = "".join(map(str, python.version[:2]))
    libc = ".".join(map(str, glibc(python)))
    return Path(platformdirs.user_cache_dir("edgeprune")) / "wheels" / f"cp{version}-{python.arch}-glibc{libc}"


def collect(
    requirements: Sequence[str],
    python: Python,
    *,
    offline: bool = False,
    provided: Collection[str] = (),
    index: str | None = None,
    nvidia: bool = True,
    on_round: Callable[[str], None] | None = None,
) -> list[Path]:
    """Wheels of ``requirements`` and of all that they need on the device, downloaded unless they are kept here.

    Each package's own list of requirements is read with the *device's* markers: pip by itself would take this machine's.  With ``offline``
    only kept wheels are used.  ``provided``: names of packages that the device has; ``index``: a package index besides pip's own;
    ``nvidia``: whether the device has a GPU of NVIDIA's.  ``on_round`` gets what is fetched.  Raises :class:`NoRuntimeError` when a
    package has no wheel that fits, or needs such a GPU in vain, :class:`SetupError` when the index cannot be reached or pip fails.
    """
    folder = wheels_folder(python)
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(python)
    wanted: dict[NormalizedName, SpecifierSet] = {}
    extras: dict[NormalizedName, set[str]] = {}
    chosen: dict[NormalizedName, Path] = {}
    layer = [Requirement(text) for text in requirements]
    for _ in range(_MAX_ROUNDS):
        grown = set()  # those of which more extras are wanted than before
        for requirement in layer:
            name = canonicalize_name(requirement.name)
            if name in provided:
                continue
            wanted[name] = wanted.get(name, SpecifierSet()) & requirement.specifier
            if not requirement.extras <= extras.setdefault(name, set()):
                extras[name] |= requirement.extras
                grown.add(name)
        missing = [name for name, specifier in wanted.items() if not _satisfies(chosen.get(name), specifier)]
        if not missing and not grown:
            return [chosen[name] for name in wanted]
        if missing:
            if on_round:
                on_round(", ".join(missing))
            fetched = _fetch([f"{name}{wanted[name]}" for name in missing], python, folder, offline, index)
            chosen |= {parse_wheel_filename(path.name)[0]: path for path in fetched}
        layer = [needed for name in {*missing, *grown} for needed in _needs(chosen[name], environment, extras[name], nvidia)]
    raise SetupError(f"the packages that {', '.join(requirements)} need conflict with each other")


def _environment(python: Python) -> dict[str, str]:
    """What markers are evaluated against (PEP 508)."""
    full = ".".join(map(str, python.version))
    return {
        "python_version": ".".join(map(str, python.version[:2])),
        "python_full_version": full,
        "implementation_name": "cpython",
        "implementation_version": full,
        "platform_python_implementation": "CPython",
        "platform_machine": python.arch,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


def _needs(wheel: Path, environment: dict[str, str], extras: Collection[str], nvidia: bool) -> list[Requirement]:
    """What a wheel needs there, for these of its extras too."""
    places = [environment | {"extra": extra} for extra in ("", *extras)]
    found = [item for item in _dependencies(wheel) if item.marker is None or any(map(item.marker.evaluate, places))]
    if not nvidia and (gpu := next((item.name for item in found if item.name.startswith(_NVIDIA)), None)):
        raise NoRuntimeError(
            f"{wheel.name} is built for NVIDIA's GPUs, and the device has none: it would need {gpu} and more",
            remedy="Name an index of CPU wheels (torch's installation page names its own): edgeprune setup --index URL.",
        )
    return found


def _satisfies(wheel: Path | None, specifier: SpecifierSet) -> bool:
    return wheel is not None and specifier.contains(parse_wheel_filename(wheel.name)[1], prereleases=True)


def _dependencies(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
    return [Requirement(text) for text in headers.get_all("Requires-Dist", [])]


def _fetch(requirements: list[str], python: Python, folder: Path, offline: bool, index: str | None) -> list[Path]:
    """Have pip choose and fetch one wheel for each requirement; they are kept in ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as new:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", new, "--implementation", "cp", "--python-version", ".".join(map(str, python.version[:2]))]
        command += [item for tag in platforms(python) for item in ("--platform", tag)]
        command += ["--find-links", str(folder), *(["--no-index", "--isolated"] if offline else [])]
        command += ["--extra-index-url", index] if index and not offline else []
        try:
            done = subprocess.run([*command, *requirements], capture_output=True, text=True, timeout=_PIP_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise SetupError(f"downloading {', '.join(requirements)} took longer than {_PIP_LIMIT_S} s") from error
        if done.returncode != 0:
            raise _failure(done.stderr, requirements, python, offline)
        found = []
        for path in sorted(Path(new).iterdir()):
            move_atomically(path, folder / path.name)
            found.append(folder / path.name)
        return found


def _failure(log: str, requirements: list[str], python: Python, offline: bool) -> NoRuntimeError | SetupError:
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")] or log.strip().splitlines()[-1:]
    last = next((line for line in reversed(errors) if not line.startswith("ResolutionImpossible")), "pip gave no message")
    if "No module named pip" in log:
        return SetupError(f"{sys.executable} has no pip, which fetches the device's wheels", remedy="python -m ensurepip")
    if offline:
        return SetupError(f"{last}: not among the wheels kept here", remedy="Run it once without --offline: downloaded wheels are kept.")
    if "Retrying (Retry(" in log or "NewConnectionError" in log:
        return SetupError(f"the package index cannot be reached for {', '.join(requirements)}", remedy="Check this machine's network.")
    if "No matching distribution" in last:
        return NoRuntimeError(f"no wheel fits {python}: {last}", remedy="Use another Python there (--python), or a 64-bit system.")
    return SetupError(f"pip cannot fetch {', '.join(requirements)}: {last}")


def unpacked_bytes(wheel: Path) -> int:
    """What a wheel takes when it is installed."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(member.file_size for member in archive.infolist())
