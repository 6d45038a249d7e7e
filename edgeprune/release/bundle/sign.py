"""Sign a bundle with an ordinary SSH key."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgeprune.errors import SignatureError
from edgeprune.release.bundle.file import NAMESPACE, Bundle, with_signatures
from edgeprune.release.bundle.sshsig import PublicKey, Signature


def sign(path: str | Path, key: str | Path, output: str | Path | None = None) -> PublicKey:
    """Check the bundle at ``path`` and add the signature of ``key`` to it, and return the key that signed.

    ``key``: a private key's file; or a public key's, whose private half the agent holds. ``ssh-keygen`` asks for a passphrase on the
    terminal. A signature by the same key is replaced, others stay. ``output``: where to write instead of ``path``. Raises
    :class:`BundleError` when the bundle is damaged: such is not signed; :class:`SignatureError` when the key cannot sign.
    """
    with Bundle.open(path) as bundle:
        bundle.check_contents()
        armoured = _ssh_keygen(Path(key), bundle.manifest_bytes)
        signature = Signature.parse(armoured, f"the signature by {key}")
        signature.check(bundle.manifest_bytes, NAMESPACE, f"the signature by {key}")
        with_signatures(bundle, bundle.signatures | {signature.key.short: armoured}, Path(output or path))
    return signature.key


def _ssh_keygen(key: Path, message: bytes) -> bytes:
    if not key.is_file():
        raise SignatureError(f"the key {key} does not exist", remedy="Make one: ssh-keygen -t ed25519 -f release_key")
    try:
        done = subprocess.run(["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)], input=message, capture_output=True)
    except FileNotFoundError as error:
        raise SignatureError("there is no ssh-keygen to sign with", remedy="Install OpenSSH's client.") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SignatureError(f"{key} cannot sign: {lines[-1] if lines else 'ssh-keygen failed'}", remedy="Try: ssh-keygen -y -f KEY")
    return done.stdout
