"""Bringing a release to a device: nothing there opens it before it is whole, verified and healthy, and then everything does at once."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from edgeprune.bench.info import DeviceInfo
from edgeprune.budget import format_quantity
from edgeprune.decode import JsonObject
from edgeprune.devices.connect import connect, with_retries
from edgeprune.devices.events import OnEvent
from edgeprune.devices.runner import Runner, open_runner
from edgeprune.devices.session import Session
from edgeprune.devices.targets import Target
from edgeprune.errors import DeviceError, DeviceFullError, HealthError, ReleaseError, TransientError, printable
from edgeprune.release.bundle.file import MANIFEST, NAMESPACE, Bundle
from edgeprune.release.bundle.manifest import Variant, parse_time
from edgeprune.release.deploy.answers import Begun, Done, Held, Staged, Switched
from edgeprune.release.deploy.compatibility import choose
from edgeprune.release.deploy.health_check import HealthCheck, check_health
from edgeprune.release.deploy.store import BASE, ReleaseStore, find_python

T = TypeVar("T")
_AFTER_S = 300.0
AFTER_REMEDY = (
    "Try the command on the device; a command that starts a service must return: start it in the background (&, or systemctl restart)."
)
_SKEW_S = 300.0


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    ``base``: the folder on the device below which every product has its own.  ``variant``: the one that fits unless named.
    ``signers``: a file of allowed signers for the device to check with; it keeps the first it gets, or with ``replace_signers`` this one.
    ``threshold``: how many of them must have signed.  ``after``: a shell command on the device, once ``current`` leads to the release: if
    it fails, the device goes back, and it is run again; if it hangs, it is ended with all that it started, and not run again.
    ``lock_timeout_s``: how long to wait for others who use the device.
    """

    base: str = BASE
    variant: str | None = None
    signers: Path | None = None
    replace_signers: bool = False
    threshold: int = 1
    after: str | None = None
    lock_timeout_s: float = 600.0
    retries: int = 2


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    ``state``: ``committed``, or ``unchanged`` when the device had and used this release.  ``previous``: the version that it used before
    a change.
    ``recovered``: a version that an earlier push had left on trial, and that was given up.  ``sent_bytes``: of ``sent_files`` files that
    the device lacked.  ``signed``: how many signers the device itself verified; None when it knows none.
    """

    target: str
    product: str
    version: str
    variant: str
    state: Literal["committed", "unchanged"]
    path: str
    previous: str | None = None
    recovered: str | None = None
    sent_files: int = 0
    sent_bytes: int = 0
    signed: int | None = None
    health: HealthCheck = field(default_factory=HealthCheck)
    notes: tuple[str, ...] = ()


def push(
    bundle: Bundle, target: Target, options: PushOptions | None = None, on_event: OnEvent | None = None, now: datetime | None = None
) -> Pushed:
    """Bring a bundle's release to a device and let ``current`` lead to it.

    The bundle must have been :func:`~edgeprune.release.bundle.verify.verify`\\ ed; its expiry is judged again, at ``now``.  The device is
    locked during the push.  A connection that drops is opened again, and the push continues with what is there.  Raises
    :class:`IncompatibleError`, :class:`OlderReleaseError`, :class:`ExpiredError`, :class:`SignatureError` when the device accepts too
    few signers, :class:`HealthError` when it has gone back, and what :func:`~edgeprune.devices.runner.open_runner` raises.
    """
    options, tell = options or PushOptions(), on_event or (lambda event: None)
    moment = now or datetime.now(UTC)
    bundle.manifest.check_time(moment)

    def once() -> Pushed:
        tell({"event": "connecting", "name": target.name})
        session = connect(target.address)
        try:
            unchanged = None if options.replace_signers else _unchanged(session, bundle, target, options)
        except BaseException:
            session.close()
            raise
        if unchanged:
            session.close()
            return unchanged
        with _open(session, bundle, target, options, tell) as runner:
            return _Push(bundle, target, options, tell, runner, moment).run()

    return with_retries(once, options.retries)


def _unchanged(session: Session, bundle: Bundle, target: Target, options: PushOptions) -> Pushed | None:
    """What there is to say when the device uses this very release, whole: nobody need wait for it then, and hardly anything is sent."""
    store, manifest = ReleaseStore(session, *find_python(session, target.address), options.base), bundle.manifest
    if not session.exists(store.program):
        return None
    try:
        found = store.call(Held, "held", manifest.product, sum(manifest.objects().values()))
    except TransientError:
        raise
    except (DeviceError, ReleaseError):
        return None  # damaged, or the program there does not know the command: what follows puts it right, or says so
    about, variant = found.about, str((found.about or {}).get("variant"))
    if about is None or about.get("manifest") != bundle.identity or options.variant not in (None, variant):
        return None
    if variant not in manifest.variants or about != contents_of(bundle, variant)[1]:
        return None
    path, notes = f"{store.root(manifest.product)}/current", _notes(found.clock_s, HealthCheck())
    return Pushed(target.name, manifest.product, manifest.version, variant, "unchanged", path, notes=notes)


def _open(session: Session, bundle: Bundle, target: Target, options: PushOptions, tell: OnEvent) -> Runner:
    """The device, locked, with a Python that has the runtime of its variant's model."""
    runner = open_runner(target.address, lock_timeout_s=options.lock_timeout_s, on_event=tell, session=session)
    try:
        device = DeviceInfo.from_probe(target.address, runner.probe)
        engine = bundle.manifest.variants[choose(bundle.manifest, device, options.variant)].model.engine
    except BaseException:
        runner.close()
        raise
    if not engine or engine in device.runtimes:
        return runner
    runner.close()
    return open_runner(target.address, (engine,), lock_timeout_s=options.lock_timeout_s, on_event=tell)


