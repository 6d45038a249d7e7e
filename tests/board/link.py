"""A server in a network namespace of its own, behind a link that a test can make bad."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from edgeprune.testing.sshd import SshServer


def why_not() -> str | None:
    """Why no such link can be made here, or None."""
    if os.getuid() != 0 or shutil.which("ip") is None or not os.path.exists("/dev/net/tun"):
        return "a bad link needs root, iproute2 and /dev/net/tun"
    name = f"edgeprune-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return "this container may not make network namespaces"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Link:
    """The link, and the namespace at its other end; a context manager.  ``there``: the other end's address."""

    def __init__(self) -> None:
        self.namespace = f"edgeprune-{os.getpid()}"
        network = f"198.18.{os.getpid() >> 8 & 255}.{os.getpid() & 254}"  # addresses for tests of networks: RFC 2544
        self.there = network[: network.rindex(".")] + f".{int(network.rpartition('.')[2]) + 1}"
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        command = [sys.executable, str(Path(__file__).with_name("relay.py")), self.namespace, network, self.there]
        self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != "up\n":
            self.close()
            raise RuntimeError("the link did not come up")

    def set(self, delay_ms: float = 0.0, loss_percent: float = 0.0) -> None:
        """One-way delay and share of packets lost, both ways."""
        self._say(f"{delay_ms} {loss_percent}\n")

    def cut(self) -> None:
        """Swallow everything from now on, without a word to either end."""
        self._say("down\n")

    def _say(self, line: str) -> None:
        assert self._relay.stdin is not None
        self._relay.stdin.write(line)
        self._relay.stdin.flush()

    def server(self) -> SshServer:
        """A new server at the other end."""
        return SshServer(listen=self.there, enter=["ip", "netns", "exec", self.namespace])

    def close(self) -> None:
        """Remove it, with its namespace."""
        assert self._relay.stdin is not None
        self._relay.stdin.close()
        self._relay.wait(10)
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
