"""Odd inputs of a release: each is refused by one message, before anything of the user's is lost."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from release_kit import Kit, make_key
from release_runs import make_run

from edgeprune.cli import main
from edgeprune.errors import BundleError, GateError, InputError, SignatureError
from edgeprune.release import Bundle, Gate, Manifest
from edgeprune.release.build.build import build
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.release.bundle.codec import canonical
from edgeprune.release.bundle.sign import sign
from edgeprune.release.bundle.signers import read_signers
from edgeprune.release.bundle.unpack import unpack

ROOT = Path(__file__).parents[2]


def order(run: Path, **fields: object) -> BuildSpec:
    return BuildSpec(**({"runs": {"pi4": run}, "version": "1.0.0"} | fields))  # type: ignore[arg-type]


# build


def test_an_expiry_beyond_all_calendars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beyond the year 9999"):
        order(tmp_path, expires="9999y")


@pytest.mark.parametrize("label", ["two\nlines", "two\rlines", "two\u2028lines", "", "ends\n"])
def test_labels_are_lines_however_a_program_splits_them(tmp_path: Path, label: str) -> None:
    with pytest.raises(InputError, match="a label of the task is empty or has several lines"):
        build(order(make_run(tmp_path / "run", labels=["fine", label])), tmp_path / "x.epb")


def test_preprocessing_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preprocessing is not JSON"):
        build(order(make_run(tmp_path / "run", preprocessing={"mean": [float("nan")]})), tmp_path / "x.epb")


@pytest.mark.parametrize("fields", [{"runtime_version": "2\x1b[31m"}, {"energy_method": "a\nmeter"}])
def test_nothing_is_built_that_no_reader_takes(tmp_path: Path, fields: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"cannot be built: .* not all printable"):
        build(order(make_run(tmp_path / "run", **fields)), tmp_path / "x.epb")
    assert not (tmp_path / "x.epb").exists()


def test_a_sequence_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sequence is 10*, not a whole number"):
        build(order(make_run(tmp_path / "run"), sequence=10**30), tmp_path / "x.epb")


def test_the_run_and_a_variant_default_are_one_too_many(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert main(["release", "build", str(run), "--variants", f"default={run}", "--version", "1.0.0"]) == 2


def test_a_size_is_known_without_a_device(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", device=None)
    with Bundle.open(build(order(run, gates=["size:1MB"]), tmp_path / "x.epb")) as bundle:
        assert bundle.manifest.variants["pi4"].gates == (Gate("size", 1e6),)
    with pytest.raises(GateError, match="size:100B is not met: the file has"):
        build(order(run, gates=["size:100B"]), tmp_path / "x.epb")


# bundles and signers


@pytest.mark.parametrize("where", [("gates", 0, "limit"), ("compatibility", "min_memory_bytes")])
def test_a_number_without_end_is_refused_by_field(tmp_path: Path, where: tuple[str | int, ...]) -> None:
    with Bundle.open(Kit(tmp_path).bundle("1.0.0", 1, {"any": {"gates": (Gate("latency", 5.0),)}})) as bundle:
        value = json.loads(bundle.manifest_bytes)
    inner = value["variants"]["any"]
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = 10**400
    with pytest.raises(BundleError, match=f"{where[-1]} is 1000"):
        Manifest.from_bytes(canonical(value))


def test_a_signed_bundle_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    bundle = kit.bundle("1.0.0", 1)
    with pytest.raises(BundleError, match="cannot be written: Not a directory"):
        sign(bundle, kit.key, bundle / "x.epb")


def test_a_time_before_all_calendars_is_refused_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, key = Path(f"{make_key(tmp_path / 'key')}.pub").read_text().split()[:2]
    (tmp_path / "signers").write_text(f'a@example.org valid-after="00010101" {kind} {key}\n')
    try:
        datetime(1, 1, 1).astimezone()
    except (ValueError, OverflowError):
        with pytest.raises(SignatureError, match="signers:1 has the time '00010101'"):
            read_signers(tmp_path / "signers")
    else:
        assert read_signers(tmp_path / "signers")[0].refusal("any", datetime.now(UTC)) is None


# unpack


def unpacked(kit: Kit, folder: Path | str, **fields: object) -> Path:
    with Bundle.open(kit.bundle("1.0.0", 1, **fields)) as bundle:  # type: ignore[arg-type]
        return unpack(bundle, None, Path(folder))


def test_a_folder_with_something_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    kit, folder = Kit(tmp_path), tmp_path / "app"
    folder.mkdir()
    for name in ("release.json", "source.c"):
        (folder / name).write_text("{}")
    with pytest.raises(InputError, match=r"holds release\.json, which is not part of a release"):
        unpacked(kit, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["release.json", "source.c"]
    for path in folder.iterdir():
        path.unlink()
    unpacked(kit, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        unpacked(kit, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_folder_may_be_this_one_or_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    unpacked(Kit(tmp_path), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/model.tflite").is_file()
    monkeypatch.chdir(tmp_path / "real")
    unpacked(Kit(tmp_path), ".")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="which is not part of a release"):
        unpacked(Kit(tmp_path), ".")


# without Python


def check(folder: Path, kit: Kit, *more: str) -> tuple[int, str]:
    command = ["sh", str(ROOT / "deploy/verify.sh"), str(folder), str(kit.allowed), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def two(tmp_path: Path) -> tuple[Kit, Path]:
    """A release of two variants, one of them unpacked."""
    kit = Kit(tmp_path)
    with Bundle.open(kit.bundle("1.0.0", 1, {"pi4": {}, "pi5": {}}, contents={"more/other.bin": b"other"})) as bundle:
        return kit, unpack(bundle, "pi5", tmp_path / "out")


def drop_sum(folder: Path, name: str) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))


def test_a_changed_file_that_the_unsigned_lists_leave_out_is_seen(two: tuple[Kit, Path]) -> None:
    kit, folder = two
    assert check(folder, kit) == (0, "")
    (folder / "model.tflite").write_bytes(b"another")
    drop_sum(folder, "model.tflite")
    code, said = check(folder, kit)
    assert (code, "a file is damaged" in said) == (1, True)


def test_a_file_under_the_name_of_another_is_seen(two: tuple[Kit, Path]) -> None:
    kit, folder = two
    (folder / "model.tflite").write_bytes((folder / "labels.txt").read_bytes())
    drop_sum(folder, "model.tflite")
    assert check(folder, kit)[0] == 1


def test_a_file_too_many_is_named(two: tuple[Kit, Path]) -> None:
    kit, folder = two
    (folder / "more/evil file").write_bytes(b"evil")
    code, said = check(folder, kit)
    assert (code, "more/evil file is not in the manifest" in said) == (1, True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"model": "model.tflite"', '"model": "/tmp/evil"'),
        ('"model": "model.tflite"', '"model": "labels.txt"'),
        ('"variant": "pi5"', '"variant": "none"'),
        ('"model": "model.tflite",', '"model": "model.tflite",\n "mod\\u0065l": "/tmp/evil",'),
        ('"model": "model.tflite",', '"model": "model.tflite",\n "model" : "/tmp/evil",'),
    ],
)
def test_another_model_by_the_unsigned_description_is_seen(two: tuple[Kit, Path], old: str, new: str) -> None:
    kit, folder = two
    text = (folder / "release.json").read_text()
    (folder / "release.json").write_text(text.replace(old, new))
    assert text != text.replace(old, new)
    code, said = check(folder, kit)
    assert (code, "release.json" in said) == (1, True)


def test_the_threshold_of_the_manifest_counts_too(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    run = make_run(tmp_path / "run")
    path = build(order(run, threshold=2), tmp_path / "x.epb")
    sign(path, kit.key)
    script = re.search(r"```sh\n(.*?)```", (ROOT / "docs/release.md").read_text(), re.DOTALL)
    assert script is not None
    command = ["sh", "-c", script[1], "check-release", str(path), str(kit.allowed), "release@example.org", str(tmp_path / "checked")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "asks for 2 signers" in done.stderr) == (1, True)
    with Bundle.open(path) as bundle:
        folder = unpack(bundle, None, tmp_path / "out")
    code, said = check(folder, kit)
    assert (code, "1 of 2 signers" in said) == (1, True)
