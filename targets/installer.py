"""Makes a private Python environment from wheels, on the device, by its own Python: neither pip nor the venv module is needed there.

Run as ``python -c SOURCE COMMAND ARGUMENTS MARK`` (JSON); prints one line, MARK and a JSON object.
An environment is built in ``PLACE.new``, one wheel after another, and gets its name when it is complete, so that an interrupted
installation continues where it was, and the old one stays until then.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zipfile
from typing import Any, Dict

MANIFEST = "edgeprune.json"


def _read(folder: str) -> Any:
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _write(folder: str, manifest: Dict[str, Any]) -> None:
    path = os.path.join(folder, MANIFEST)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def _site(folder: str) -> str:
    return os.path.join(folder, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")


def state(place: str) -> Dict[str, Any]:
    """What is there: ``manifest`` (None: not made by this program), ``unfinished``, free bytes of its disk."""
    above = os.path.dirname(place)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    disk = os.statvfs(above)
    unfinished = _read(place + ".new") or {}
    return {
        "exists": os.path.lexists(place),
        "manifest": _read(place),
        "unfinished": unfinished,
        "free_bytes": disk.f_bavail * disk.f_frsize,
    }


def begin(place: str, manifest: Dict[str, Any]) -> Dict[str, Any]:
    """Start an environment, or continue with the unfinished one that has the same ``manifest`` (its wheels apart); the wheels it has."""
    new = place + ".new"
    found = _read(new)
    if found and dict(found, wheels={}) == dict(manifest, wheels={}):
        return {"wheels": found["wheels"]}
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(_site(new), mode=0o700)
    os.mkdir(os.path.join(new, "bin"))
    base = getattr(sys, "_base_executable", None) or sys.executable
    names = ("python", "python3")
    for name in names:
        os.symlink(base, os.path.join(new, "bin", name))
    # what PEP 405 asks for, and all that Python's start needs
    own = "true" if manifest.get("system") else "false"
    with open(os.path.join(new, "pyvenv.cfg"), "w", encoding="utf-8") as file:
        file.write("home = %s\ninclude-system-site-packages = %s\n" % (os.path.dirname(base), own))
    _write(new, dict(manifest, wheels={}))
    return {"wheels": {}}


def _target(name: str) -> str:
    """Where in site-packages a wheel's member belongs; empty: nowhere (scripts, headers)."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise ValueError("the wheel holds the unsafe path %r" % name)
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else ""
    return name


def add(place: str, wheel: str, digest: str) -> Dict[str, Any]:
    """Unpack a wheel into the unfinished environment, note it, and remove the file."""
    new = place + ".new"
    manifest = _read(new)
    site = _site(new)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            target = _target(member.filename)
            if not target or member.is_dir():
                continue
            path = os.path.join(site, target)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if member.external_attr >> 16 & 0o111:
                os.chmod(path, 0o755)
    manifest["wheels"][os.path.basename(wheel)] = digest
    _write(new, manifest)
    os.remove(wheel)
    return {}


def finish(place: str) -> Dict[str, Any]:
    """Give the finished environment its name; its Python."""
    old = place + ".old"
    shutil.rmtree(old, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()
    if os.path.lexists(place):
        os.rename(place, old)
    os.rename(place + ".new", place)
    shutil.rmtree(old, ignore_errors=True)
    return {"python": os.path.join(place, "bin", "python")}


def main(command: str, arguments: str, mark: str = "") -> int:
    """Run one command; its answer, or ``{"error": ...}`` with the system's number for it, is printed behind ``mark``."""
    try:
        answer = {"state": state, "begin": begin, "add": add, "finish": finish}[command](**json.loads(arguments))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        answer = {"error": "%s: %s" % (error.filename or arguments, error.strerror), "full": full}
    except (ValueError, zipfile.BadZipFile) as error:
        answer = {"error": str(error), "full": False}
    print(mark + json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
