"""A pool of two boards: two OpenSSH servers of different users, each with a lock and a machine id of its own."""

from __future__ import annotations

import itertools
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.bench import BenchOptions
from edgeprune.cost.kernels import kernels
from edgeprune.devices import add_target
from edgeprune.errors import TargetError
from edgeprune.graph import analyze
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import Event, PlanMeasured, Progress, Warned
from edgeprune.search import Options
from edgeprune.search.events import EventStream
from edgeprune.search.measure.backend import Asked
from edgeprune.search.measure.pool import PoolBackend
from edgeprune.search.plan.planner import all_choices
from edgeprune.testing.models import dense_tflite
from edgeprune.testing.sshd import SshServer, find_sshd, own_machine
from edgeprune.verdict import Verdict

pytestmark = pytest.mark.device

QUICK = BenchOptions(threads=1, rounds=3, warmup_s=0.05, min_time_s=0.05, max_time_s=0.3, table_rounds=1)
TARGET = "pi5a,pi5b"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SshServer]]:
    """pi5a and pi5b, and a third that is pi5a's machine."""
    alone = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if find_sshd() is None or not alone or not Path("/etc/machine-id").exists():
        pytest.skip("it needs an OpenSSH server, and root to give each a machine id of its own")
    folder, ids = tmp_path_factory.mktemp("boards"), [secrets.token_hex(16) for _ in range(2)]
    made: dict[str, SshServer] = {}
    try:
        for name, machine in (("pi5a", ids[0]), ("pi5b", ids[1]), ("twin", ids[0])):
            made[name] = SshServer(enter=own_machine(folder / name, machine))
            made[name].make_python()
        yield made
    finally:
        for server in made.values():
            server.close()


@pytest.fixture
def boards(servers: dict[str, SshServer], client_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, SshServer]:
    """The servers, known by their names.  Both are one busy machine: how alike they measure says nothing."""
    monkeypatch.setattr("edgeprune.search.measure.pool.ALIKE", 0.95)
    (client_home / ".ssh/known_hosts").write_text("".join(server.host_key for server in servers.values()))
    hosts = [
        f"Host {name}\n  HostName 127.0.0.1\n  Port {one.port}\n  User {one.user}\n  IdentityFile {one.key}\n"
        for name, one in servers.items()
    ]
    (client_home / ".ssh/config").write_text("".join(hosts))
    for name in servers:
        add_target(name, f"ssh://{name}")
    return servers


@pytest.fixture
def files(tmp_path: Path, weights: np.ndarray) -> tuple[Path, list[Path]]:
    """A dense model, and smaller ones."""
    dense, smaller = tmp_path / "dense.tflite", [tmp_path / f"{rows}.tflite" for rows in (48, 40, 32, 24)]
    dense.write_bytes(dense_tflite(weights))
    for path in smaller:
        path.write_bytes(dense_tflite(weights[: int(path.stem)]))
    return dense, smaller


def test_boards_share_what_is_measured_and_go_on_without_one_that_dies(
    boards: dict[str, SshServer], files: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    told: list[Event] = []
    dying = False

    def hear(event: Event) -> None:
        told.append(event)
        if dying and isinstance(event, Progress) and event.stage == "sending pruned to pi5b":
            boards["pi5b"].stop()

    run = RunDirectory(tmp_path / "run")
    backend = PoolBackend(run, TARGET, "tflite", QUICK, EventStream(hear))
    try:
        assert backend.facts["threads"] == 1
        backend.measure_dense(files[0])
        analysis = analyze(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).eval(), (torch.zeros(1, 64),))
        backend.kernel_times(kernels(analysis), all_choices(analysis, 64))
        tables = {path.name for path in (Path.home() / ".cache/edgeprune/tables").iterdir() if path.suffix == ".json"}
        assert len(tables) == 2, "each board has measured its share"
        (first,) = backend.measure_pairs(files[0], [Asked("first", files[1][0])])
        assert sorted((first.board or "").split(", ")) == ["pi5a", "pi5b"]
        assert first.rounds >= QUICK.rounds
        assert [part.model.device for part in first.parts] == [part.dense.device for part in first.parts]
        assert len({part.model.device for part in first.parts}) == 2
        dying = True
        found = backend.measure_pairs(files[0], [Asked(f"second-{path.stem}", path) for path in files[1][2:]])
        assert [pair.model.file_bytes for pair in found] == [path.stat().st_size for path in files[1][2:]]
        assert {pair.board for pair in found} == {"pi5a"}
        assert [event.message.partition(":")[0] for event in told if isinstance(event, Warned)][-1] == (
            "pi5b is left out, and measuring goes on with pi5a"
        )
    finally:
        backend.release()
        run.close()
        if dying:
            boards["pi5b"].start()


def test_one_machine_under_two_names_is_refused(boards: dict[str, SshServer], tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    backend = PoolBackend(run, "pi5a,twin", "tflite", QUICK, EventStream())
    try:
        with pytest.raises(TargetError, match="pi5a and twin are one machine"):
            _ = backend.facts
    finally:
        backend.release()
        run.close()


def task() -> edgeprune.Task:
    """Four classes told apart by the mean of an image."""
    torch.manual_seed(0)
    widths = (3, 32, 48)
    layers = [
        layer
        for before, after in itertools.pairwise(widths)
        for layer in (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4))
    images, labels = torch.randn(96, 3, 24, 24), torch.arange(96) % 4
    images += labels.view(-1, 1, 1, 1)
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    return edgeprune.Task(model, (torch.zeros(1, 3, 24, 24),), train=batches, validation=batches, epochs=1)


@pytest.mark.soak
@pytest.mark.usefixtures("few_rounds")
def test_a_search_on_two_boards_comes_to_the_verdict_of_one(boards: dict[str, SshServer], tmp_path: Path) -> None:
    """And a board that dies before the last plan is measured changes nothing of that."""
    dies = True

    def hear(event: Event) -> None:
        nonlocal dies
        if dies and isinstance(event, PlanMeasured):
            dies = False
            boards["pi5b"].stop()

    asked = {"budget": edgeprune.Budget(latency="70%"), "options": Options(formats=("tflite",), threads=1), "runs": tmp_path / "runs"}
    try:
        pooled = edgeprune.prune(task(), TARGET, listener=hear, **asked)
    finally:
        boards["pi5b"].start()
    alone = edgeprune.prune(task(), "pi5a", **asked)
    assert pooled.verdict == alone.verdict == Verdict.MET
    assert {frozenset((one.board or "").split(", ")) for one in pooled.figures.candidates} >= {frozenset(("pi5a", "pi5b"))}
    assert pooled.figures.pruned.latency_ms is not None
