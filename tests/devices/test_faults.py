"""What goes wrong between here and a device: keys, links, disks, other users, deaths."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from board.watching import runners, sessions, wait_until

from edgeprune.bench import Artifact, BenchOptions, open_device
from edgeprune.devices import connect, open_runner
from edgeprune.errors import (
    AuthenticationError,
    ConnectionLostError,
    DeviceBusyError,
    DeviceFullError,
    EdgepruneError,
    HostKeyError,
    RunnerError,
    TransientError,
    UnreachableError,
)
from edgeprune.testing.sshd import SshServer, children

LONG = BenchOptions(threads=1, min_time_s=60, max_time_s=90, energy=False)


# keys


def test_an_unknown_host_key_shows_its_fingerprint_and_the_command_that_accepts_it(sshd: SshServer, client_home: Path) -> None:
    known = client_home / ".ssh/known_hosts"
    known.unlink()
    with pytest.raises(HostKeyError, match="unknown") as caught:
        connect(sshd.address)
    told = subprocess.run(["ssh-keygen", "-lf", str(sshd.base / "host_key.pub")], capture_output=True, text=True, check=True).stdout
    assert told.split()[1] in caught.value.message
    command = str(caught.value.remedy).rpartition("accept it: ")[2]
    assert not known.exists()
    subprocess.run(command, shell=True, check=True, capture_output=True)
    connect(sshd.address).close()


def test_a_changed_host_key_is_distinguished_from_an_unknown_one(sshd: SshServer, client_home: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    other = (tmp_path / "other.pub").read_text().split()[1]
    (client_home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{sshd.port} ssh-ed25519 {other}\n")
    with pytest.raises(HostKeyError, match="has changed") as caught:
        connect(sshd.address)
    assert "ssh-keygen" in str(caught.value.remedy)
    assert "-R" in str(caught.value.remedy)


def test_known_hosts_of_the_address_come_first(sshd: SshServer, client_home: Path, tmp_path: Path) -> None:
    (client_home / ".ssh/known_hosts").unlink()
    (tmp_path / "hosts").write_text(sshd.host_key)
    connect(f"{sshd.address}?known_hosts={tmp_path}/hosts").close()


def test_a_host_key_known_by_an_alias(sshd: SshServer, client_home: Path) -> None:
    """HostKeyAlias of ssh_config(5): a board keeps its key under one name, whatever its address."""
    ssh, key = client_home / ".ssh", sshd.host_key.partition(" ")[2]
    (ssh / "config").write_text(f"Host box\n  HostKeyAlias my-board\n{(ssh / 'config').read_text().partition(chr(10))[2]}")
    (ssh / "known_hosts").write_text(f"my-board {key}")
    connect("ssh://box").close()
    (ssh / "known_hosts").write_text(sshd.host_key)  # its address alone does not count
    with pytest.raises(HostKeyError, match="host key of my-board is unknown") as caught:
        connect("ssh://box")
    subprocess.run(str(caught.value.remedy).rpartition("accept it: ")[2], shell=True, check=True, capture_output=True)
    assert (ssh / "known_hosts").read_text() == sshd.host_key + f"my-board {key}"
    connect("ssh://box").close()


def test_a_refused_key_says_so(sshd: SshServer, client_home: Path) -> None:
    key = client_home / ".ssh/id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {key}\n")
    with pytest.raises(AuthenticationError, match="refused every key") as caught:
        connect(sshd.address)
    assert "ssh-copy-id" in str(caught.value.remedy)


def test_an_encrypted_key_points_to_the_agent(sshd: SshServer, client_home: Path) -> None:
    key = client_home / ".ssh/locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {key}\n")
    with pytest.raises(AuthenticationError, match="encrypted") as caught:
        connect(sshd.address)
    assert "ssh-add" in str(caught.value.remedy)


def test_a_jump_host_and_an_included_file_of_the_configuration(sshd: SshServer, client_home: Path) -> None:
    ssh = client_home / ".ssh"
    (ssh / "more").write_text(f"Host inner\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  ProxyJump box\n")
    (ssh / "config").write_text("Include more\n" + (ssh / "config").read_text())
    with connect("ssh://inner") as session:
        assert session.run(["echo", "through"]).stdout == b"through\n"
        assert len(sshd.connections()) >= 2


# links


def test_nobody_listens(client_home: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="refused"):
            connect(f"ssh://u@127.0.0.1:{held.getsockname()[1]}", retries=0)


def test_an_unknown_host_name(client_home: Path) -> None:
    with pytest.raises(UnreachableError, match=r"host\.invalid"):
        connect("ssh://u@host.invalid", retries=0)


@pytest.mark.parametrize("greeting", [b"", b"220 mail server\r\n"])
def test_something_else_answers_or_nothing_does(client_home: Path, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer = server.accept()[0]
            peer.sendall(greeting)
            time.sleep(1.5)
            peer.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UnreachableError, match="ended the connection"):
            connect(f"ssh://u@127.0.0.1:{server.getsockname()[1]}", timeout_s=0.5, retries=0)


def test_an_unreachable_device_is_tried_again(client_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*arguments: object, **_: object) -> socket.socket:
        tried.append(arguments)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(UnreachableError):
        connect("ssh://u@127.0.0.1:2", retries=2)
    assert len(tried) == 3


@pytest.mark.device
def test_a_link_cut_in_the_middle_of_a_run(own_sshd: SshServer, dense_model: Path) -> None:
    device = open_device(own_sshd.address, retries=0)
    failures: list[EdgepruneError] = []

    def measure() -> None:
        try:
            device.measure([Artifact(dense_model)], LONG)
        except EdgepruneError as error:
            failures.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    wait_until(lambda: len(runners(own_sshd.home)) >= 3)  # the lock's holder, the runner, the model's process
    own_sshd.drop_connections()
    thread.join(30)
    assert [type(error) for error in failures] == [ConnectionLostError]
    wait_until(lambda: not runners(own_sshd.home))
    wait_until(lambda: not sessions(own_sshd.home))


@pytest.mark.device
def test_a_dropped_link_is_opened_again(own_sshd: SshServer, dense_model: Path) -> None:
    quick = BenchOptions(threads=1, min_time_s=0.05, max_time_s=0.1, warmup_s=0.1, energy=False)
    with open_device(own_sshd.address) as device:
        own_sshd.drop_connections()
        assert device.measure([Artifact(dense_model)], quick)[0].latency_ms > 0


@pytest.mark.device
def test_the_server_goes_away_for_good(own_sshd: SshServer, dense_model: Path) -> None:
    with open_device(own_sshd.address, retries=1) as device:
        own_sshd.stop()
        with pytest.raises(TransientError):
            device.measure([Artifact(dense_model)], LONG)
    wait_until(lambda: not sessions(own_sshd.home))


@pytest.mark.device
def test_a_link_cut_in_the_middle_of_an_upload(own_sshd: SshServer) -> None:
    target = f"{own_sshd.home}/file"
    data = os.urandom(1 << 20) * 24

    def cut(sent: int, _: int) -> None:
        if sent > 1 << 22:
            own_sshd.drop_connections()

    with connect(own_sshd.address) as session:
        session.put(b"the old content", target)
        with pytest.raises(ConnectionLostError):
            session.put(data, target, cut)
    assert Path(target).read_bytes() == b"the old content"
    with connect(own_sshd.address) as session:
        assert session.put(data, target)
    assert Path(target).read_bytes() == data


# deaths


def _runner_pid(home: Path) -> list[int]:
    """The runner that has a model's process."""
    return [pid for pid in runners(home) if children(pid)]


