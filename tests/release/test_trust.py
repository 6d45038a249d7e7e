"""What a device keeps to: its signers, expiry and highest version hold for a rollback as for a push; a damaged state is refused; a command
that hangs is ended."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from release_kit import Kit, make_key

from edgeprune.cli import main
from edgeprune.devices import Target
from edgeprune.errors import BundleError, ExpiredError, HealthError, SignatureError
from edgeprune.release import Bundle, Manifest
from edgeprune.release.bundle.manifest import format_time
from edgeprune.release.bundle.sign import sign
from edgeprune.release.deploy import push as pushing
from edgeprune.release.deploy.installed import rollback, status
from edgeprune.release.deploy.push import PushOptions, push

LOCAL = Target("local:", "local:")


class Device:
    """This machine as a device, below ``base``."""

    def __init__(self, folder: Path) -> None:
        self.kit, self.base = Kit(folder), f"{folder}/releases"
        self.root = Path(self.base) / "gadget"

    def push(self, bundle: Path, **options: Any) -> None:
        given = {"signers": self.kit.allowed, "base": self.base} | options
        with Bundle.open(bundle) as opened:
            push(opened, LOCAL, PushOptions(**given))

    def rollback(self, **options: Any) -> str | None:
        return rollback(LOCAL, base=self.base, **options).version

    @property
    def used(self) -> str | None:
        return status(LOCAL, self.base)[0].current

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "state.json").read_text())
        return found


@pytest.fixture
def device(client_home: Path, tmp_path: Path) -> Device:
    return Device(tmp_path)


def signed_by(device: Device, key: str, version: str, sequence: int, **fields: Any) -> Path:
    bundle = device.kit.bundle(version, sequence, signed=False, **fields)
    sign(bundle, make_key(device.kit.folder / key))
    return bundle


def allowed(device: Device, *keys: str) -> Path:
    path = device.kit.folder / f"{'-'.join(keys)}.signers"
    path.write_text("".join(Path(f"{make_key(device.kit.folder / key)}.allowed").read_text() for key in keys))
    return path


def test_a_rollback_needs_signers_that_the_device_still_allows(device: Device) -> None:
    device.push(signed_by(device, "old", "1.0.0", 1), signers=allowed(device, "old"))
    both = signed_by(device, "new", "1.1.0", 2)
    device.push(both, signers=allowed(device, "new"), replace_signers=True)
    with pytest.raises(SignatureError, match="accepts 0 of the 1 signers"):
        device.rollback()
    assert (device.used, device.state()["pending"]) == ("1.1.0", None)
    device.push(signed_by(device, "new", "1.2.0", 3), signers=allowed(device, "new"))
    assert device.rollback() == "1.1.0"


def test_a_rollback_to_what_has_expired_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    device.push(device.kit.bundle("1.0.0", 1, expires=format_time(soon)))
    device.push(device.kit.bundle("1.1.0", 2))
    assert device.rollback() == "1.0.0"
    assert device.rollback(version="1.1.0") == "1.1.0"
    later = time.time() + 7200
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: later)
        with pytest.raises(ExpiredError, match=r"release 1\.0\.0 expired at"):
            device.rollback()
    state = device.state() | {"latest_s": int(later)}  # the device itself has seen a later time than this machine's clock tells
    (device.root / "state.json").write_text(json.dumps(state))
    with pytest.raises(ExpiredError, match=r"release 1\.0\.0 expired at"):
        device.rollback()
    assert device.used == "1.1.0"


DAMAGED: dict[str, Any] = {
    "empty": "{}",
    "a newer schema": {"schema": 2},
    "a schema that is not a number": {"schema": True},
    "a field too few": {"latest_s": None},
    "a field too many": {"more": 1},
    "a text for a number": {"latest_s": "0"},
    "a number for a version": {"committed": 5},
    "a path for a version": {"previous": "../../etc"},
    "a text for the highest": {"highest": "1.1.0"},
    "a highest without a sequence": {"highest": {"version": "1.1.0", "manifest": "0"}},
    "a sequence that is a text": {"highest": {"version": "1.1.0", "manifest": "0", "sequence": "2"}},
    "nested": "[" * 3000 + "]" * 3000,
    "a long number": '{"schema": ' + "1" * 5000 + "}",
    "no text": b"\xff\xfe",
}


def damaged(device: Device, change: str | bytes | dict[str, Any]) -> bytes:
    """What a state file holds after that change."""
    if isinstance(change, dict):
        changed = device.state() | change
        if change == {"latest_s": None}:
            del changed["latest_s"]
        change = json.dumps(changed)
    return change if isinstance(change, bytes) else change.encode()


def refused(device: Device, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """``command`` ends with one message that names the state file, and leaves the file as it is."""
    before = (device.root / "state.json").read_bytes()
    assert main(["release", *command, "--target", "local", "--root", device.base]) == 1
    said = capsys.readouterr().err
    assert "state.json" in said
    assert "Traceback" not in said
    assert "fault of edgeprune" not in said
    assert (device.root / "state.json").read_bytes() == before


def test_every_state_that_is_not_as_it_was_written_is_refused(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device.push(device.kit.bundle("1.1.0", 2))
    path = device.root / "state.json"
    whole = path.read_bytes()
    for change in DAMAGED.values():
        path.write_bytes(damaged(device, change))
        refused(device, ["rollback"], capsys)
        path.write_bytes(whole)


def test_no_command_takes_a_damaged_state_and_without_one_older_releases_stay_refused(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.push(device.kit.bundle("1.1.0", 2))
    path = device.root / "state.json"
    path.write_text(DAMAGED["empty"])
    older = device.kit.bundle("1.0.0", 1)
    commands = (["status"], ["rollback"], ["prune"], ["push", str(older), "--allowed-signers", str(device.kit.allowed)])
    for command in commands:
        refused(device, command, capsys)
    path.unlink()  # as the message says
    assert main(["release", *commands[-1], "--target", "local", "--root", device.base]) == 1
    assert "has had release 1.1.0 of sequence 2" in capsys.readouterr().err
    device.push(device.kit.bundle("1.2.0", 3))
    assert device.used == "1.2.0"


def test_a_stolen_key_cannot_end_updates_for_ever(device: Device) -> None:
    """TUF, 5.3.11: what only a removed key has signed does not stand in the way of what the new ones sign."""
    device.push(signed_by(device, "stolen", "1.0.0", 1), signers=allowed(device, "stolen", "kept"))
    device.push(signed_by(device, "kept", "1.1.0", 2))
    device.push(signed_by(device, "stolen", "9.0.0", 2**63 - 1))
    ours = signed_by(device, "kept", "1.2.0", 3)
    with pytest.raises(Exception, match=r"has had release 9\.0\.0"):
        device.push(ours)
    with pytest.raises(Exception, match=r"has had release 9\.0\.0"):
        device.push(ours, signers=allowed(device, "stolen", "kept"), replace_signers=True)  # the key is still among them
    older = signed_by(device, "kept", "1.0.5", 1)
    with pytest.raises(Exception, match=r"has had release 1\.1\.0 of sequence 2"):  # which a key signed that is still allowed
        device.push(older, signers=allowed(device, "kept"), replace_signers=True)
    assert device.used == "9.0.0"
    device.push(ours, signers=allowed(device, "kept"), replace_signers=True)
    assert (device.used, device.state()["highest"]["sequence"]) == ("1.2.0", 3)
    with pytest.raises(SignatureError):
        device.rollback(version="9.0.0")
    device.push(signed_by(device, "kept", "1.3.0", 4))
    assert device.rollback() == "1.2.0"


def test_a_highest_that_an_allowed_key_signed_stands_whatever_signers_come(device: Device) -> None:
    device.push(signed_by(device, "one", "2.0.0", 9), signers=allowed(device, "one"))
    with pytest.raises(Exception, match=r"has had release 2\.0\.0"):
        device.push(signed_by(device, "two", "1.0.0", 1), signers=allowed(device, "one", "two"), replace_signers=True)


def alive(pid: str) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_command_that_hangs_is_ended_with_what_it_started_and_not_run_again(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.push(device.kit.bundle("1.0.0", 1))
    monkeypatch.setattr(pushing, "_AFTER_S", 1.0)
    hang = f"echo run >> {tmp_path}/runs; sleep 600 & echo $! > {tmp_path}/pid; trap '' TERM; sleep 600"
    with pytest.raises(HealthError, match=r"went back to 1\.0\.0: .* did not end within 1 s, and was ended; it was not run again"):
        device.push(device.kit.bundle("1.1.0", 2), after=hang)
    assert (tmp_path / "runs").read_text() == "run\n"
    assert not alive((tmp_path / "pid").read_text().strip())
    assert device.used == "1.0.0"
    device.push(device.kit.bundle("1.2.0", 3))
    with pytest.raises(HealthError, match=r"stayed with 1\.2\.0: .*was not run again"):
        device.rollback(after=hang)
    assert (tmp_path / "runs").read_text() == "run\nrun\n"
    assert device.used == "1.2.0"


def test_a_command_that_fails_is_run_again_for_what_is_in_use(device: Device, tmp_path: Path) -> None:
    device.push(device.kit.bundle("1.0.0", 1))
    fails = f"cat labels.txt >> {tmp_path}/runs; printf 'why\\033[31m' >&2; exit 7"
    with pytest.raises(HealthError) as caught:
        device.push(device.kit.bundle("1.1.0", 2), after=fails)
    assert "ended with exit code 7: why\\x1b[31m" in caught.value.message
    assert "run again for the release that is in use, it ended with exit code 7" in caught.value.message
    assert (tmp_path / "runs").read_text() == "labels 2\nlabels 1\n"


def test_a_service_that_a_command_starts_continues(device: Device, tmp_path: Path) -> None:
    device.push(device.kit.bundle("1.0.0", 1), after=f"sleep 600 > /dev/null 2>&1 & echo $! > {tmp_path}/pid")
    pid = (tmp_path / "pid").read_text().strip()
    assert alive(pid)
    os.kill(int(pid), 9)


def test_a_product_may_be_called_as_the_program_but_not_as_its_file(device: Device) -> None:
    device.push(device.kit.bundle("1.0.0", 1, product="activator"))
    device.push(device.kit.bundle("1.1.0", 2, product="activator"))
    assert device.rollback(product="activator") == "1.0.0"
    manifest = device.kit.bundle("1.0.0", 1, product="activator-pyz")
    with Bundle.open(manifest) as opened, pytest.raises(BundleError, match=r"'activator\.pyz' is taken"):
        Manifest.from_bytes(opened.manifest_bytes.replace(b"activator-pyz", b"activator.pyz"))
