"""What a login shell prints is never taken for a command's output, wherever it comes; a shell that runs nothing is named."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from login_shells import HARMLESS

from edgeprune.cli import main
from edgeprune.devices import Session, connect
from edgeprune.devices import process as processes
from edgeprune.devices.framing import Kept, LineReader, Opening, login_line, new_mark
from edgeprune.devices.pythons import discover
from edgeprune.errors import DeviceError, LoginShellError
from edgeprune.testing.sshd import SshServer

ARGUMENTS = [
    "two words",
    "$HOME",
    "a'b\"c",
    "`id`; exit 9",
    "*",
    "line\n\nline\n",
    "ä",
    "",
    "!!",
    "100%s",
    "back\\slash\\n\\\\",
    "\t\x07\x1b[31m",
]
SHELLS = ["sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "mksh", "ksh", "busybox sh"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_hands_a_command_on_as_it_is(shell: str) -> None:
    program, *rest = shell.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    mark = new_mark()
    line = login_line(["printf", r"%s\n", *ARGUMENTS, "x" * 5000], mark)
    done = subprocess.run([program, *rest, "-c", line], capture_output=True, check=False)
    outputs = [Opening(mark, "stdout").feed(done.stdout), Opening(mark, "stderr").feed(done.stderr)]
    assert (done.returncode, outputs) == (0, ["\n".join([*ARGUMENTS, "x" * 5000, ""]).encode(), b""])


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_opening_is_found_however_it_is_cut(size: int) -> None:
    opening = Opening("mark", "stdout")
    said = b"Welcome\nmark-stdout is here\n\x1b[31mno newline\nmark-stdout\nthe command's\nmark-stdout\nown"
    passed = b"".join(opening.feed(said[place : place + size]) for place in range(0, len(said), size))
    assert passed == b"the command's\nmark-stdout\nown"
    assert opening.said == b"Welcome\nmark-stdout is here\n\x1b[31mno newline"


def test_lines_without_the_mark_are_passed_over() -> None:
    reader = LineReader("ssh://pi", "mark-1")
    lines = reader.feed(b"tick\nmark-1{}\ntick") + reader.feed(b"mark-") + reader.feed(b'1{"a": 1}\nmark-2{}\n\xff\xfe\nmark-1')
    assert lines == ["{}", '{"a": 1}']


def test_what_is_said_without_end_is_refused_not_kept() -> None:
    reader, most = LineReader("ssh://pi", "mark-1"), 0

    def flood() -> None:
        nonlocal most
        for _ in range(2000):
            reader.feed(b"y" * (1 << 16))
            most = max(most, sum(map(len, reader._parts)))

    with pytest.raises(DeviceError, match="ssh://pi keeps sending output"):
        flood()
    assert most < 4 << 20
    kept = Kept("ssh://pi", most=1000)
    with pytest.raises(DeviceError, match="ssh://pi keeps sending output"):
        kept.feed(b"y" * 1001)
    ends = Kept("ssh://pi", most=1000, ends=True)
    for piece in (b"first\n", b"y" * 100_000, b"\nlast"):
        ends.feed(piece)
    assert len(ends.content) <= 1000
    assert ends.content.startswith(b"first\n")
    assert ends.content.endswith(b"\nlast")


def test_a_command_that_floods_is_ended_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    flood = ["sh", "-c", "while :; do printf '%1048576d' 1; done"]
    with connect("local:") as session:
        with pytest.raises(DeviceError, match="keeps sending output"):
            session.run(flood)
        with pytest.raises(DeviceError, match="keeps sending output"):
            session.run(flood, on_line=lambda line: None, mark="mark-1")


def own_bash(server: SshServer, shell: str = "/bin/bash") -> None:
    if server._made_user:
        subprocess.run(["usermod", "--shell", shell, server.user], check=True, capture_output=True)


def end_all(server: SshServer, *names: str) -> None:
    """End the programs of these names that the server's user runs."""
    for name in names:
        subprocess.run(["pkill", "-9", "-u", server.user, "-x", name], check=False)


@pytest.fixture
def bash(sshd: SshServer) -> Iterator[Path]:
    """The start-up file of the server's user, whose shell is bash."""
    if not sshd._made_user:
        pytest.skip("needs an account of its own, which root makes")
    own_bash(sshd)
    yield sshd.home / ".bashrc"
    (sshd.home / ".bashrc").unlink(missing_ok=True)
    own_bash(sshd, "/bin/sh")


@pytest.mark.parametrize("line", HARMLESS.values(), ids=HARMLESS)
def test_what_bash_starts_with_is_not_output_of_a_command(line: str, sshd: SshServer, bash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LINGER_S", 1.0)
    bash.write_text(line + "\n")
    sshd.own(bash)
    name = f"{sshd.home}/{uuid.uuid4().hex}"
    content = name.encode() * 1000
    with connect("ssh://box") as session:
        assert discover(session, ["python3"]).home == str(sshd.home)
        if "while" not in line:  # what runs beside the command writes between what it writes
            done = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
            assert (done.code, done.stdout) == (3, b"out\n" + (b"err\n" if "2>&1" in line else b""))
        assert session.put(content, name) is True
        assert session.put(content, name) is False
    assert Path(name).read_bytes() == content
    end_all(sshd, "bash")


def refused(session: Session) -> LoginShellError:
    with pytest.raises(LoginShellError) as caught:
        session.run(["true"])
    assert session.address in caught.value.message
    return caught.value


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
def test_a_shell_that_ends_early_is_named(line: str, told: str, sshd: SshServer, bash: Path) -> None:
    bash.write_text(line + "\n")
    sshd.own(bash)
    with connect("ssh://box") as session:
        error = refused(session)
    assert told in error.message.replace("\\\\", "\\")
    assert ".bashrc" in str(error.remedy)


@pytest.mark.parametrize("line", ["sleep 600", "read answer", "exec cat", "yes"])
def test_a_shell_that_hangs_is_named(line: str, sshd: SshServer, bash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_LIMIT_S", 1.0)
    bash.write_text(f"echo starting\n{line}\n")
    sshd.own(bash)
    with connect("ssh://box") as session:
        error = refused(session)
    assert "ran no command within 1 s; it said 'starting" in error.message
    assert "input" in str(error.remedy)
    end_all(sshd, "bash", "sleep", "cat", "yes")


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false", "/bin/rbash"])
def test_a_shell_that_runs_nothing_is_named(shell: str, sshd: SshServer, bash: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_bash(sshd, shell)
    assert main(["probe", "ssh://box"]) != 0
    said = capsys.readouterr().err
    assert "the login shell of ssh://box ended with exit code 1 before it ran a command" in said
    assert "nologin" in said