@pytest.mark.parametrize("address", ["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def test_the_runner_is_killed(address: str, client_home: Path, request: pytest.FixtureRequest, dense_model: Path) -> None:
    home = client_home if address == "local:" else request.getfixturevalue("sshd").home
    with open_device(address) as device:

        def kill() -> None:
            wait_until(lambda: _runner_pid(home))
            os.kill(_runner_pid(home)[0], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(RunnerError, match="signal"):
            device.measure([Artifact(dense_model)], LONG)
        thread.join()
        wait_until(lambda: len(runners(home)) == 1)  # only the lock's holder: the model's process died with its parent


def test_a_model_that_is_killed_names_the_signal(client_home: Path, dense_model: Path) -> None:
    with open_device("local:") as device:

        def kill() -> None:
            wait_until(lambda: _runner_pid(client_home))
            os.kill(children(_runner_pid(client_home)[0])[0], signal.SIGKILL)

        threading.Thread(target=kill).start()
        with pytest.raises(EdgepruneError, match=r"dense\.tflite.*SIGKILL"):
            device.measure([Artifact(dense_model)], LONG)


def test_what_a_killed_holder_left_is_removed_by_the_next_session(client_home: Path) -> None:
    with open_runner("local:") as runner:
        (holder,) = runners(client_home)
        os.kill(holder, signal.SIGKILL)
        wait_until(lambda: not runner.holding)
        assert sessions(client_home) == [Path(runner.folder)]
        with pytest.raises(ConnectionLostError):
            runner.request("probe", 10)
    with open_runner("local:") as runner:
        assert sessions(client_home) == [Path(runner.folder)]
    assert sessions(client_home) == []


# other users


def test_the_second_user_waits_learns_for_whom_and_gives_up(client_home: Path) -> None:
    events: list[dict] = []
    with open_runner("local:"):
        with pytest.raises(DeviceBusyError, match=rf"in use by .*process {os.getpid()}"):
            open_runner("local:", lock_timeout_s=0.5, on_event=events.append)
        assert [event["holder"] for event in events if event["event"] == "waiting"]
        assert len(sessions(client_home)) == 1


def test_the_second_user_gets_the_device_when_the_first_is_done(client_home: Path) -> None:
    first = open_runner("local:")
    threading.Timer(0.5, first.close).start()
    with open_runner("local:", lock_timeout_s=20) as second:
        assert sessions(client_home) == [Path(second.folder)]


def test_a_lock_whose_holder_dies_is_free(client_home: Path) -> None:
    with open_runner("local:"):
        os.kill(runners(client_home)[0], signal.SIGKILL)
        open_runner("local:", lock_timeout_s=10).close()


# disks


@pytest.mark.parametrize("address", ["local:", pytest.param("ssh://box", marks=pytest.mark.device)])
def test_a_full_disk(address: str, small_disk: Path, request: pytest.FixtureRequest) -> None:
    folder = small_disk
    if address != "local:":
        server = request.getfixturevalue("sshd")
        folder = server.home / "disk"
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", str(small_disk), str(folder)], check=True)
    try:
        with connect(address) as session:
            with pytest.raises(DeviceFullError, match=rf"{folder}.*No space left.*free"):
                session.put(os.urandom(1 << 22), f"{folder}/file")
            assert list(folder.iterdir()) == []
            session.put(b"small", f"{folder}/file")
            flags = ["mount", "-o", "remount,ro" + (",bind" if address != "local:" else ""), str(folder)]
            subprocess.run(flags, check=True)
            with pytest.raises(DeviceFullError, match="Read-only"):
                session.put(b"other", f"{folder}/file")
    finally:
        if address != "local:":
            subprocess.run(["umount", str(folder)], check=True)
