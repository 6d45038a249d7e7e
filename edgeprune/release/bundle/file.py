"""A release as one file, ``<product>-<version>.epb``: a tar in one fixed form, which ``tar`` unpacks and ``ssh-keygen -Y verify`` checks.

Members, in this order and no others:

``manifest.json``
    what is signed (:mod:`edgeprune.release.bundle.manifest`)
``manifest.json.<key>.sig``
    one for each signer, sorted: an armoured SSH signature over ``manifest.json``; ``<key>``: the first 16 digits of its key's SHA-256
``objects/<sha256>``
    one for each content that the manifest lists, sorted; several files may have the same content
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Self

from edgeprune.errors import BundleError
from edgeprune.files import replacing
from edgeprune.release.bundle.container import END, Member, read_members, write_member
from edgeprune.release.bundle.manifest import File, Manifest

MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".epb"
NAMESPACE: Final = "edgeprune-release"
"""The namespace (PROTOCOL.sshsig) that signatures are made for: one for git, mail or files is none for a release."""

LARGEST_MANIFEST: Final = 4 << 20
LARGEST_SIGNATURE: Final = 16 << 10
MOST_SIGNATURES: Final = 32
MOST_OBJECTS: Final = 10_000
CHUNK: Final = 1 << 20
_SIGNATURE = re.compile(r"manifest\.json\.([0-9a-f]{16})\.sig")


class Bundle:
    """An open bundle of the one form, with no member missing or too many, and every size as the manifest says.

    A context manager.  Contents are hashed when they are read; signatures are judged by :func:`edgeprune.release.bundle.verify`.
    ``manifest_bytes``: as signed. ``signatures``: armoured, by key.
    """

    def __init__(self, path: Path, file: BinaryIO, members: list[Member]) -> None:
        self.path, self._file = path, file
        if not members or members[0].name != MANIFEST:
            raise BundleError(f"{path} is not a bundle: its first member is not {MANIFEST}")
        self.manifest_bytes = self._small(members[0], LARGEST_MANIFEST)
        self.manifest = Manifest.from_bytes(self.manifest_bytes)
        signed = 1 + sum(1 for member in members if _SIGNATURE.fullmatch(member.name))
        if signed > 1 + MOST_SIGNATURES:
            raise BundleError(f"{path} has more than {MOST_SIGNATURES} signatures")
        self.signatures = {_key_of(path, member): self._small(member, LARGEST_SIGNATURE) for member in members[1:signed]}
        self._objects = {member.name.removeprefix("objects/"): member for member in members[signed:]}
        self._check(members)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a file.  Raises :class:`BundleError` when it is missing, or not in the form of a bundle."""
        path = Path(path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise BundleError(
                f"the bundle {path} cannot be read: {error.strerror}", remedy="Give the path of a file that edgeprune release build wrote."
            ) from error
        try:
            return cls(path, file, read_members(file, path, 1 + MOST_SIGNATURES + MOST_OBJECTS))
        except BaseException:
            file.close()
            raise

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest: this release and no other, however often it is signed."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    def chunks(self, file: File | str) -> Iterator[bytes]:
        """The content of a file (or of a SHA-256) piece by piece.

        Raises :class:`BundleError` behind the last piece when its hash is another: what was made of the pieces must be thrown away then.
        """
        sha256 = file if isinstance(file, str) else file.sha256
        member = self._objects[sha256]
        digest, position = hashlib.sha256(), member.offset
        while position < member.offset + member.size:
            self._file.seek(position)
            chunk = self._file.read(min(CHUNK, member.offset + member.size - position))
            if not chunk:
                raise BundleError(f"{self.path} was cut off while it was read")
            digest.update(chunk)
            position += len(chunk)
            yield chunk
        if digest.hexdigest() != sha256:
            raise BundleError(
                f"{self.path}: the content of {self._named(sha256)} is not what the manifest says", remedy="Get the file again."
            )

    def read(self, file: File | str) -> bytes:
        """The whole content of a file (or of a SHA-256).  Raises :class:`BundleError` when its hash is another."""
        return b"".join(self.chunks(file))

    def check_contents(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Read and hash everything; ``on_progress(done, total)`` in bytes.  Raises :class:`BundleError` naming the first that differs."""
        total, done = sum(self.manifest.objects().values()), 0
        for sha256 in self._objects:
            for chunk in self.chunks(sha256):
                done += len(chunk)
                if on_progress:
                    on_progress(done, total)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _small(self, member: Member, limit: int) -> bytes:
        if member.size > limit:
            raise BundleError(f"{self.path}: {member.name} has {member.size} bytes, more than {limit}")
        self._file.seek(member.offset)
        return self._file.read(member.size)

    def _check(self, members: list[Member]) -> None:
        wanted = self.manifest.objects()
        names = [MANIFEST, *sorted(f"manifest.json.{key}.sig" for key in self.signatures), *(f"objects/{key}" for key in wanted)]
        found = {member.name: member for member in members}
        if extra := [name for name in found if name not in names]:
            raise BundleError(f"{self.path} has the member {extra[0]!r}, which the manifest does not list")
        for sha256, size in wanted.items():
            member = found.get(f"objects/{sha256}")
            if member is None:
                raise BundleError(f"{self.path} lacks {self._named(sha256)}", remedy="Get the file again.")
            if member.size != size:
                raise BundleError(f"{self.path}: {self._named(sha256)} has {member.size} bytes, and the manifest says {size}")
        if list(found) != names:
            raise BundleError(f"{self.path}: its members are not in order")

    def _named(self, sha256: str) -> str:
        return next(file.path for file in self.manifest.all_files() if file.sha256 == sha256)


def _key_of(path: Path, member: Member) -> str:
    match = _SIGNATURE.fullmatch(member.name)
    if match is None:
        raise BundleError(f"{path}: its members are not in order")
    return match[1]


def write_bundle(
    path: Path, manifest_bytes: bytes, signatures: Mapping[str, bytes], objects: Mapping[str, tuple[int, Callable[[], Iterable[bytes]]]]
) -> None:
    """Write a bundle whole or not at all: the same arguments make the same bytes.

    ``signatures``: armoured, by key. ``objects``: size and source of the pieces by SHA-256. Raises :class:`BundleError` when it cannot be
    written.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            write_member(file, MANIFEST, len(manifest_bytes), [manifest_bytes])
            for key, armoured in sorted(signatures.items()):
                write_member(file, f"manifest.json.{key}.sig", len(armoured), [armoured])
            for sha256, (size, pieces) in sorted(objects.items()):
                write_member(file, f"objects/{sha256}", size, pieces())
            file.write(END)
    except OSError as error:
        raise BundleError(
            f"the bundle {path} cannot be written: {error.strerror}", remedy="Free some space there, or name another file with --output."
        ) from error


def with_signatures(bundle: Bundle, signatures: Mapping[str, bytes], path: Path) -> None:
    """Write ``bundle`` to ``path`` (its own, too) with these signatures instead of its own."""
    objects = {sha256: (size, lambda sha256=sha256: bundle.chunks(sha256)) for sha256, size in bundle.manifest.objects().items()}
    write_bundle(path, bundle.manifest_bytes, signatures, objects)
