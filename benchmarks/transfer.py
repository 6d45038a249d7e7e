"""Uploads against ``scp``, to one OpenSSH server on loopback, in turns.

Each opens a connection and sends one file; edgeprune also checks the content on the device and syncs it to the disk, and is measured in an
open session too; scp is also measured with a command after it that syncs and hashes the file.  ``--sizes 1,20,100`` in MB, ``--rounds 7``.
Prints the medians, and the ratio to scp's time in the same round with the least and the largest; needs ``scp`` and ``sshd``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgeprune.devices import connect
from edgeprune.testing.sshd import SshServer, find_sshd


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def race(server: SshServer, options: list[str], source: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, by round, first one way first and then the other."""
    where = f"{server.user}@127.0.0.1:{server.home}/theirs"
    remote = f"{server.home}/ours"

    def ours() -> None:
        with connect(server.address) as session:
            assert session.put(source, remote)

    def theirs() -> None:
        subprocess.run(["scp", "-q", *options, "-P", str(server.port), str(source), where], check=True)

    def checked() -> None:
        theirs()
        command = f"sync {server.home}/theirs; sha256sum {server.home}/theirs"
        subprocess.run(
            ["ssh", *options, "-p", str(server.port), f"{server.user}@127.0.0.1", command], check=True, stdout=subprocess.DEVNULL
        )

    with connect(server.address) as session:

        def opened() -> None:
            assert session.put(source, remote)

        ways = {"edgeprune": ours, "edgeprune, connected": opened, "scp": theirs, "scp, checked": checked}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                session.run(["rm", "-f", remote, f"{server.home}/theirs"])
                found[name].append(timed(ways[name]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,20,100", help="MB")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if find_sshd() is None or shutil.which("scp") is None:
        print("skipped: there is no sshd or no scp (apt-get install openssh-server openssh-client)")
        return
    with tempfile.TemporaryDirectory() as folder, SshServer() as server:
        ssh = Path(folder, ".ssh")
        ssh.mkdir(mode=0o700)
        (ssh / "known_hosts").write_text(server.host_key)
        (ssh / "config").write_text(f"Host *\n  IdentityFile {server.key}\n  UserKnownHostsFile {ssh}/known_hosts\n")
        os.environ["HOME"] = folder
        print(f"{'MB':>5}  {'way':22}{'median s':>10}{'MB/s':>8}  of scp's time (least..largest of {arguments.rounds} rounds)")
        for size in map(int, arguments.sizes.split(",")):
            source = Path(folder, "file")
            source.write_bytes(os.urandom(size << 20))
            found = race(server, ["-F", str(ssh / "config")], source, arguments.rounds)
            for name, seconds in found.items():
                ratios = sorted(own / scp for own, scp in zip(seconds, found["scp"], strict=True))
                middle, ratio = statistics.median(seconds), statistics.median(ratios)
                print(f"{size:>5}  {name:22}{middle:>10.3f}{size / middle:>8.0f}  {ratio:.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
