"""A throw-away OpenSSH server on loopback, for testing against the real thing.

It never runs as root: as root, a user is made for it and removed again; otherwise it runs as the current user, with a home folder of its
own.  It has its own host key, one authorized key, and, in its home, a ``venv`` that sees the packages of the running Python.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_CONFIG = """
Port {port}
ListenAddress {listen}
HostKey {base}/host_key
PidFile none
AuthorizedKeysFile {base}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
SetEnv HOME={home}
Subsystem sftp internal-sftp
"""


def find_sshd() -> str | None:
    """Path of the OpenSSH server, or None when it is not installed."""
    return shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), None)


_ON_ITS_OWN = """
[ -e /tmp/edgeprune.lock ] || install -m 666 /dev/null /tmp/edgeprune.lock
mount --bind "$0/lock" /tmp/edgeprune.lock && mount --bind "$0/machine-id" /etc/machine-id && exec "$@"
"""


def own_machine(folder: Path, machine: str) -> list[str]:
    """A command that starts a server on a machine of its own, as far as a device's lock and identity tell; only root can.

    ``folder``: made, for what it needs; ``machine``: its id.
    """
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "lock").chmod(0o666)
    (folder / "machine-id").write_text(f"{machine}\n")
    return ["unshare", "--mount", "sh", "-c", _ON_ITS_OWN, str(folder)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SshServer:
    """A running server; a context manager.

    ``user``, ``port``, ``home``: where it is; ``key``: the client's private key; ``host_key``: its line for a known_hosts file.
    ``listen``: its address; ``enter``: a command that runs another one where that address is, or with other limits.
    """

    def __init__(self, listen: str = "127.0.0.1", enter: Sequence[str] = ()) -> None:
        self.host, self._enter = listen, list(enter)
        self._program = find_sshd()
        if self._program is None:
            raise FileNotFoundError("sshd is not installed")
        self.base = Path(tempfile.mkdtemp(prefix="edgeprune-sshd-"))
        self.home = self.base / "home"
        self.home.mkdir()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self._made_user = os.getuid() == 0 and shutil.which("useradd") is not None
        if self._made_user:
            self.user = f"edgeprune{secrets.token_hex(4)}"
            add = ["useradd", "--no-create-home", "--home-dir", str(self.home), "--shell", "/bin/sh", "--password", "*", self.user]
            subprocess.run(add, check=True)
        self.key = self.base / "client_key"
        for key in (self.key, self.base / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shutil.copy(f"{self.key}.pub", self.base / "authorized_keys")
        self.port = _free_port()
        (self.base / "config").write_text(_CONFIG.format(port=self.port, base=self.base, home=self.home, listen=listen))
        self.own(self.base)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """Its address, without options."""
        return f"ssh://{self.user}@{self.host}:{self.port}"

    @property
    def host_key(self) -> str:
        """Its line for a known_hosts file."""
        kind, key = (self.base / "host_key.pub").read_text().split()[:2]
        return f"[{self.host}]:{self.port} {kind} {key}\n"

    def own(self, path: Path) -> None:
        """Give a file or folder, with all in it, to the server's user."""
        if self._made_user:
            owner = pwd.getpwnam(self.user)
            for each in (path, *path.rglob("*")):
                os.chown(each, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
            self.base.chmod(0o755)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._program is not None
        owner = pwd.getpwnam(self.user)
        ids: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if self._made_user else {}
        command = [self._program, "-D", "-e", "-f", str(self.base / "config")]
        if self._enter:
            drop = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"] if self._made_user else []
            command, ids = [*self._enter, *drop, *command], {}
        with open(self.base / "log", "ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **ids)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"sshd did not start: {self.log()}")

    def log(self) -> str:
        """What it wrote."""
        return (self.base / "log").read_text(errors="replace")

    def connections(self) -> list[int]:
        """Process ids of the server's processes that serve open connections; not of the commands that these run."""
        assert self._process is not None
        found, left = [], [self._process.pid]
        while left:
            serving = [pid for pid in children(left.pop()) if _name(pid).startswith("sshd")]
            found += serving
            left += serving
        return found

    def drop_connections(self) -> None:
        """Kill every open connection, as a cut link would; the server keeps running."""
        for pid in self.connections():
            _kill(pid)

    def stop(self) -> None:
        """Kill the server and its connections."""
        if self._process is not None:
            pids = self.connections()
            self._process.kill()
            self._process.wait()
            self._process = None
            for pid in pids:
                _kill(pid)

    def set_environment(self, **variables: str) -> None:
        """Have commands of new connections see these variables too."""
        config = self.base / "config"
        pairs = " ".join(f"{name}={value}" for name, value in variables.items())
        config.write_text(config.read_text().replace("SetEnv ", f"SetEnv {pairs} ", 1))
        self.stop()
        self.start()

    def make_python(self) -> Path:
        """A Python in its home that sees this environment's packages, where the discovery finds it.

        Raises :class:`RuntimeError` when the server's user can run no Python of this version.
        """
        python = self.home / "venv" / "bin" / "python"
        if python.exists():
            return python
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        for base in (os.path.realpath(sys.executable), f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
            made = self.run([base, "-m", "venv", "--without-pip", "--clear", str(self.home / "venv")])
            if made.returncode == 0:
                site = self.home / "venv" / "lib" / f"python{version}" / "site-packages"
                (site / "host.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
                return python
        raise RuntimeError(f"{self.user} can run no Python {version}")

    def run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command as the server's user, without SSH."""
        owner = pwd.getpwnam(self.user)
        ids: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if self._made_user else {}
        environment = {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        try:
            done: subprocess.CompletedProcess[bytes] = subprocess.run(command, env=environment, cwd="/", capture_output=True, **ids)
            return done
        except OSError as error:
            return subprocess.CompletedProcess(command, 127, b"", str(error).encode())

    def close(self) -> None:
        """Stop it and remove all it left, its user too."""
        self.stop()
        if self._made_user:
            for _ in range(50):  # refused while a process of the user is still ending
                if subprocess.run(["userdel", self.user], check=False, capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> SshServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def children(pid: int) -> list[int]:
    """Process ids of a process's children (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
