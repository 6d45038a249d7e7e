"""The bundle's container and manifest: one form, and everything else is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_kit import Kit, file_of

from edgeprune.errors import BundleError, ExpiredError, ReleaseError, SignatureError
from edgeprune.release import Bundle, Compatibility, Health, Manifest, Runtime, Variant
from edgeprune.release.bundle.container import BLOCK, END, header, read_members
from edgeprune.release.bundle.file import write_bundle
from edgeprune.release.bundle.signers import read_signers
from edgeprune.release.bundle.verify import verify

MODEL = file_of("model.tflite", b"weights", "model", "tflite", "tflite")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="module")
def whole(kit: Kit) -> bytes:
    """A signed bundle."""
    return kit.bundle("1.0.0", 1, shared=b"licence text\n").read_bytes()


def judge(path: Path, kit: Kit) -> None:
    with Bundle.open(path) as bundle:
        verify(bundle, read_signers(kit.allowed))


def members(content: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(entry.name, archive.extractfile(entry).read()) for entry in archive]


def packed(entries: list[tuple[str, bytes]]) -> bytes:
    return b"".join(header(name, len(data)) + data + bytes(-len(data) % BLOCK) for name, data in entries) + END


def refused(tmp_path: Path, kit: Kit, content: bytes, match: str) -> None:
    path = tmp_path / "other.epb"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=match):
        judge(path, kit)


def test_tar_lists_the_manifest_first_then_signatures_then_objects_by_hash(kit, whole, tmp_path):
    path = tmp_path / "whole.epb"
    path.write_bytes(whole)
    listed = subprocess.run(["tar", "-tf", str(path)], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    names = listed.stdout.split()
    with Bundle.open(path) as bundle:
        assert names == [
            "manifest.json",
            *(f"manifest.json.{key}.sig" for key in bundle.signatures),
            *(f"objects/{sha256}" for sha256 in sorted(bundle.manifest.objects())),
        ]
        assert bundle.identity == hashlib.sha256(dict(members(whole))["manifest.json"]).hexdigest()
        for file in bundle.manifest.all_files():
            assert bundle.read(file) == dict(members(whole))[f"objects/{file.sha256}"]
    assert packed(members(whole)) == whole  # the form is what the documentation says


def test_two_bundles_of_the_same_contents_are_the_same_bytes(tmp_path):
    first, second = (Kit(tmp_path / name) for name in ("a", "b"))
    for one in (first, second):
        one.folder.mkdir()
    assert first.bundle("1.0.0", 1, signed=False).read_bytes() == second.bundle("1.0.0", 1, signed=False).read_bytes()


def test_files_of_the_same_content_are_stored_once(kit):
    path = kit.bundle("1.0.1", 2, {"pi4": {}, "pi5": {}}, signed=False)
    with Bundle.open(path) as bundle:
        files = list(bundle.manifest.all_files())
        assert len(files) == 5
        assert len(bundle.manifest.objects()) == 3
        assert sum(name.startswith("objects/") for name, _ in members(path.read_bytes())) == 3


def test_every_bit_counts(kit, whole, tmp_path):
    """A bit flipped in every byte of a signature, and in many of all headers, pads, contents and the end."""
    path, dice = tmp_path / "flipped.epb", random.Random(0)
    path.write_bytes(whole)
    with path.open("rb") as file:
        found = read_members(file, path, 100)
    places = set(range(found[-1].end, len(whole), 29)) | set(dice.sample(range(len(whole)), 300))
    for member in found:
        places |= set(range(member.offset - BLOCK, member.offset, 5)) | set(range(member.offset + member.size, member.end, 29))
        if member.name.endswith(".sig"):
            places |= set(range(member.offset, member.offset + member.size))
    passed = [place for place in sorted(places) if accepted(path, kit, flipped(whole, place, dice.randrange(8)))]
    assert passed == []
    assert accepted(path, kit, whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_other_bytes_are_accepted(kit, whole, tmp_path_factory, data):
    """Cut, doubled, overwritten, swapped blocks: whatever is not the bundle itself is refused, and never by a crash."""
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(1, 2000))
    change = data.draw(st.sampled_from(["cut", "double", "overwrite", "end"]))
    piece = whole[start : start + length]
    changed = {
        "cut": whole[:start] + whole[start + length :],
        "double": whole[:start] + piece + whole[start:],
        "overwrite": whole[:start] + bytes(255 - byte for byte in piece) + whole[start + length :],
        "end": whole[:start],
    }[change]
    assert not accepted(tmp_path_factory.mktemp("other") / "b.epb", kit, changed)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def accepted(path: Path, kit: Kit, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        judge(path, kit)
    except ReleaseError:
        return False
    return True


def test_a_cut_bundle_says_so(kit, whole, tmp_path):
    refused(tmp_path, kit, whole[:-700], "is cut off")
    refused(tmp_path, kit, whole[: len(whole) // 2 // BLOCK * BLOCK], "is cut off|has no end marker")
    refused(tmp_path, kit, b"", "is cut off, or not a bundle")
    refused(tmp_path, kit, whole + bytes(BLOCK), "does not end|does not start a member")


def test_an_extra_or_a_missing_member_is_named(kit, whole, tmp_path):
    entries = members(whole)
    refused(tmp_path, kit, packed([*entries, ("objects/zz", b"more")]), "has the member 'objects/zz'")
    refused(tmp_path, kit, packed([*entries, ("../../etc/cron.d/x", b"more")]), r"has the member '\.\./\.\./etc/cron.d/x'")
    refused(tmp_path, kit, packed([*entries, ("/etc/passwd", b"more")]), "has the member '/etc/passwd'")
    with_file = next(name for name, data in entries if data == b"licence text\n")
    refused(tmp_path, kit, packed([one for one in entries if one[0] != with_file]), "lacks LICENSE")


def test_a_member_twice_or_out_of_order_is_refused(kit, whole, tmp_path):
    entries = members(whole)
    refused(tmp_path, kit, packed([*entries, entries[-1]]), f"has '{entries[-1][0]}' twice")
    refused(tmp_path, kit, packed([entries[1], entries[0], *entries[2:]]), "first member is not manifest.json")
    refused(tmp_path, kit, packed([entries[0], *reversed(entries[1:])]), "not in order")
    refused(tmp_path, kit, packed([*entries[:2], entries[3], entries[2], *entries[4:]]), "not in order")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "is a symbolic link"),
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.DIRTYPE, "is a folder"),
        (tarfile.FIFOTYPE, "is a pipe"),
        (tarfile.XHDTYPE, "is damaged, or not of a bundle"),
        (tarfile.GNUTYPE_LONGNAME, "is damaged, or not of a bundle"),
        (tarfile.GNUTYPE_SPARSE, "is damaged, or not of a bundle"),
    ],
)
def test_links_devices_folders_and_extensions_are_refused(kit, whole, tmp_path, kind, said):
    entry = tarfile.TarInfo("objects/link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    refused(tmp_path, kit, whole[: -len(END)] + entry.tobuf(tarfile.USTAR_FORMAT) + END, said)


def test_sizes_are_the_manifests_before_anything_is_read(kit, whole, tmp_path):
    """A member that claims gigabytes is refused by its header."""
    entries = members(whole)
    name, data = entries[-1]
    refused(tmp_path, kit, packed([*entries[:-1], (name, data + b"!")]), "bytes, and the manifest says")
    huge = packed(entries[:-1])[: -len(END)] + header(name, 8**11 - 1) + data + bytes(-len(data) % BLOCK) + END
    refused(tmp_path, kit, huge, f"is cut off in '{name}'")
    refused(tmp_path, kit, packed([("manifest.json", bytes(5 << 20))]), "manifest.json has 5242880 bytes, more than")
    many = [(f"manifest.json.{number:016x}.sig", b"") for number in range(40)]
    refused(tmp_path, kit, packed([entries[0], *many, *entries[2:]]), "more than 32 signatures")


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(kit, whole, tmp_path):
    path = tmp_path / "bomb.epb"
    path.write_bytes(packed(members(whole)[:1])[: -len(END)] + header("objects/" + "0" * 64, 8**11 - 1))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="does not start a member"):
        judge(path, kit)


def test_the_manifest_of_another_release_is_refused(kit, whole, tmp_path):
    other = members(kit.bundle("9.0.0", 9, shared=b"licence text\n").read_bytes())
    entries = members(whole)
    refused(tmp_path, kit, packed([other[0], *entries[1:]]), "lacks|which the manifest does not list")
    # even one that lists the same files, but is not what was signed
    manifest = json.loads(entries[0][1]) | {"version": "9.9.9"}
    changed = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    refused(tmp_path, kit, packed([("manifest.json", changed), *entries[1:]]), "is not a signature of this content")


def test_a_bundle_that_is_not_a_file_says_so(tmp_path):
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        Bundle.open(tmp_path / "none.epb")
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        Bundle.open(tmp_path)


def test_writing_checks_the_sizes_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="has 3 bytes, not 4"):
        write_bundle(tmp_path / "x.epb", b"{}", {}, {"0" * 64: (4, lambda: [b"abc"])})
    assert list(tmp_path.iterdir()) == []


# the manifest


def manifest(**fields: object) -> Manifest:
    variant = Variant(Compatibility(("aarch64",), 1, (Runtime("tflite", "ai-edge-litert", ">=2.3,<3"),)), (MODEL,))
    known = {"product": "gadget", "version": "1.4.0", "sequence": 1, "created": "2026-01-01T00:00:00Z", "expires": None}
    return Manifest(**(known | {"variants": {"pi4": variant}} | fields))  # type: ignore[arg-type]


def test_the_manifest_and_its_json_are_one_to_one():
    made = manifest(expires="2027-01-01T00:00:00Z", threshold=2)
    assert Manifest.from_bytes(made.to_bytes()) == made
    assert Manifest.from_bytes(made.to_bytes()).to_bytes() == made.to_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(b" ", b"  ", 1), "canonical form"),
        (lambda text: text[:-1], "canonical form"),
        (lambda text: text.replace(b'"sequence": 1', b'"sequence": 1,\n "sequence": 1'), "canonical form"),
        (lambda text: text.replace(b'"sequence": 1', b'"sequence": true'), "manifest.sequence is true, not a whole number"),
        (lambda text: text.replace(b'"sequence": 1', b'"sequence": "1"'), "manifest.sequence is \"1\", not a whole number"),
        (lambda text: text.replace(b'"sequence": 1', b'"sequence": 0'), "at least 1"),
        (lambda text: text.replace(b'"schema": 1', b'"schema": 2'), "of schema 2, and this edgeprune reads 1"),
        (lambda text: text.replace(b'"threshold": 1', b'"thresholds": 1'), "unknown field 'thresholds'"),
        (lambda text: text.replace(b'"1.4.0"', b'"1.4"'), "the version '1.4' is not of the form"),
        (lambda text: text.replace(b'"1.4.0"', b'"01.4.0"'), "the version '01.4.0' is not of the form"),
        (lambda text: text.replace(b'"path": "model.tflite"', b'"path": "../model.tflite"'), "the path '../model.tflite' is not plain"),
        (lambda text: text.replace(b'"path": "model.tflite"', b'"path": "/model.tflite"'), "is not plain"),
        (lambda text: text.replace(b'"path": "model.tflite"', b'"path": "a/../b"'), "is not plain"),
        (lambda text: text.replace(b'"role": "model"', b'"role": "thing"'), "unknown role 'thing'"),
        (lambda text: text.replace(b'"role": "model"', b'"role": "labels"'), "exactly one file of the role 'model'"),
        (lambda text: text.replace(b'"bytes": 7', b'"bytes": -7'), "has the size -7"),
        (lambda text: text.replace(b'>=2.3,<3', b'two'), "version range 'two'"),
        (lambda text: text.replace(b'2026-01-01T00:00:00Z', b'2026-01-01 00:00:00'), "is not of the form 2026-01-31T12:00:00Z"),
        (lambda text: text.replace(b'2026-01-01T00', b'2026-1-01T00'), "is not of the form 2026-01-31T12:00:00Z"),
        (lambda text: text.replace(b'"aarch64"', b'"\\u001b"'), "architectures[0] is .*, which is not all printable"),
        (lambda text: text.replace(b'"pi4"', b'"pi4\\u001b"'), "is not plain"),
        (lambda text: b"[]\n", "canonical form"),
        (lambda text: b"[" * 100_000, "not JSON"),
        (lambda text: "{\n \"é\": 1\n}\n".encode(), "not JSON"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_right_is_refused_by_field(change: Callable[[bytes], bytes], said: str):
    text = manifest().to_bytes()
    changed = change(text)
    assert changed != text
    with pytest.raises(BundleError, match=said.replace("[", r"\[")):
        Manifest.from_bytes(changed)


def test_a_missing_field_is_named():
    value = json.loads(manifest().to_bytes())
    del value["variants"]["pi4"]["files"][0]["sha256"]
    with pytest.raises(BundleError, match=r"manifest\.variants\.pi4\.files\[0\]\.sha256 is missing"):
        Manifest.from_bytes((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("a.txt", "a.txt"), "a.txt twice"),
        (("a.txt", "A.TXT"), "A.TXT twice"),
        (("a", "a/b"), "a/b, and a file a"),
        (("a/b", "a"), "a as a file and as a folder"),
    ],
)
def test_no_two_files_of_a_device_clash(paths, said):
    files = tuple(file_of(path, path.encode(), "labels") for path in paths)
    with pytest.raises(ValueError, match=said):
        manifest(files=files)


def test_a_health_check_names_files_of_its_variant():
    with pytest.raises(ValueError, match=r"'x\.npy' is not among the files"):
        Variant(Compatibility(), (MODEL,), health=Health(("x.npy",), (), 0.1))


def test_the_same_hash_has_one_size():
    with pytest.raises(ValueError, match="another size"):
        manifest(files=(dataclasses.replace(MODEL, path="other", bytes=8, role="labels"),))


def test_an_unknown_variant_lists_the_known():
    with pytest.raises(BundleError, match="no variant 'pi5'\nVariants: pi4"):
        manifest().files_of("pi5")


def test_expiry_is_exclusive_and_needs_no_clock_of_its_own():
    made = manifest(expires="2026-06-01T00:00:00Z")
    made.check_time(datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(ExpiredError, match=r"gadget 1\.4\.0 expired at 2026-06-01T00:00:00Z"):
        made.check_time(datetime(2026, 6, 1, tzinfo=UTC))
    manifest().check_time(datetime(9999, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="before it was created"):
        manifest(expires="2026-01-01T00:00:00Z")


def test_an_unsigned_bundle_is_not_trusted(kit, tmp_path):
    path = kit.bundle("2.0.0", 5, signed=False)
    with pytest.raises(SignatureError, match="is not signed"):
        judge(path, kit)
