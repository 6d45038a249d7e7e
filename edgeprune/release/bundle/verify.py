"""May a bundle be trusted?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edgeprune.budget import counted
from edgeprune.errors import InputError, SignatureError
from edgeprune.release.bundle.file import NAMESPACE, Bundle
from edgeprune.release.bundle.samples import check_samples
from edgeprune.release.bundle.signers import Signer
from edgeprune.release.bundle.sshsig import Signature


@dataclass(frozen=True)
class Verified:
    """``signers``: those who are allowed and have signed, by the principals of the file. ``keys``: the fingerprints of their keys.
    ``unknown``: fingerprints of keys that have signed too, and count for nothing."""

    signers: tuple[str, ...]
    keys: tuple[str, ...]
    unknown: tuple[str, ...]


def verify(
    bundle: Bundle,
    allowed: Sequence[Signer],
    threshold: int | None = None,
    now: datetime | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Check a bundle's signatures, its expiry, every byte of its contents, and that the figures of its evidence follow from their samples.

    ``threshold``: how many signers must have signed; never fewer than the manifest asks for. Two keys of the same principals are one
    signer, who may change from one to the other. Every signature must be of this manifest, one by an unknown key too. ``now``: with a time
    zone; this moment unless given. Raises :class:`SignatureError`, :class:`ExpiredError`, :class:`BundleError`.
    """
    if threshold is not None and threshold < 1:
        raise InputError(f"threshold {threshold} must be at least 1")
    now = now or datetime.now(UTC)
    verified = _signers(bundle, allowed, max(threshold or 1, bundle.manifest.threshold), now)
    bundle.manifest.check_time(now)
    bundle.check_contents(on_progress)
    check_samples(bundle)
    return verified


def _signers(bundle: Bundle, allowed: Sequence[Signer], threshold: int, now: datetime) -> Verified:
    found: dict[str, str] = {}  # principals by fingerprint
    unknown: list[str] = []
    refusals: list[str] = []
    for short, armoured in bundle.signatures.items():
        what = f"{bundle.path}: manifest.json.{short}.sig"
        signature = Signature.parse(armoured, what)
        signature.check(bundle.manifest_bytes, NAMESPACE, what)
        key = signature.key
        if key.short != short:
            raise SignatureError(f"{what} is by the key {key.short}")
        lines = [signer for signer in allowed if signer.key == key]
        good = [signer for signer in lines if signer.refusal(NAMESPACE, now) is None]
        if good:
            found[key.fingerprint] = good[0].principals
        else:
            unknown.append(key.fingerprint)
            refusals += [f"{signer.principals}: {signer.refusal(NAMESPACE, now)}" for signer in lines] or [f"unknown key {key.fingerprint}"]
    signers = tuple(sorted(set(found.values())))
    if len(signers) < threshold:
        raise SignatureError(_too_few(bundle, signers, refusals, threshold), remedy=_REMEDY)
    return Verified(signers, tuple(found), tuple(unknown))


_REMEDY = "Let an allowed signer sign it (edgeprune release sign), or add the signer's key to the allowed signers if you trust it."


def _too_few(bundle: Bundle, signers: Sequence[str], refusals: Sequence[str], threshold: int) -> str:
    if not bundle.signatures:
        return f"{bundle.path} is not signed"
    has = f"allowed and signed: {', '.join(signers)}" if signers else "no allowed signer has signed"
    why = f"; not counted: {'; '.join(refusals)}" if refusals else ""
    return f"{bundle.path} needs {counted(threshold, 'allowed signer')}, and {has}{why}"