class _Push:
    """One push over one connection."""

    def __init__(self, bundle: Bundle, target: Target, options: PushOptions, tell: OnEvent, runner: Runner, now: datetime) -> None:
        self._bundle, self._target, self._options, self._tell, self._runner = bundle, target, options, tell, runner
        self._manifest, self._now_s = bundle.manifest, now.timestamp()
        self._device = DeviceInfo.from_probe(target.address, runner.probe)
        self._name = choose(self._manifest, self._device, options.variant)
        self._variant = self._manifest.variants[self._name]
        self._store = ReleaseStore(runner.session, runner.python.path, runner.home, options.base)
        self._token = uuid.uuid4().hex
        self._trust = {"namespace": NAMESPACE, "now_s": self._now_s}
        self._contents, self._about = contents_of(bundle, self._name)
        self._bytes = sum(entry["bytes"] for entry in self._about["files"].values())

    def _call(self, kind: type[T], command: str, **arguments: Any) -> T:
        return self._store.call(kind, command, self._manifest.product, self._bytes, token=self._token, **arguments)

    def run(self) -> Pushed:
        self._store.install()
        found = self._begin()
        # a clock here that is ahead by mistake must not lock the device out: no later than its own clock, or this release, is believed
        self._proven_s = min(self._now_s, max(float(found.clock_s), parse_time(self._manifest.created).timestamp()))
        try:
            sent = self._send(found.missing, found.free_bytes)
            self._tell({"event": "staging", "name": self._manifest.version})
            staged = self._call(Staged, "stage", about=self._about, check=self._check() if found.trusts else None)
            self._tell({"event": "health", "name": self._manifest.version})
            health = check_health(self._runner, self._device, staged.path, self._bundle, self._variant, self._tell)
            previous = self._activate()
        except TransientError:
            raise  # the next push continues from here
        except (ReleaseError, DeviceError):
            with suppress(DeviceError, ReleaseError):
                self._call(Done, "abandon", version=self._manifest.version)
            raise
        path = f"{self._store.root(self._manifest.product)}/current"
        about = (self._target.name, self._manifest.product, self._manifest.version, self._name)
        sizes, notes = (len(found.missing), sent), _notes(found.clock_s, health, self._variant)
        return Pushed(*about, "committed", path, previous, found.recovered, *sizes, staged.signed, health, notes)

    def _begin(self) -> Begun:
        signers = self._options.signers.read_text("utf-8") if self._options.signers else None
        expires = parse_time(self._manifest.expires).timestamp() if self._manifest.expires else None
        self._tell({"event": "looking", "name": self._manifest.version})
        replace = self._options.replace_signers
        return self._call(Begun, "begin", about=self._about, expires_s=expires, signers=signers, replace=replace, trust=self._trust)

    def _check(self) -> JsonObject:
        """What the device's own ssh-keygen is to find."""
        signatures = sorted(name for name in self._about["files"] if name.startswith(f"{MANIFEST}."))
        threshold = max(self._options.threshold, self._manifest.threshold)
        return {"manifest": MANIFEST, "signatures": signatures, "namespace": NAMESPACE, "threshold": threshold, "now_s": self._now_s}

    def _send(self, missing: Sequence[str], free_bytes: int) -> int:
        """Send the objects that the device lacks; their bytes."""
        sizes = {entry["sha256"]: entry["bytes"] for entry in self._about["files"].values()}
        needed: int = sum(sizes[sha256] for sha256 in missing)
        if needed > free_bytes:
            needs, has = format_quantity("size", needed), format_quantity("size", free_bytes)
            raise DeviceFullError(
                f"{self._target.name} has {has} free, and this release needs {needs} more",
                remedy="Make room there: edgeprune release prune",
            )
        names = {entry["sha256"]: name for name, entry in self._about["files"].items()}
        objects = f"{self._store.root(self._manifest.product)}/objects"
        for sha256 in missing:
            self._runner.session.put(self._contents[sha256](), f"{objects}/{sha256}", self._progress(names[sha256]))
        return needed

    def _progress(self, name: str) -> Callable[[int, int], None]:
        return lambda sent, total: self._tell({"event": "upload", "name": name, "sent": sent, "total": total})

    def _activate(self) -> str | None:
        """Switch, run what is to run then, and commit; the version before."""
        version = self._manifest.version
        self._tell({"event": "switching", "name": version})
        before = self._call(Switched, "switch", version=version)["from"]
        if failed := run_after(self._store, self._manifest.product, self._options.after):
            self._call(Done, "abandon", version=version)
            why = restore_after(self._store, self._manifest.product, failed)
            raise HealthError(f"{self._target.name} went back to {before or 'no release'}: {why}", remedy=AFTER_REMEDY)
        self._tell({"event": "committing", "name": version})
        self._call(Done, "commit", version=version, now_s=self._proven_s, trust=self._trust)
        return before


