"""What ``edgeprune doctor`` looks at on this machine: each check is a value, and none changes anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from edgeprune.engines import EXECUTORCH, ONNX

State = Literal["ok", "warning", "missing", "broken"]
"""``missing``: something that only some jobs need. ``broken``: something that edgeprune needs."""

EXTRAS = {
    ONNX: "ONNX files, read and written",
    EXECUTORCH: "the format executorch",
    "detection": "detectors (edgeprune.tasks.detection)",
    "micro": "microcontrollers' memory (edgeprune micro)",
    "ray": "work on a Ray cluster",
    "postgres": "a shared history in PostgreSQL",
}
"""What each extra is for."""

DRAWING = "vl-convert-python"
"""Needed for the charts of reports alone."""

SPARE_BYTES = 5_000_000_000
LEAST_MEMORY = 2_000_000_000
BUSY = 0.2
"""Share of all cores' time that others may take before they are named."""
OLDEST = time.mktime((2025, 1, 1, 0, 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, how it is, what was found, and what to do where that is not ok."""

    name: str
    state: State
    found: str
    remedy: str | None = None


def host_checks() -> Iterator[Check]:
    """Of this machine, the quick ones first."""
    for look in (_python, _packages, *(_extra(name) for name in EXTRAS), _torch, _memory, _load, _keys, _known_hosts):
        yield guarded(look)
    for look in (_adb, _names, _lock, _disk, _clock, _data):
        yield guarded(look)


def guarded(look: Callable[[], Check]) -> Check:
    """The check, or that it could not be made."""
    try:
        return look()
    except Exception as error:
        name = getattr(look, "__name__", "check").strip("_").replace("_", " ")
        message, remedy = getattr(error, "message", f"{type(error).__name__}: {error}"), getattr(error, "remedy", None)
        return Check(name, "broken", message, remedy)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.python_version_tuple() < ("3", "11"):
        return Check("python", "broken", found, "Install Python 3.11 or newer.")
    return Check("python", "ok", found)


def _requirements(extra: str | None) -> list[Requirement]:
    """What edgeprune, or one of its extras, needs on this machine."""
    listed = [Requirement(text) for text in importlib.metadata.requires("edgeprune") or ()]
    if extra is None:
        return [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [one for one in listed if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})]


def _unmet(requirement: Requirement) -> str | None:
    """What is wrong with an installed package, or that there is none."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is not {requirement.specifier}"
    return None


def _packages() -> Check:
    needed = _requirements(None)
    wrong = {one.name: said for one in needed if (said := _unmet(one))}
    if not wrong:
        shown = [f"{name} {importlib.metadata.version(name)}" for name in ("edgeprune", "torch", "litert-torch", "ai-edge-litert")]
        return Check("packages", "ok", f"all {len(needed)} that are needed; {', '.join(shown)}")
    wanted = " ".join(f'"{one.name}{one.specifier}"' for one in needed if one.name in wrong)
    state: State = "warning" if set(wrong) == {DRAWING} else "broken"
    return Check("packages", state, "; ".join(wrong.values()), f"pip install {wanted}")


def _extra(extra: str) -> Callable[[], Check]:
    def look() -> Check:
        if extra not in (importlib.metadata.metadata("edgeprune").get_all("Provides-Extra") or ()):
            return Check(extra, "missing", f"an older installation of edgeprune, without {EXTRAS[extra]}", "Install edgeprune again.")
        needed = _requirements(extra)
        if not needed:
            return Check(extra, "missing", f"there is no package for this machine; {EXTRAS[extra]} needs it", "Use another machine for it.")
        wrong = [said for one in needed if (said := _unmet(one))]
        if wrong:
            return Check(extra, "missing", f"{'; '.join(wrong)}: {EXTRAS[extra]} needs it", f'pip install "edgeprune[{extra}]"')
        return Check(extra, "ok", ", ".join(f"{one.name} {importlib.metadata.version(one.name)}" for one in needed))

    look.__name__ = extra
    return look


def _torch() -> Check:
    import torch

    from edgeprune import host
    from edgeprune.placement import resolve

    devices = [f"cuda:{number} {torch.cuda.get_device_name(number)}" for number in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    here = f"trains on {resolve('auto').text}, with {host.threads()} threads on the CPU"
    return Check("torch", "ok", f"{torch.__version__}; {here}; accelerators: {', '.join(devices) or 'none'}")


def _memory() -> Check:
    from edgeprune.budget import format_quantity
    from edgeprune.host import free_memory

    found = f"{format_quantity('memory', free := free_memory())} free"
    if free < LEAST_MEMORY:
        return Check("memory", "warning", found, "End other programs: exporting and training need about 2 GB.")
    return Check("memory", "ok", found)


def _load() -> Check:
    from edgeprune.host import Watch

    watch = Watch()
    time.sleep(0.5)
    share, who = watch.others()
    if share <= BUSY:
        return Check("load", "ok", f"others take {100 * share:.0f} % of the processors' time")
    named = "; ".join(map(str, who[:3]))
    remedy = "End them before measuring on local:, or measure on a device."
    return Check("load", "warning", f"others take {100 * share:.0f} % of the processors' time ({named})", remedy)


def _keys() -> Check:
    import paramiko

    found = sorted(path.name for path in Path("~/.ssh").expanduser().glob("id_*") if path.suffix != ".pub")
    agent = len(paramiko.Agent().get_keys())
    if not found and not agent:
        remedy = "For devices over SSH: ssh-keygen -t ed25519, then ssh-copy-id user@host."
        return Check("ssh keys", "missing", "no key in ~/.ssh, and none in an agent", remedy)
    return Check("ssh keys", "ok", f"{', '.join(found) or 'none in files'}; {agent} in the agent")


def _known_hosts() -> Check:
    import paramiko

    from edgeprune.devices.knownhosts import load_known_hosts

    files = ["/etc/ssh/ssh_known_hosts", str(Path("~/.ssh/known_hosts").expanduser())]
    load_known_hosts(files, keys := paramiko.HostKeys())
    if not len(keys):
        return Check("known hosts", "missing", "no host is known yet", "ssh user@host once: it asks whether the key is the host's.")
    return Check("known hosts", "ok", f"{len(keys)} known")


def _adb() -> Check:
    sdk = os.environ.get("ANDROID_HOME")
    program = shutil.which("adb") or (shutil.which("adb", path=os.path.join(sdk, "platform-tools")) if sdk else None)
    if program is None:
        return Check("adb", "missing", "not installed; phones need it", "Install Android's platform-tools: apt-get install adb.")
    return Check("adb", "ok", program)


def _names() -> Check:
    from edgeprune.devices.targets import damaged_entries, list_groups, list_targets, targets_file

    count, groups = len(list_targets()), len(list_groups())
    if wrong := damaged_entries():
        return Check("targets", "warning", "; ".join(wrong), f"Repair it in {targets_file()}, or add it again with --replace.")
    return Check("targets", "ok", f"{count} named, {groups} groups, in {targets_file()}")


def _lock() -> Check:
    """The folder of the lock that all who measure on local: take (targets/runner/hold.py)."""
    shared = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    lock = shared / "edgeprune.lock"
    if not os.access(shared, os.W_OK | os.X_OK) or (lock.exists() and not os.access(lock, os.R_OK)):
        return Check("lock", "broken", f"{lock} cannot be used", f"Make {shared} writable: local: cannot be measured without it.")
    return Check("lock", "ok", str(lock))


def _disk() -> Check:
    import platformdirs

    from edgeprune.budget import format_quantity

    places = {
        "this folder": Path.cwd(),
        "caches": Path(platformdirs.user_cache_dir("edgeprune")),
        "temporary files": Path(tempfile.gettempdir()),
    }
    free = {name: shutil.disk_usage(_existing(place)).free for name, place in places.items()}
    found = ", ".join(f"{format_quantity('size', value)} free for {name}" for name, value in free.items())
    shut = [str(place) for place in places.values() if not os.access(_existing(place), os.W_OK)]
    if shut:
        return Check("disk", "broken", f"{', '.join(shut)} cannot be written", "Allow access to it, or work in another folder.")
    if min(free.values()) < SPARE_BYTES:
        return Check("disk", "warning", found, "Free some space: a run keeps all samples and files, and wheels are cached.")
    return Check("disk", "ok", found)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _clock() -> Check:
    now, shown = time.time(), time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if now < OLDEST:
        return Check("clock", "warning", f"{shown} is long past", "Set the clock: releases have dates, and certificates are checked by it.")
    return Check("clock", "ok", shown)


def _data() -> Check:
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        return Check("EDGEPRUNE_DATA", "missing", "not set; the ready recipes on real data need it", "export EDGEPRUNE_DATA=FOLDER")
    if not Path(folder).is_dir():
        return Check("EDGEPRUNE_DATA", "warning", f"{folder} is not a folder", "Name the folder of the data sets.")
    inside = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
    return Check("EDGEPRUNE_DATA", "ok", f"{folder}: {len(inside)} folders")
