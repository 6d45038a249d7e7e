"""Latency, memory and energy budgets together: met by what was measured, the energy with an emulated power meter on a real SSH server."""

from __future__ import annotations

import itertools
import os
import pwd
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.search import Options
from edgeprune.testing.sshd import SshServer, find_sshd

pytestmark = pytest.mark.device

IDLE_W, BUSY_W, EVERY_S = 2.0, 3.0, 0.05
ENTER = 'mount --bind "$0" /sys/class && exec "$@"'


class Emulated:
    """An INA238 in ``folder`` that shows ``IDLE_W`` and ``BUSY_W`` for each core that processes of ``user`` keep busy."""

    def __init__(self, folder: Path) -> None:
        self.user, self._folder, self._ended = -1, folder / "hwmon/hwmon0", threading.Event()
        self._folder.mkdir(parents=True)
        (self._folder / "name").write_text("ina238\n")
        self._show(0.0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before, then = self._seconds(), time.monotonic()
        while not self._ended.wait(EVERY_S):
            now, at = self._seconds(), time.monotonic()
            self._show(sum(max(now[one] - before.get(one, 0.0), 0.0) for one in now) / (at - then))
            before, then = now, at

    def _show(self, cores: float) -> None:
        part = self._folder / "part"
        part.write_text(f"{round(1e6 * (IDLE_W + BUSY_W * cores))}\n")
        os.replace(part, self._folder / "power1_input")

    def _seconds(self) -> dict[int, float]:
        """Processor time of the user's processes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if folder.stat().st_uid == self.user:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            except OSError:
                continue  # it ended
        return found

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def metered(client_home: Path, tmp_path: Path) -> Iterator[SshServer]:
    """A server whose machine has the emulated meter."""
    if find_sshd() is None or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("it needs an OpenSSH server, and root to mount a meter for it alone")
    folder = tmp_path / "class"
    meter = Emulated(folder)
    for parent in (folder, *tmp_path.parents[:2], tmp_path):
        parent.chmod(0o755)
    with SshServer(enter=("unshare", "-m", "sh", "-c", ENTER, str(folder))) as server:
        meter.user = pwd.getpwnam(server.user).pw_uid
        server.make_python()
        (client_home / ".ssh/known_hosts").write_text(server.host_key)
        (client_home / ".ssh/config").write_text(f"Host *\n  IdentityFile {server.key}\n")
        yield server
    meter.end()


def task() -> edgeprune.Task:
    """Four classes told apart by the mean of an image."""
    torch.manual_seed(0)
    widths = (3, 64, 96, 96)
    layers = [
        layer
        for before, after in itertools.pairwise(widths)
        for layer in (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4))
    images, labels = torch.randn(96, 3, 24, 24), torch.arange(96) % 4
    images += labels.view(-1, 1, 1, 1)
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    return edgeprune.Task(model, (torch.zeros(1, 3, 24, 24),), train=batches, validation=batches, epochs=1)


@pytest.mark.soak
def test_latency_memory_and_energy_are_met_as_measured(metered: SshServer, tmp_path: Path) -> None:
    budget = edgeprune.Budget(latency="70%", memory="80%", energy="50%")
    options = Options(formats=("tflite",), threads=1)
    result = edgeprune.prune(task(), metered.address, budget=budget, options=options, runs=tmp_path / "runs")
    dense, pruned = result.summary["dense"], result.summary["pruned"]
    assert result.met
    assert pruned["energy_mj"] <= 0.5 * dense["energy_mj"]
    assert result.summary["ratio"]["value"] <= 0.7
    assert pruned["peak_bytes"] <= 0.8 * dense["peak_bytes"]
    assert result.summary["device_measurements"] <= 10
    watts = dense["energy_mj"] / dense["latency_ms"]
    assert 0.5 * BUSY_W <= watts <= 1.5 * BUSY_W  # above idle, of one busy core
