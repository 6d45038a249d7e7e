"""What may be asked: each function is a command."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Dict, Optional

from .files import Refused, is_whole, open_to_others, sync, write
from .signatures import is_signed, recheck, verify_signatures
from .store import ABOUT, NEW_SIGNERS, SIGNERS, Store, highest_of

_SPARE_BYTES = 256 << 10  # for folders and the files that say what is there


def products(root: str) -> Dict[str, Any]:
    """The products whose releases are kept below the folder ``root``."""
    names = os.listdir(root) if os.path.isdir(root) else []
    return {"products": sorted(name for name in names if os.path.isdir(os.path.join(root, name, "releases")))}


def status(root: str, deep: bool = False) -> Dict[str, Any]:
    """What is there, without changing anything; ``deep``: every file is read, and the damaged ones are named."""
    store = Store(root)
    releases = [
        {
            "version": version,
            "sequence": about["sequence"],
            "variant": about["variant"],
            "bytes": sum(entry["bytes"] for entry in about["files"].values()),
            "damaged": store.damaged(store.place(version)) if deep else None,
        }
        for version, about in store.releases().items()
    ]
    for version in store.versions():
        if version not in [release["version"] for release in releases]:
            releases.append({"version": version, "sequence": 0, "variant": "", "bytes": 0, "damaged": [ABOUT]})
    known = ("committed", "previous", "pending", "highest")
    return dict({name: store.state[name] for name in known}, current=store.current(), releases=releases)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def held(root: str) -> Dict[str, Any]:
    """What is said of the release in use, if it is committed and whole, and the device's clock."""
    store = Store(root)
    current, about = store.path("current"), None
    if store.state["committed"] is not None and store.state["pending"] is None and not store.damaged(current):
        about = store.about(current)
    return {"about": about, "clock_s": time.time()}


