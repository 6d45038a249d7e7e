"""What releases a device has: saying so, going back to an earlier one, making room."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from edgeprune.devices.targets import Target
from edgeprune.errors import HealthError, ReleaseError
from edgeprune.release.bundle.file import NAMESPACE
from edgeprune.release.deploy.answers import Done, Installed, Removed, State, WentBack
from edgeprune.release.deploy.push import AFTER_REMEDY, restore_after, run_after
from edgeprune.release.deploy.store import BASE, OpenReleaseStore


@dataclass(frozen=True)
class Status:
    """The releases of one product on a device, oldest first.

    ``current``: what programs open now; ``committed``: what they open after the next start of the device; ``pending``: what a push that
    did not end has left on trial; ``previous``: what a rollback leads to; ``highest``: the newest that was ever committed.
    """

    target: str
    product: str
    path: str
    current: str | None
    committed: str | None
    previous: str | None
    pending: str | None
    highest: str | None
    releases: tuple[Installed, ...]


def status(target: Target, base: str = BASE, deep: bool = False) -> list[Status]:
    """The releases of every product on a device; nothing is changed.  ``deep``: read every file, and name the damaged ones.

    Raises what connecting raises, :class:`NoRuntimeError` when the device has no Python.
    """
    with OpenReleaseStore(target.address, base) as store:
        return [_status(store, target, product, deep) for product in store.products()]


def _status(store: OpenReleaseStore, target: Target, product: str, deep: bool) -> Status:
    found = store.call(State, "status", product, 1 << 30 if deep else 0, deep=deep)
    versions = (found.current, found.committed, found.previous, found.pending, found.highest.version if found.highest else None)
    return Status(target.name, product, store.root(product), *versions, found.releases)


@dataclass(frozen=True)
class RolledBack:
    """``left``: the version that was in use; ``version``: the one that is now, the same where nothing was to be done."""

    target: str
    product: str
    left: str | None
    version: str | None


def rollback(
    target: Target,
    product: str | None = None,
    version: str | None = None,
    base: str = BASE,
    after: str | None = None,
    only_from: str | None = None,
) -> RolledBack:
    """Go back to ``version``, or to the release before the one in use.  It does not wait for others who use the device.

    It must be signed by those whom the device allows now, and not have expired.

    The only product on the device unless named.  ``only_from``: a device that uses another version than that stays as it is.  ``after``:
    as for a push.  Raises :class:`ReleaseError` when there is nothing to go back to, :class:`HealthError` when ``after`` fails: the
    device has then gone forward again.
    """
    with OpenReleaseStore(target.address, base) as store:
        product = _product(store, target, product)
        store.install()
        if only_from is not None and (used := store.call(State, "status", product).committed) != only_from:
            return RolledBack(target.name, product, used, used)
        token = uuid.uuid4().hex
        trust = {"namespace": NAMESPACE, "now_s": time.time()}
        begun = store.call(WentBack, "rollback", product, 1 << 30, token=token, version=version, trust=trust)
        if begun["from"] == begun["version"]:
            return RolledBack(target.name, product, begun["from"], begun["version"])
        if failed := run_after(store, product, after):
            store.call(Done, "abandon", product, token=token, version=begun["version"], remove=False)
            why = restore_after(store, product, failed)
            raise HealthError(f"{target.name} stayed with {begun['from']}: {why}", remedy=AFTER_REMEDY)
        store.call(Done, "commit", product, 1 << 30, token=token, version=begun["version"], now_s=0.0, trust=trust)
        return RolledBack(target.name, product, begun["from"], begun["version"])


@dataclass(frozen=True)
class PrunedReleases:
    """Versions that were ``removed`` and ``kept``, oldest first; ``freed_bytes``: of files that none of the kept needs."""

    target: str
    product: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    freed_bytes: int


def prune_releases(target: Target, keep: int = 3, product: str | None = None, base: str = BASE) -> list[PrunedReleases]:
    """Remove all but the ``keep`` newest releases of each product (or of one), never the one in use or the one before.

    Raises :class:`ReleaseError` when the device has no such product.
    """
    with OpenReleaseStore(target.address, base) as store:
        products = [_product(store, target, product)] if product else store.products()
        if products:
            store.install()
        done = [(name, store.call(Removed, "prune", name, keep=keep)) for name in products]
        return [PrunedReleases(target.name, name, it.removed, it.kept, it.freed_bytes) for name, it in done]


def _product(store: OpenReleaseStore, target: Target, wanted: str | None) -> str:
    products = store.products()
    known = f"On the device: {', '.join(products)}." if products else f"Nothing was released to {store.base} there."
    if wanted is not None and wanted not in products:
        raise ReleaseError(f"{target.name} has no releases of {wanted!r}", remedy=known)
    if not products:
        raise ReleaseError(f"{target.name.rstrip(':')} has no releases", remedy=known)
    if wanted is None and len(products) != 1:
        raise ReleaseError(f"{target.name} has releases of {len(products)} products", remedy=f"{known} Say which: --product NAME")
    return wanted or products[0]
