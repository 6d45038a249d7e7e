"""Releases on a device behind a real SSH server: what is refused, and what goes back by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from release_faults import Box
from release_kit import Compatibility, Gate, Kit, Runtime, make_key, npy

from edgeprune.errors import (
    ExpiredError,
    HealthError,
    IncompatibleError,
    OlderReleaseError,
    ReleaseError,
    SignatureError,
)
from edgeprune.release.deploy import health_check
from edgeprune.release.deploy.installed import prune_releases, rollback, status
from edgeprune.testing.models import crashing_tflite

pytestmark = pytest.mark.device


# refused


def test_an_older_release_is_refused_and_so_is_another_of_the_same_sequence(box: Box) -> None:
    older, newer = box.kit.bundle("1.0.0", 5), box.kit.bundle("1.1.0", 6)
    box.push(older)
    box.push(newer)
    with pytest.raises(OlderReleaseError, match=r"has had release 1\.1\.0 of sequence 6, and 1\.0\.0 is of sequence 5"):
        box.push(older)
    rollback(box.target, base=box.base)
    with pytest.raises(OlderReleaseError):  # having gone back is no leave to go further back
        box.push(box.kit.bundle("1.0.1", 5))
    with pytest.raises(OlderReleaseError, match="another one of that sequence"):
        box.push(box.kit.bundle("1.2.0", 6, shared=b"another"))
    assert box.status().current == "1.0.0"
    assert box.push(newer).state == "committed"  # the very same may come back


def test_an_expired_release_is_refused_by_this_clock_and_by_what_the_device_has_seen(box: Box) -> None:
    bundle = box.kit.bundle("1.0.0", 1, expires="2026-06-01T00:00:00Z")
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    with pytest.raises(ExpiredError, match="expired at 2026-06-01"):
        box.push(bundle, now=moment)
    assert not box.root().exists()
    done = box.push(bundle, now=moment - timedelta(seconds=1))
    assert done.state == "committed"
    box.push(box.kit.bundle("1.1.0", 2), now=moment + timedelta(days=1))
    late = box.kit.bundle("1.2.0", 3, expires="2026-06-01T00:00:00Z")
    with pytest.raises(ExpiredError, match=r"at 2026-06-02T00:00:00Z, and this one had expired then"):  # a clock set back
        box.push(late, now=moment - timedelta(days=1))
    assert box.status().current == "1.1.0"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Compatibility(("riscv64",)), "not riscv64"),
        (Compatibility(min_memory_bytes=1 << 50), "of memory"),
        (Compatibility(runtimes=(Runtime("tflite", "ai-edge-litert", "<1"),)), "not ai-edge-litert <1"),
    ],
)
def test_a_release_for_other_devices_is_refused(box: Box, wanted: Compatibility, told: str) -> None:
    with pytest.raises(IncompatibleError, match=told):
        box.push(box.kit.bundle("1.0.0", 1, {"other": {"compatibility": wanted}}))
    assert not box.root().exists()


def test_the_device_checks_signatures_by_the_keys_that_it_got_first(box: Box, tmp_path: Path) -> None:
    first, stranger = box.kit.bundle("1.0.0", 1), Kit(tmp_path / "stranger")
    stranger.folder.mkdir()
    assert box.push(first).signed == 1
    foreign = stranger.bundle("1.1.0", 2)
    with pytest.raises(SignatureError, match="accepts 0 of the 1 signers"):
        box.push(foreign, signers=stranger.allowed)
    box.keeps(first)
    with pytest.raises(SignatureError, match="1 of the 2 signers"):
        box.push(box.kit.bundle("1.1.0", 2), threshold=2)
    both = tmp_path / "both"
    both.write_text(box.kit.allowed.read_text() + Path(f"{make_key(tmp_path / 'other')}.allowed").read_text())
    trusted = (box.root() / "allowed_signers").read_text()
    with pytest.raises(HealthError):  # what fails changes nobody's keys
        box.push(box.kit.bundle("1.1.0", 2), signers=both, replace_signers=True, after="false")
    assert (box.root() / "allowed_signers").read_text() == trusted
    assert box.push(box.kit.bundle("1.1.0", 2), signers=both, replace_signers=True).signed == 1
    assert (box.root() / "allowed_signers").read_text() == both.read_text()
    assert box.push(stranger.bundle("1.2.0", 3), signers=stranger.allowed, replace_signers=True).signed == 1


def test_the_device_reads_its_signers_as_this_machine_does(box: Box, tmp_path: Path) -> None:
    spaced = tmp_path / "spaced"
    spaced.write_text('"' + box.kit.allowed.read_text().replace("@example.org ", ' of our team@example.org" ', 1))
    with pytest.raises(SignatureError, match="accepts 0 of the 1"):
        box.push(Kit(tmp_path, runs=False).bundle("1.0.0", 1, signed=False), signers=spaced)
    assert not (box.root() / "allowed_signers").exists()  # a first release that was refused leaves no keys
    assert box.push(box.kit.bundle("1.0.0", 1), signers=spaced).signed == 1


def test_one_clock_that_was_ahead_does_not_lock_a_device_out(box: Box) -> None:
    ahead = datetime(2099, 1, 1, tzinfo=UTC)
    box.push(box.kit.bundle("1.0.0", 1), now=ahead)
    box.push(box.kit.bundle("1.1.0", 2), now=ahead)
    rollback(box.target, base=box.base)
    expires = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
    assert box.push(box.kit.bundle("1.2.0", 3, expires=expires)).state == "committed"


def test_going_back_to_what_is_in_use_changes_nothing(box: Box) -> None:
    box.push(box.kit.bundle("1.0.0", 1))
    box.push(box.kit.bundle("1.1.0", 2))
    done = rollback(box.target, version="1.1.0", base=box.base, after="false")
    assert (done.left, done.version) == ("1.1.0", "1.1.0")
    assert (box.status().current, box.status().pending, box.status().previous) == ("1.1.0", None, "1.0.0")
    done = rollback(box.target, base=box.base, only_from="1.2.0")  # a device that a rollout spared
    assert (done.left, done.version, box.status().current) == ("1.1.0", "1.1.0", "1.1.0")
    assert rollback(box.target, base=box.base, only_from="1.1.0").version == "1.0.0"


def test_there_is_no_way_back_where_nothing_was_before(box: Box) -> None:
    with pytest.raises(ReleaseError, match="has no releases"):
        rollback(box.target, base=box.base)
    assert status(box.target, box.base) == []
    box.push(box.kit.bundle("1.0.0", 1))
    with pytest.raises(ReleaseError, match=r"no earlier release to go back to; on the device: 1\.0\.0"):
        rollback(box.target, base=box.base)
    with pytest.raises(ReleaseError, match=r"no release 0\.9\.0"):
        rollback(box.target, version="0.9.0", base=box.base)
    box.push(box.kit.bundle("1.0.0", 1, product="other"))
    with pytest.raises(ReleaseError, match="releases of 2 products"):
        rollback(box.target, base=box.base)


def test_old_releases_are_removed_but_not_the_one_in_use_nor_the_one_before(box: Box) -> None:
    for number in range(1, 6):
        box.push(box.kit.bundle(f"1.{number}.0", number))
    rollback(box.target, version="1.2.0", base=box.base)
    (done,) = prune_releases(box.target, 2, base=box.base)
    assert (done.removed, done.kept) == (("1.3.0",), ("1.1.0", "1.2.0", "1.4.0", "1.5.0"))
    kept = {path.name for version in done.kept for path in (box.root() / "releases" / version).iterdir()}
    assert "model.tflite" in kept
    needed = {path.stat().st_ino for path in (box.root() / "releases").rglob("*") if path.is_file()}
    assert {path.stat().st_ino for path in (box.root() / "objects").iterdir()} <= needed
    assert box.status().current == "1.2.0"
    assert not [release for release in box.status().releases if release.damaged]


# goes back by itself


def test_a_release_that_gives_another_answer_goes_back_by_itself(box: Box) -> None:
    box.kit.runs = True
    good = box.kit.bundle("1.0.0", 1)
    assert box.push(good).health.deviation is not None
    for number, (content, told) in enumerate(
        [
            ({"health/output0.npy": npy(np.zeros((1, 8), np.float32))}, "another output"),
            ({"health/output0.npy": npy(np.zeros((1, 9), np.float32))}, "off by inf"),
            ({"health/output0.npy": npy(np.full((1, 8), np.nan, np.float32))}, "another output"),
            ({"model.tflite": crashing_tflite()}, "cannot be run"),
            ({"model.tflite": b"no model"}, "cannot be run"),
        ],
        2,
    ):
        with pytest.raises(HealthError, match=told):
            box.push(box.kit.bundle(f"1.{number}.0", number, contents=content))
        box.keeps(good)
    objects = {path.stat().st_ino for path in (box.root() / "objects").iterdir()}
    assert objects == {path.stat().st_ino for path in (box.root() / "objects").iterdir() if path.stat().st_nlink > 1}  # none is left over


def test_a_release_that_is_too_slow_goes_back_by_itself(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = health_check._measure  # as on a device where nothing else runs: what other tests take here would leave the gate undecided
    monkeypatch.setattr(health_check, "_measure", lambda *asked: replace(measure(*asked), others=0.0))
    box.kit.runs = True
    good = box.kit.bundle("1.0.0", 1, {"any": {"gates": (Gate("latency", 1000.0), Gate("accuracy", 0.9))}})
    done = box.push(good)
    assert done.health.latency_ms is not None
    assert done.health.latency_ms < 1000
    with pytest.raises(HealthError, match="does not meet its gates: latency"):
        box.push(box.kit.bundle("1.1.0", 2, {"any": {"gates": (Gate("latency", 1e-6),)}}))
    box.keeps(good)


def test_a_release_whose_program_does_not_start_goes_back_and_the_program_starts_again(box: Box) -> None:
    good = box.kit.bundle("1.0.0", 1)
    note = f"cat labels.txt >> {box.base}/started; ! grep -q 'labels 2' labels.txt"
    box.push(good, after=note)
    with pytest.raises(HealthError, match=r"went back to 1\.0\.0: .* exit code 1"):
        box.push(box.kit.bundle("1.1.0", 2), after=note)
    box.keeps(good)
    assert Path(box.base, "started").read_text() == "labels 1\nlabels 2\nlabels 1\n"
    box.push(box.kit.bundle("1.2.0", 3))
    with pytest.raises(HealthError, match=r"stayed with 1\.2\.0"):
        rollback(box.target, base=box.base, after="false")
    assert (box.status().current, box.status().previous) == ("1.2.0", "1.0.0")