def begin(
    root: str,
    token: str,
    about: Dict[str, Any],
    expires_s: Optional[float],
    signers: Optional[str],
    replace: bool,
    trust: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Start a push: put right what an earlier one left, refuse what is too old, say which objects are missing.

    ``signers``: the text of ``allowed_signers`` for a device that has none yet, or with ``replace`` for any.  ``trust``: the ``namespace``
    of signatures and the time ``now_s`` by which they count.
    """
    store = Store(root)
    recovered = store.settle()
    if expires_s is not None and store.state["latest_s"] >= expires_s:
        raise Refused("expired", "a release came to the device at %s, and this one had expired then" % _utc(store.state["latest_s"]))
    mended = about["version"] == store.state["committed"] and store.holds(store.place(about["version"]), about)
    if signers is not None and (replace or not os.path.exists(store.path(SIGNERS))):
        write(store.path(NEW_SIGNERS), signers.encode())
    if not mended:  # what is in use, which may be older after a rollback
        try:
            _refuse_older(_highest(store, about, trust), about)
        except Refused:
            store.settle()  # signers that came with it
            raise
    missing = []
    for entry in about["files"].values():
        path = store.path("objects", entry["sha256"])
        if not is_whole(path, entry):
            if os.path.lexists(path):
                os.unlink(path)  # rotten
            missing.append(entry["sha256"])
    store.save(token=token)
    disk = os.statvfs(root)
    return {
        "recovered": recovered,
        "committed": store.state["committed"],
        "missing": sorted(set(missing)),
        "trusts": os.path.exists(_trusted(store)),
        "clock_s": time.time(),
        "free_bytes": max(0, disk.f_bavail * disk.f_frsize - _SPARE_BYTES),
    }


def _trusted(store: Store) -> str:
    """The signers that a release under way is checked by."""
    new = store.path(NEW_SIGNERS)
    return new if os.path.exists(new) else store.path(SIGNERS)


def _highest(store: Store, about: Dict[str, Any], trust: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """The newest release that the device has had, as far as it stands in the way of another.

    One that nobody has signed who is still allowed to does not: else whoever once had a stolen key could keep a device from all updates by
    a release of an enormous sequence (The Update Framework, 5.3.11: recovery from fast-forward attacks when keys are replaced).
    """
    highest = store.state["highest"]
    signers = _trusted(store)
    if highest is None or trust is None or about["sequence"] > highest["sequence"] or not os.path.exists(signers):
        return highest
    known = store.releases()
    if highest["version"] not in known or known[highest["version"]]["manifest"] != highest["manifest"]:
        return highest  # it cannot be looked into
    for version, other in reversed(list(known.items())):
        if other["sequence"] <= highest["sequence"] and is_signed(store.place(version), signers, trust["namespace"], trust["now_s"]):
            return highest_of(version, other)
    return None


def _refuse_older(highest: Optional[Dict[str, Any]], about: Dict[str, Any]) -> None:
    """No release may follow a newer one, and none another one of the same number."""
    if highest is None or about["sequence"] > highest["sequence"]:
        return
    had = "the device has had release %s of sequence %d" % (highest["version"], highest["sequence"])
    if about["sequence"] < highest["sequence"]:
        raise Refused("older", "%s, and %s is of sequence %d" % (had, about["version"], about["sequence"]))
    if about["manifest"] != highest["manifest"]:
        raise Refused("older", "%s, and this %s is another one of that sequence" % (had, about["version"]))


def _owned(root: str, token: str) -> Store:
    """The store, if the push that asks is still the last one that began."""
    store = Store(root)
    if store.state["token"] != token:
        raise Refused("superseded", "another push has begun meanwhile, or releases were removed")
    return store


def stage(root: str, token: str, about: Dict[str, Any], check: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """Lay a release out from objects, each of them read and compared; ``check``: the signatures that the device itself is to verify."""
    store = _owned(root, token)
    version, place = about["version"], store.place(about["version"])
    for name, entry in about["files"].items():
        if not is_whole(store.path("objects", entry["sha256"]), entry):
            raise Refused("damaged", "%s is not on the device as it was sent" % name)
        open_to_others(store.path("objects", entry["sha256"]))
    sync(store.path("objects"))
    there = os.path.isdir(place)
    if there and not store.holds(place, about):
        if version in (store.state["committed"], store.state["previous"]):
            raise Refused("older", "the device keeps another release %s, or another variant of it" % version)
        store.drop(version)
        there = False
    folder = place if there else store.place(".%s.new" % version)
    if not there:
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
    store.fill(folder, about)
    signed = verify_signatures(folder, _trusted(store), check) if check else None
    if not there:
        os.rename(folder, place)
    store.mend(about["files"])
    sync(store.path("releases"))
    return {"path": place, "signed": signed}


def switch(root: str, token: str, version: str) -> Dict[str, Any]:
    """Let ``current`` lead to a release on trial: until :func:`commit`, whatever comes in between goes back."""
    store = _owned(root, token)
    store.require_whole(store.place(version))
    store.save(pending=version)
    store.point(version)
    return {"from": store.state["committed"]}


def commit(root: str, token: str, version: str, now_s: float, trust: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Keep the release that is on trial, once all of it has been read through ``current``, and the signers that came with it.

    ``now_s``: what time it is at the least; 0 where nobody says.
    """
    store = _owned(root, token)
    state = store.state
    if state["pending"] != version or store.current() != version:
        raise Refused("superseded", "release %s is not on trial" % version)
    store.require_whole(store.path("current"))
    releases = store.releases()
    about, before = releases[version], state["committed"]
    highest = _highest(store, about, trust)
    if before == version:
        before = state["previous"]
    elif before in releases and releases[before]["sequence"] > about["sequence"]:  # a rollback: what was left is not a way back
        older = [name for name, other in releases.items() if other["sequence"] < about["sequence"]]
        before = older[-1] if older else None
    if highest is None or about["sequence"] > highest["sequence"]:
        highest = highest_of(version, about)
    if os.path.exists(store.path(NEW_SIGNERS)):
        os.replace(store.path(NEW_SIGNERS), store.path(SIGNERS))
    store.save(committed=version, previous=before, pending=None, highest=highest, latest_s=max(state["latest_s"], int(now_s)))
    return {"committed": version, "previous": before}


def rollback(root: str, token: str, version: Optional[str] = None, trust: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Switch back to ``version``, or to the release before the one in use; it is then on trial.  The one in use stays as it is.

    ``trust``: as for :func:`begin`; a release whose signers are no longer allowed, or that has expired, is refused as a push of it is.
    """
    store = Store(root)
    store.settle()
    releases, state = store.releases(), store.state
    wanted = version or state["previous"]
    if wanted is None or wanted not in releases:
        what = "no release %s" % version if version else "no earlier release"
        raise Refused("unknown", "%s to go back to; on the device: %s" % (what, ", ".join(releases) or "none"))
    if wanted == state["committed"]:
        return {"from": wanted, "version": wanted}
    damaged = store.damaged(store.place(wanted))
    if damaged:
        message = (
            "release %s is damaged there (%s): a push of the one in use mends what both have; else build it again, with a newer version"
        )
        raise Refused("unknown", message % (wanted, ", ".join(damaged)))
    if trust is not None:
        recheck(store.place(wanted), store.path(SIGNERS), trust["namespace"], max(trust["now_s"], state["latest_s"]))
    store.save(token=token)
    return dict(switch(root, token, wanted), version=wanted)


def recover(root: str) -> Dict[str, Any]:
    """Go back to what is committed, as after a power loss; the version that was given up."""
    store = Store(root)
    return {"recovered": store.settle(), "committed": store.state["committed"]}


def abandon(root: str, token: str, version: str, remove: bool = True) -> Dict[str, Any]:
    """Give up a release on trial: go back, and ``remove`` it with what only it needs."""
    store = _owned(root, token)
    store.settle()
    if remove and version not in (store.state["committed"], store.state["previous"]):
        if os.path.isdir(store.place(version)):
            store.drop(version)
        store.tidy()
    return {"committed": store.state["committed"]}


def prune(root: str, keep: int) -> Dict[str, Any]:
    """Keep the newest releases, the one in use and the one before; remove others, and objects that none needs."""
    store = Store(root)
    store.settle()
    store.save(token="")  # a push that is under way must not continue without its objects
    releases = list(store.releases())
    kept = {*releases[max(0, len(releases) - keep) :], store.state["committed"], store.state["previous"]}
    removed = [version for version in (*releases, *(set(store.versions()) - set(releases))) if version not in kept]
    for version in removed:
        store.drop(version)
    return {"removed": removed, "kept": [version for version in releases if version in kept], "freed_bytes": store.tidy()}
