"""SSH signatures: what ``ssh-keygen -Y sign`` writes and ``ssh-keygen -Y verify`` checks, checked here without it.

Keys: ed25519, ECDSA on the three NIST curves, and RSA of 2048 bits or more with SHA-2.
Source: OpenSSH, PROTOCOL.sshsig; RFC 4251 (encodings), RFC 4253, RFC 5656, RFC 8332 and RFC 8709 (keys and signatures).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from edgeprune.errors import SignatureError

MAGIC: Final = b"SSHSIG"
_BEGIN: Final = b"-----BEGIN SSH SIGNATURE-----\n"
_END: Final = b"-----END SSH SIGNATURE-----\n"
_WIDTH: Final = 70  # of ssh-keygen's base64 lines
_HASHES: Final = ("sha256", "sha512")
_LEAST_RSA_BITS: Final = 2048
_RSA: Final[dict[str, type[hashes.SHA256 | hashes.SHA512]]] = {"rsa-sha2-256": hashes.SHA256, "rsa-sha2-512": hashes.SHA512}
_ECDSA: Final[dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]]] = {
    "ecdsa-sha2-nistp256": hashes.SHA256,
    "ecdsa-sha2-nistp384": hashes.SHA384,
    "ecdsa-sha2-nistp521": hashes.SHA512,
}
KEY_TYPES: Final = ("ssh-ed25519", *_ECDSA, "ssh-rsa")


@dataclass(frozen=True)
class PublicKey:
    """A public key in SSH's encoding."""

    blob: bytes

    @property
    def type(self) -> str:
        """Such as ``ssh-ed25519``."""
        return Reader(self.blob, "the key").string().decode("ascii", "replace")

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it: ``SHA256:...``."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def short(self) -> str:
        """The first 16 hexadecimal digits of its SHA-256: part of a signature's name in a bundle."""
        return hashlib.sha256(self.blob).hexdigest()[:16]

    @property
    def text(self) -> str:
        """As in ``id_ed25519.pub``, without a comment."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True)
class Signature:
    """``namespace``: what it was made for. ``hash_name``: of the message. ``algorithm``, ``raw``: how the key signed, and what."""

    key: PublicKey
    namespace: str
    hash_name: str
    algorithm: str
    raw: bytes

    @classmethod
    def parse(cls, armoured: bytes, what: str) -> Signature:
        """From its armoured text, in the one form that ``ssh-keygen`` writes.  Raises :class:`SignatureError` naming ``what``."""
        content = _unarmour(armoured, what)
        reader = Reader(content, what)
        if reader.take(len(MAGIC)) != MAGIC or reader.number() != 1:
            raise SignatureError(f"{what} is not an SSH signature of version 1")
        blob, namespace, reserved, hash_name, inner = (reader.string() for _ in range(5))
        reader.end()
        signature = Reader(inner, what)
        algorithm, raw = signature.string(), signature.string()
        signature.end()
        if reserved or hash_name.decode("ascii", "replace") not in _HASHES:
            raise SignatureError(f"{what} uses the hash {hash_name!r} or a reserved field: not known here")
        return cls(PublicKey(blob), namespace.decode("utf-8", "replace"), hash_name.decode(), algorithm.decode("ascii", "replace"), raw)

    def check(self, message: bytes, namespace: str, what: str) -> None:
        """Raise :class:`SignatureError` unless the key made this signature over ``message`` for ``namespace``."""
        if self.namespace != namespace:
            raise SignatureError(f"{what} was made for {self.namespace!r}, not for {namespace!r}")
        try:
            _verify(self.key, self.algorithm, self.raw, to_be_signed(message, namespace, self.hash_name), what)
        except InvalidSignature:
            raise SignatureError(f"{what} by {self.key.fingerprint} is not a signature of this content") from None


class Reader:
    """Takes RFC 4251 values off ``content``.  Every method raises :class:`SignatureError` naming ``what`` at its end."""

    def __init__(self, content: bytes, what: str) -> None:
        self._rest, self._what = content, what

    def take(self, count: int) -> bytes:
        """So many bytes."""
        if count > len(self._rest):
            raise SignatureError(f"{self._what} is cut off")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def number(self) -> int:
        """A uint32."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """A string: its length, and so many bytes."""
        return self.take(self.number())

    def integer(self) -> int:
        """An mpint that is not negative."""
        value = int.from_bytes(content := self.string(), "big")
        if content[:1] >= b"\x80" or content != _mpint(value):
            raise SignatureError(f"{self._what} holds a malformed number")
        return value

    def end(self) -> None:
        """Nothing may be left."""
        if self._rest:
            raise SignatureError(f"{self._what} has {len(self._rest)} bytes too many")


def string(value: bytes) -> bytes:
    """An RFC 4251 string."""
    return len(value).to_bytes(4, "big") + value


def to_be_signed(message: bytes, namespace: str, hash_name: str) -> bytes:
    """What a key really signs for ``message``."""
    digest = hashlib.new(hash_name, message).digest()
    return MAGIC + string(namespace.encode()) + string(b"") + string(hash_name.encode()) + string(digest)


def _mpint(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b""


def _unarmour(armoured: bytes, what: str) -> bytes:
    try:
        if not armoured.startswith(_BEGIN) or not armoured.endswith(_END):
            raise ValueError
        content = base64.b64decode(armoured[len(_BEGIN) : -len(_END)].replace(b"\n", b""), validate=True)
    except ValueError:
        raise SignatureError(f"{what} is not an armoured SSH signature") from None
    if armour(content) != armoured:
        raise SignatureError(f"{what} is not in the form that ssh-keygen writes")
    return content


def armour(content: bytes) -> bytes:
    """The text of a signature, as ``ssh-keygen`` writes it."""
    text = base64.b64encode(content)
    lines = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return _BEGIN + b"\n".join(lines) + b"\n" + _END


def _verify(key: PublicKey, algorithm: str, raw: bytes, signed: bytes, what: str) -> None:
    public = load_key(key, what)
    if isinstance(public, Ed25519PublicKey) and algorithm == "ssh-ed25519":
        public.verify(raw, signed)
    elif isinstance(public, ec.EllipticCurvePublicKey) and algorithm == key.type:
        reader = Reader(raw, what)
        r, s = reader.integer(), reader.integer()
        reader.end()
        public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_ECDSA[algorithm]()))
    elif isinstance(public, rsa.RSAPublicKey) and algorithm in _RSA:
        if public.key_size < _LEAST_RSA_BITS:
            raise SignatureError(f"{what} was made by an RSA key of {public.key_size} bits, fewer than {_LEAST_RSA_BITS}")
        public.verify(raw, signed, padding.PKCS1v15(), _RSA[algorithm]())
    else:
        raise SignatureError(f"{what} by a key of type {key.type} uses {algorithm!r}, which is not accepted")


def load_key(key: PublicKey, what: str) -> Any:
    """The key as ``cryptography`` has it.  Raises :class:`SignatureError` naming ``what`` when it is malformed or of another type."""
    kind = Reader(key.blob, what).string().decode("ascii", "replace")
    if kind not in KEY_TYPES:
        raise SignatureError(f"{what} has a key of type {kind!r}", remedy=f"Known types: {', '.join(KEY_TYPES)}.")
    try:
        return load_ssh_public_key(key.text.encode())
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{what} has a malformed key: {error}") from error
