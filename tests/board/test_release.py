"""A release on the virtual board: aarch64, its own Python and ssh-keygen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from board.fixtures import introduce
from board.machine import Board
from board.root import why_not
from release_faults import FAULTS, Fault, Pusher, Step, Victim, harm, which
from release_kit import Compatibility, Kit, Runtime

from edgeprune.devices import Target
from edgeprune.errors import HealthError, IncompatibleError
from edgeprune.release import Bundle
from edgeprune.release.deploy.installed import rollback, status
from edgeprune.release.deploy.push import Pushed, PushOptions, push

pytestmark = pytest.mark.device
ROOT = Path(__file__).parents[2]
PI4 = Compatibility(("aarch64",), 256 << 20, (Runtime("tflite", "ai-edge-litert", ">=2"),), ("Raspberry Pi 4",), ("raspberry-pi-4",))
VARIANTS: dict[str, dict[str, object]] = {"pi4": {"compatibility": PI4}, "x86": {"compatibility": Compatibility(("x86_64",))}}


def bring(bundle: Path, options: PushOptions) -> Pushed:
    with Bundle.open(bundle) as opened:
        return push(opened, Target("board", "ssh://board"), options)


def test_a_release_is_brought_checked_used_and_taken_back(ready: Board, tmp_path: Path) -> None:
    kit = Kit(tmp_path, runs=True)
    options = PushOptions(signers=kit.allowed)
    first = bring(kit.bundle("1.0.0", 1, VARIANTS), options)
    assert (first.variant, first.signed, first.previous) == ("pi4", 1, None)
    assert first.health.deviation is not None

    inside = ready.home / "edgeprune"
    for name in ("consumer.py", "verify.sh"):
        (inside / name).write_bytes((ROOT / "deploy" / name).read_bytes())
    checked = ready.inside("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "/home/pi/edgeprune/verify.sh",
                           "/home/pi/edgeprune/gadget/current", "/home/pi/edgeprune/gadget/allowed_signers")  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert "signed by release@example.org and whole" in checked.stdout

    command = "~/.edgeprune/venv/bin/python ~/edgeprune/consumer.py ~/edgeprune/gadget --every 0.1"
    ssh = ["ssh", "-F", f"{tmp_path}/client/.ssh/config", "-o", f"UserKnownHostsFile={tmp_path}/client/.ssh/known_hosts", "board", command]
    with subprocess.Popen(ssh, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        seen = [json.loads(running.stdout.readline())["version"]]
        bring(kit.bundle("1.1.0", 2, VARIANTS), options)
        while seen[-1] != "1.1.0":
            seen.append(json.loads(running.stdout.readline())["version"])
        rollback(Target("board", "ssh://board"))
        while seen[-1] != "1.0.0":
            seen.append(json.loads(running.stdout.readline())["version"])
        running.terminate()
    assert set(seen) == {"1.0.0", "1.1.0"}
    (found,) = status(Target("board", "ssh://board"), deep=True)
    assert (found.current, found.committed, found.pending, found.highest) == ("1.0.0", "1.0.0", None, "1.1.0")
    assert not [release for release in found.releases if release.damaged]


@pytest.mark.soak  # tests/release/test_push_device.py refuses such releases, too
def test_what_does_not_fit_or_run_there_is_refused(ready: Board, tmp_path: Path) -> None:
    kit = Kit(tmp_path, runs=True)
    options = PushOptions(signers=kit.allowed)
    with pytest.raises(IncompatibleError, match="it is aarch64, not x86_64"):
        bring(kit.bundle("1.0.0", 1, {"x86": {"compatibility": Compatibility(("x86_64",))}}), options)
    with pytest.raises(HealthError, match="cannot be run"):
        bring(kit.bundle("1.1.0", 2, VARIANTS, contents={"model.tflite": b"no model"}), options)
    assert not [found for found in status(Target("board", "ssh://board")) if found.current]


@pytest.fixture
def own_board(client_home: Path) -> Iterator[Board]:
    if reason := why_not():
        pytest.skip(reason)
    with Board() as board:
        yield introduce(board, client_home)


@pytest.mark.soak
def test_the_board_is_switched_off_killed_and_cut_off_where_it_matters(own_board: Board, tmp_path: Path) -> None:
    """Once at the kinds of steps that matter, the three faults in turns; its service at the start goes back to what is committed."""
    kit, victim = Kit(tmp_path), Victim(own_board)
    bundles = {"old": kit.bundle("1.0.0", 1), "new": kit.bundle("1.1.0", 2)}
    with Bundle.open(bundles["old"]) as bundle:
        push(bundle, victim.target)
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", str(victim.root()), str(template)], check=True)

    def reset() -> None:
        subprocess.run(["rm", "-rf", str(victim.root())], check=True)
        subprocess.run(["cp", "-a", str(template), str(victim.root())], check=True)

    victim.arm(0)
    pusher = Pusher(bundles["new"], victim, tmp_path / "pusher")
    assert pusher.wait() == 0, pusher.error()
    steps: dict[str, Step] = {}
    for number, name in enumerate(victim.trace(), 1):
        kind, _, of = name.partition(" ")
        steps[f"{kind} {'state' if 'state.json' in of else 'current' if 'current' in of else ''}"] = Step("device", number, name)
    met = set()
    for number, kind in enumerate(("cat ", "mv ", "link ", "rename ", "symlink current", "replace current", "replace state")):
        step = steps[kind]
        fault: Fault = FAULTS[2 - number % 3]
        reset()
        harm(victim, bundles["new"], step, fault, tmp_path / "pusher")
        before = which(victim.root(), bundles)
        met.add(before)
        state = json.loads((victim.root() / "state.json").read_text())
        if fault == "power":
            own_board.inside("python3", "/home/pi/edgeprune/activator.pyz", "recover", "/home/pi/edgeprune")
            assert which(victim.root(), bundles) == {"1.0.0": "old", "1.1.0": "new"}[state["committed"]]
        with Bundle.open(bundles["new"]) as bundle:
            push(bundle, victim.target)
        assert which(victim.root(), bundles) == "new"
        print(f"{step}\t{fault}\t{before}")
    assert "old" in met
