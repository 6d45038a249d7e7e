"""What an Android device's or a small Linux's shell prints behind adb is no output of a command; a shell that runs nothing is named."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board.adbd import Adbd
from login_shells import HARMLESS

from edgeprune.cli import main
from edgeprune.devices import connect
from edgeprune.devices import process as processes
from edgeprune.devices.adb import AdbSession, open_adb
from edgeprune.devices.address import parse_address
from edgeprune.devices.framing import Ending
from edgeprune.errors import ConnectionLostError, DeviceError, LoginShellError


@pytest.fixture
def small_linux(adb_server: None, tmp_path: Path) -> Iterator[Callable[[str], Adbd]]:
    """Makes a device behind adb whose shell is bash, with these lines in its start-up file."""
    made: list[Adbd] = []

    def make(lines: str, shell: str = "/bin/bash") -> Adbd:
        made.append(Adbd(tmp_path / "board"))
        made[0].shell, made[0].started_with = shell, tmp_path / "startup"
        made[0].started_with.write_text(lines + "\n")
        return made[0]

    yield make
    for device in made:
        subprocess.run(["adb", "disconnect", device.serial], capture_output=True, check=False)
        device.close()


@pytest.mark.device
@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_what_the_shell_starts_with_is_no_output_of_a_command(
    line: str, small_linux: Callable[[str], Adbd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_LINGER_S", 1.0)
    device = small_linux(line.replace("while :;", "for each in $(seq 300);"))
    name = f"{device.folder}/{uuid.uuid4().hex}"
    content = name.encode() * 1000
    with connect(f"adb:{device.serial}") as session:
        if "while" not in line:  # what runs beside the command writes between what it writes
            done = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
            assert (done.code, done.stdout) == (3, b"out\n" + (b"err\n" if "2>&1" in line else b""))
        assert session.run(["sh", "-c", "kill -9 $$"]).code == -9
        assert session.run(["true"]).code == 0
        assert session.put(content, name) is True
        assert session.put(content, name) is False
    assert Path(name).read_bytes() == content


@pytest.mark.device
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("exit 0", "exit code 0 before it ran a command; it said nothing"),
        ("echo 'no \x1b[5mentry'; exit 7", r"exit code 7 before it ran a command; it said 'no \x1b[5mentry'"),
        ("exec false", "exit code 1"),
        ("kill -9 $$", "before it ran a command"),
        ("PATH=/nowhere", "exit code 127"),
    ],
)
def test_a_shell_that_ends_early_is_named(line: str, told: str, small_linux: Callable[[str], Adbd]) -> None:
    device = small_linux(line)
    with connect(f"adb:{device.serial}") as session, pytest.raises(LoginShellError) as caught:
        session.run(["true"])
    assert device.serial in caught.value.message
    assert told in caught.value.message.replace("\\\\", "\\")
    assert "adb shell uname" in str(caught.value.remedy)


@pytest.mark.device
@pytest.mark.parametrize("line", ["sleep 20", "read answer", "exec cat", "timeout 20 yes"])
def test_a_shell_that_hangs_is_named(line: str, small_linux: Callable[[str], Adbd], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_LIMIT_S", 1.0)
    device = small_linux(f"echo starting\n{line}\n")
    with connect(f"adb:{device.serial}") as session, pytest.raises(LoginShellError) as caught:
        session.run(["true"])
    assert "ran no command within 1 s; it said 'starting" in caught.value.message
    assert "adb shell true" in str(caught.value.remedy)


@pytest.mark.device
@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false"])
def test_a_shell_that_runs_nothing_is_named(shell: str, small_linux: Callable[..., Adbd], capsys: pytest.CaptureFixture[str]) -> None:
    device = small_linux("", shell)
    assert main(["probe", f"adb:{device.serial}"]) == 1
    assert f"the login shell of adb:{device.serial} ended with exit code 1 before it ran a command" in capsys.readouterr().err


@pytest.mark.device
def test_output_without_an_end_is_refused(small_linux: Callable[[str], Adbd]) -> None:
    device = small_linux("")
    with connect(f"adb:{device.serial}") as session, pytest.raises(DeviceError, match="keeps sending output"):
        session.run(["sh", "-c", "head -c 100000000 /dev/zero"])


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_end_of_a_command_is_found_however_it_is_cut(size: int) -> None:
    ending = Ending("end-1234")
    said = b"one\nend-1234 $?\nend-12\nno newline, end-12end-1234 7\nend\n of others"
    passed = b"".join(ending.feed(said[place : place + size]) for place in range(0, len(said), size)) + ending.end()
    assert (passed, ending.code) == (b"one\nend-1234 $?\nend-12\nno newline, end-12end\n of others", 7)


def fake(tmp_path: Path, script: str) -> str:
    client = tmp_path / "adb"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    return str(client)


def test_a_device_that_goes_before_its_shell_ran_is_lost(tmp_path: Path) -> None:
    client = fake(tmp_path, 'case "$1" in get-state) echo "error: device not found" >&2;; *) exit 0;; esac')
    with pytest.raises(ConnectionLostError, match="it ended without a message"):
        AdbSession("adb:1A2B", [client]).run(["true"])


def test_adbs_server_may_be_started_by_the_first_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "echo '* daemon not running; starting now at tcp:5037' >&2; echo '* daemon started successfully' >&2"
    fake(tmp_path, f'{said}; case "$3" in get-state) echo device;; features) echo shell_v2;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert open_adb(parse_address("adb:1A2B"), 5.0).address == "adb:1A2B"
