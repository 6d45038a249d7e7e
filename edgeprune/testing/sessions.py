"""What every :class:`~edgeprune.devices.Session` must do.  Inherit from :class:`SessionContract` and give the two fixtures."""

from __future__ import annotations

import hashlib

import pytest

from edgeprune.devices import Session
from edgeprune.errors import DeviceError, DeviceTimeoutError


class SessionContract:
    """Fixtures to give: ``session``, an open session; ``folder``, the path of an empty folder on the device."""

    def test_runs_a_command_with_its_exit_code_and_both_outputs(self, session: Session) -> None:
        done = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    @pytest.mark.parametrize("argument", ["two words", "$HOME", "a'b\"c", "`id`; exit 9", "*", "line\nline", "ä", ""])
    def test_arguments_arrive_as_they_are(self, session: Session, argument: str) -> None:
        assert session.run(["printf", "%s", argument]).stdout == argument.encode()

    def test_input_reaches_the_command_whole(self, session: Session) -> None:
        data = bytes(range(256)) * 4096
        assert session.run(["cat"], data).stdout == data

    def test_lines_are_passed_on_one_by_one(self, session: Session) -> None:
        lines: list[str] = []
        session.run(["sh", "-c", "echo one; echo two; printf three"], on_line=lines.append)
        assert lines == ["one", "two"]

    def test_a_heartbeat_keeps_the_input_open(self, session: Session) -> None:
        done = session.run(["sh", "-c", "read a; read b; echo $a$b."], b"first\n", heartbeat_s=0.1)
        assert done.stdout == b"first.\n"

    def test_a_command_that_takes_too_long_raises(self, session: Session) -> None:
        with pytest.raises(DeviceTimeoutError, match="sleep"):
            session.run(["sleep", "30"], timeout_s=0.3)
        assert session.run(["echo", "alive"]).stdout == b"alive\n"

    def test_a_file_comes_back_as_it_was_put(self, session: Session, folder: str) -> None:
        data = hashlib.sha256(b"seed").digest() * 20_000
        seen: list[tuple[int, int]] = []
        assert session.put(data, f"{folder}/a file", lambda sent, total: seen.append((sent, total)))
        assert session.get(f"{folder}/a file") == data
        assert session.sha256(f"{folder}/a file") == hashlib.sha256(data).hexdigest()
        assert seen[-1] == (len(data), len(data))

    def test_an_empty_file_can_be_put(self, session: Session, folder: str) -> None:
        session.put(b"", f"{folder}/empty")
        assert session.get(f"{folder}/empty") == b""

    def test_content_that_is_there_is_not_sent_again(self, session: Session, folder: str) -> None:
        assert session.put(b"content", f"{folder}/file") is True
        assert session.put(b"content", f"{folder}/file") is False
        assert session.put(b"another", f"{folder}/file") is True
        assert session.get(f"{folder}/file") == b"another"

    def test_nothing_temporary_is_left(self, session: Session, folder: str) -> None:
        session.put(b"content", f"{folder}/file")
        with pytest.raises(DeviceError, match="missing"):
            session.put(b"content", f"{folder}/missing/file")
        assert session.run(["ls", "-A", folder]).stdout == b"file\n"

    def test_remove_exists_mkdir(self, session: Session, folder: str) -> None:
        session.mkdir(f"{folder}/x/y")
        session.mkdir(f"{folder}/x/y")
        assert session.exists(f"{folder}/x/y")
        session.put(b"1", f"{folder}/x/y/z")
        session.remove(f"{folder}/x/y/z")
        session.remove(f"{folder}/x/y/z")
        assert not session.exists(f"{folder}/x/y/z")

    def test_a_missing_file_is_named(self, session: Session, folder: str) -> None:
        assert session.sha256(f"{folder}/none") is None
        with pytest.raises(DeviceError, match="none"):
            session.get(f"{folder}/none")

    def test_closing_twice_is_not_an_error(self, session: Session) -> None:
        session.close()
        session.close()

    def test_commands_run_side_by_side(self, session: Session) -> None:
        first = session.start(["cat"])
        assert session.run(["echo", "beside"]).stdout == b"beside\n"
        first.write(b"still here\n")
        first.close_input()
        assert first.follow(10).stdout == b"still here\n"
