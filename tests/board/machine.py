"""A virtual board that runs: an arm64 Debian with a Raspberry Pi's ``/proc/cpuinfo`` and a real OpenSSH server on a loopback port.

Its programs run under user-mode emulation by qemu: timings are emulated (good for ratios of work, worthless as latencies), and the kernel,
its ``/proc/meminfo`` and the number of processors are those of the host.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from board.root import UID, USER, build

from edgeprune.testing.sshd import children

CPU = "cortex-a72"
_PROCESSOR = """processor	: {index}
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

"""
MODEL = "Raspberry Pi 4 Model B Rev 1.4"
CPUINFO = "".join(_PROCESSOR.format(index=index) for index in range(4)) + f"Model		: {MODEL}\n"


class Board:
    """A running board; a context manager.

    ``user``, ``port``: where it is; ``key``: the client's private key; ``root``, ``home``: its folders, as this machine sees them.
    ``limited``: whether its memory is limited to ``memory_bytes``, which takes a control group that may be written.
    """

    def __init__(self, memory_bytes: int = 768 << 20) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="edgeprune-board-"))
        self.base.chmod(0o755)
        self.root, self.user, self.home = self.base / "root", USER, self.base / "root/home" / USER
        self.key = self.base / "client_key"
        subprocess.run(["cp", "-a", "--reflink=auto", str(build()), str(self.root)], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        authorized = self.home / ".ssh/authorized_keys"
        shutil.copy(f"{self.key}.pub", authorized)
        os.chown(authorized, UID, UID)
        (self.base / "cpuinfo").write_text(CPUINFO)
        self._group = _memory_group(self.base.name, memory_bytes)
        self.limited = self._group is not None
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """Its address, without options."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    @property
    def host_key(self) -> str:
        """Its line for a known_hosts file."""
        kind, key = (self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    def start(self) -> None:
        """Switch it on, and wait until it answers."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
            self.port = probe.getsockname()[1]
        command = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh"]
        command += [str(Path(__file__).with_name("enter.sh")), str(self.root), str(self.base / "cpuinfo"), CPU, str(self.port)]
        join = (lambda: (self._group / "cgroup.procs").write_text("0")) if self._group else None
        with open(self.base / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=join)
        for _ in range(400):
            if _answers(self.port):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"the board did not start: {(self.base / 'log').read_text(errors='replace')}")

    def stop(self) -> None:
        """Cut its power: its processes are gone, its disk is as it was."""
        if self._process is not None:
            self._process.kill()  # the first process of its namespace dies with it, and so all others
            self._process.wait()
            self._process = None
            for _ in range(100):
                if not _answers(self.port):
                    break
                time.sleep(0.05)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it as root, without SSH."""
        assert self._process is not None
        (first,) = children(self._process.pid)
        enter = ["nsenter", "--target", str(first), "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": CPU}
        return subprocess.run([*enter, *command], env=environment, capture_output=True, text=True, check=False)

    def processes(self) -> list[str]:
        """Command lines of the user's processes on it."""
        listed = self.inside("ps", "-u", self.user, "-o", "args=")
        return [line for line in listed.stdout.splitlines() if "/usr/sbin/sshd" not in line and "sshd:" not in line]

    def close(self) -> None:
        """Switch it off and remove it."""
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)
        if self._group is not None:
            for _ in range(100):
                with suppress(OSError):
                    self._group.rmdir()
                    break
                time.sleep(0.05)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _memory_group(name: str, limit: int) -> Path | None:
    """A control group (version 1 or 2) with a memory limit, or None where none can be made."""
    for base, file in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
        group = base / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
            return group
        except OSError:
            group.rmdir()
    return None
