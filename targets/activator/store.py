"""What is kept of a product's releases, and the few ways in which it changes."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import Any, Dict, List, Optional

from .files import Refused, is_whole, link, read_json, sync, write, write_json

ABOUT, SUMS, SIGNERS = "release.json", "SHA256SUMS", "allowed_signers"
NEW_SIGNERS = SIGNERS + ".new"
"""What :data:`SIGNERS` becomes when the release that came with it is committed."""
_STATE = "state.json"
_EMPTY = {"schema": 1, "token": "", "committed": None, "previous": None, "pending": None, "highest": None, "latest_s": 0}


def _is_version(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(_NAME.fullmatch(value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_highest(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or set(value) != {"version", "sequence", "manifest"}:
        return False
    return isinstance(value["version"], str) and isinstance(value["manifest"], str) and _is_number(value["sequence"])


_KINDS = {
    "schema": _is_number,
    "token": lambda value: isinstance(value, str),
    "highest": _is_highest,
    "latest_s": _is_number,
}


def highest_of(version: str, about: Dict[str, Any]) -> Dict[str, Any]:
    """What is kept of the newest release: enough to refuse older ones."""
    return {"version": version, "sequence": about["sequence"], "manifest": about["manifest"]}


_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._+-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STALE_PART_S = 3600.0


def check_names(about: Dict[str, Any]) -> None:
    """Nothing in a release may lead out of its folder; :class:`Refused` otherwise."""
    if not _NAME.fullmatch(about["version"]):
        raise Refused("name", "%r is not a version" % about["version"])
    for name, entry in about["files"].items():
        if not all(_NAME.fullmatch(part) for part in name.split("/")) or name in (ABOUT, SUMS):
            raise Refused("name", "a file of a release cannot be named %r" % name)
        if not _DIGEST.fullmatch(entry["sha256"]):
            raise Refused("name", "%r is no SHA-256" % entry["sha256"])


class Store:
    """The releases of one product in the folder ``root``.

    ``state``: ``committed``, ``previous`` and ``pending`` are versions; ``highest``: the newest release that was ever committed;
    ``latest_s``: the latest time at which one was; ``token``: of the push that may change something.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        found = read_json(self.path(_STATE), "state")
        if found is None:
            self.state: Dict[str, Any] = self._reconstructed()
        else:
            self._check(found)
            self.state = dict(found)

    def _check(self, state: Any) -> None:
        """:class:`Refused` when a state is not one that this program wrote: what the device has had must not be forgotten over it."""
        schema = state.get("schema") if isinstance(state, dict) else None
        if isinstance(schema, int) and schema > _EMPTY["schema"]:
            raise Refused("newer", "%s is of schema %d, and this program knows %d" % (self.path(_STATE), schema, _EMPTY["schema"]))
        if not isinstance(state, dict) or set(state) != set(_EMPTY) or schema != _EMPTY["schema"] or isinstance(schema, bool):
            raise Refused("state", "%s is damaged" % self.path(_STATE))
        for name, value in state.items():
            if not _KINDS.get(name, _is_version)(value):
                raise Refused("state", "%s is damaged: %s is %.40r" % (self.path(_STATE), name, value))

    def _reconstructed(self) -> Dict[str, Any]:
        """The state of a device that has none: of its releases, where there are some, the newest counts as the highest it has had."""
        releases = self.releases()
        if not releases:
            return dict(_EMPTY)
        version, about = list(releases.items())[-1]
        current = self.current()
        return dict(_EMPTY, committed=current if current in releases else None, highest=highest_of(version, about))

    def path(self, *parts: str) -> str:
        """A path below the root."""
        return os.path.join(self.root, *parts)

    def place(self, version: str) -> str:
        """The folder of a release."""
        return self.path("releases", version)

    def save(self, **changes: Any) -> None:
        """Change the state."""
        self.state.update(changes)
        write_json(self.path(_STATE), self.state)

    def releases(self) -> Dict[str, Dict[str, Any]]:
        """What is said of every release that is laid out, oldest first."""
        found = {name: self.about(self.place(name)) for name in self.versions()}
        return dict(sorted(((name, about) for name, about in found.items() if about), key=lambda item: item[1]["sequence"]))

    def versions(self) -> List[str]:
        """The versions that are laid out, damaged ones too."""
        folder = self.path("releases")
        return sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name)) if os.path.isdir(folder) else []

    def about(self, folder: str) -> Optional[Dict[str, Any]]:
        """What is said of the release in a folder; None when nothing is, or that is damaged."""
        try:
            about = read_json(os.path.join(folder, ABOUT))
            whole = isinstance(about["sequence"], int) and all(isinstance(about[name], str) for name in ("version", "variant", "manifest"))
            entries = about["files"].values()
            return about if whole and all(isinstance(it["bytes"], int) and isinstance(it["sha256"], str) for it in entries) else None
        except (Refused, LookupError, TypeError, AttributeError):
            return None

    def current(self) -> Optional[str]:
        """The version that ``current`` leads to."""
        try:
            return os.path.basename(os.readlink(self.path("current")))
        except OSError:
            return None

    def holds(self, folder: str, about: Dict[str, Any]) -> bool:
        """Whether a folder is of this very release, in this variant; its files may be damaged."""
        there = self.about(folder)
        if there is not None:
            return (there["manifest"], there["variant"]) == (about["manifest"], about["variant"])
        return is_whole(os.path.join(folder, "manifest.json"), about["files"].get("manifest.json", {"bytes": -1}))

    def damaged(self, folder: str) -> List[str]:
        """The files of the release in a folder that are not what they must be."""
        about = self.about(folder)
        if about is None:
            return [ABOUT]
        return [name for name, entry in about["files"].items() if not is_whole(os.path.join(folder, name), entry)]

    def require_whole(self, folder: str) -> None:
        """:class:`Refused` when a file of the release in a folder is damaged."""
        damaged = self.damaged(folder)
        if damaged:
            raise Refused("damaged", "%s is damaged: %s" % (folder, ", ".join(damaged)))

    def point(self, version: Optional[str]) -> None:
        """Let ``current`` lead to a release; with None, to nothing."""
        current = self.path("current")
        if self.current() == version:
            return
        if version is None:
            os.unlink(current)
        else:
            temporary = current + ".new"
            if os.path.lexists(temporary):
                os.unlink(temporary)
            os.symlink(os.path.join("releases", version), temporary)
            os.replace(temporary, current)
        sync(self.root)

    def settle(self) -> Optional[str]:
        """Go back to what is committed, its signers too; the version that was given up, if any."""
        if os.path.exists(self.path(NEW_SIGNERS)):
            os.unlink(self.path(NEW_SIGNERS))
        tried: Optional[str] = self.state["pending"]
        if tried is not None or self.state["committed"] is not None:
            self.point(self.state["committed"])
        if tried is not None:
            self.save(pending=None)
        return tried

    def fill(self, folder: str, about: Dict[str, Any]) -> None:
        """Bring a folder to what a release must be: whole files stay, damaged and missing ones are linked again."""
        folders = {folder}
        for name, entry in sorted(about["files"].items()):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._mend(path, entry)
            while name:
                name = os.path.dirname(name)
                folders.add(os.path.join(folder, name) if name else folder)
        sums = "".join("%s  %s\n" % (entry["sha256"], name) for name, entry in sorted(about["files"].items()))
        write(os.path.join(folder, SUMS), sums.encode())
        write_json(os.path.join(folder, ABOUT), about)
        for each in sorted(folders, reverse=True):
            sync(each)

    def _mend(self, path: str, entry: Dict[str, Any]) -> None:
        source = self.path("objects", entry["sha256"])
        if not (os.path.exists(path) and os.path.samefile(path, source)) and not is_whole(path, entry):
            link(source, path)

    def mend(self, sent: Dict[str, Any]) -> None:
        """Let the files of all releases be whole whose contents were ``sent``: one that rotted had its name in each of them."""
        digests = {entry["sha256"] for entry in sent.values()}
        for version, about in self.releases().items():
            for name, entry in about["files"].items():
                path = os.path.join(self.place(version), name)
                if entry["sha256"] in digests and os.path.isdir(os.path.dirname(path)):
                    self._mend(path, entry)

    def drop(self, version: str) -> None:
        """Remove a release that is not in use: first its name, then its files."""
        unnamed = self.place(".%s.old" % version)
        shutil.rmtree(unnamed, ignore_errors=True)
        os.rename(self.place(version), unnamed)
        shutil.rmtree(unnamed)

    def tidy(self) -> int:
        """Remove objects that no release has, and what was being made when the power went; the bytes of the objects."""
        for name in os.listdir(self.path("releases")):
            if name.startswith("."):
                shutil.rmtree(self.place(name))
        needed = {entry["sha256"] for about in self.releases().values() for entry in about["files"].values()}
        freed = 0
        for name in os.listdir(self.path("objects")):
            path = self.path("objects", name)
            stale = name.endswith(".part") and time.time() - os.stat(path).st_mtime > _STALE_PART_S
            if stale or (_DIGEST.fullmatch(name) and name not in needed):
                freed += os.path.getsize(path)
                os.unlink(path)
        return freed