def _notes(clock_s: float, health: HealthCheck, variant: Variant | None = None) -> tuple[str, ...]:
    notes, skew_s = list(health.notes), clock_s - time.time()
    if abs(skew_s) > _SKEW_S:
        notes.append(
            f"the device's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's, and this machine's counts"
        )
    if variant and variant.model.engine and variant.health is None:
        notes.append("the release has no health check: no output was compared")
    return tuple(notes)


@dataclass(frozen=True)
class AfterFailure:
    """What went wrong with a command; ``ended``: it hung, and was ended with all that it had started."""

    command: str
    why: str
    ended: bool

    def __str__(self) -> str:
        return f"{self.command!r} {self.why}"


def run_after(store: ReleaseStore, product: str, command: str | None) -> AfterFailure | None:
    """Run a shell command on the device in the folder that ``current`` leads to; what went wrong, None when nothing did."""
    if command is None:
        return None
    done = store.run_after(product, command, _AFTER_S)
    if done.ended:
        return AfterFailure(command, f"did not end within {_AFTER_S:.0f} s, and was ended", ended=True)
    last = printable(done.said).strip().splitlines()[-1:]
    if code := done.code:
        return AfterFailure(command, f"ended with exit code {code}{': ' + last[0] if last else ''}", ended=False)
    return None


def restore_after(store: ReleaseStore, product: str, failed: AfterFailure) -> str:
    """Once the device has gone back: run the command again, for the release that is in use again; what there is to say.

    One that hung is not run again: it would hang, and what it had started before may be half done.
    """
    if failed.ended:
        return f"{failed}; it was not run again for the release that is in use"
    again = run_after(store, product, failed.command)
    return f"{failed}; run again for the release that is in use, it {again.why}" if again else str(failed)


class Stored(TypedDict):
    """One content of a release, as the device keeps it."""

    sha256: str
    bytes: int


class About(TypedDict):
    """What a device keeps of a release, beside its files.  ``manifest``: the manifest's SHA-256; ``model``: path of its model."""

    product: str
    version: str
    sequence: int
    variant: str
    manifest: str
    model: str
    files: dict[str, Stored]


def contents_of(bundle: Bundle, variant: str) -> tuple[dict[str, Callable[[], bytes]], About]:
    """Where each content of a variant comes from, by SHA-256; and what the device keeps of the release."""
    manifest = bundle.manifest
    own = {MANIFEST: bundle.manifest_bytes} | {f"{MANIFEST}.{key}.sig": text for key, text in bundle.signatures.items()}
    files: dict[str, Stored] = {}
    contents: dict[str, Callable[[], bytes]] = {}
    for name, data in own.items():
        digest = hashlib.sha256(data).hexdigest()
        files[name] = {"sha256": digest, "bytes": len(data)}
        contents[digest] = partial(bytes, data)
    for file in manifest.files_of(variant):
        files[file.path] = {"sha256": file.sha256, "bytes": file.bytes}
        contents[file.sha256] = partial(bundle.read, file)
    about: About = {
        "product": manifest.product,
        "version": manifest.version,
        "sequence": manifest.sequence,
        "variant": variant,
        "manifest": bundle.identity,
        "model": manifest.variants[variant].model.path,
        "files": files,
    }
    return contents, about
