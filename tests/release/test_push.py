"""Releases on this machine as a device, by the commands that users call; which variant is whose; waves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_kit import Compatibility, Kit, Runtime

from edgeprune.bench.info import DeviceInfo
from edgeprune.cli import main
from edgeprune.devices import Target
from edgeprune.errors import BundleError, DeviceError, HealthError, IncompatibleError, InputError
from edgeprune.release import Bundle, Manifest
from edgeprune.release.deploy import fleet
from edgeprune.release.deploy.compatibility import choose, obstacles
from edgeprune.release.deploy.fleet import Waves, push_all
from edgeprune.release.deploy.push import Pushed


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """A command's JSON document."""
    code = main(["release", *arguments, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_push_status_rollback_and_prune_as_a_user_calls_them(client_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = Kit(tmp_path, runs=True)
    signers = ("--allowed-signers", str(kit.allowed))
    (first,) = call(capsys, "push", str(kit.bundle("1.0.0", 1)), "--target", "local", *signers)["devices"]
    assert (first["state"], first["previous"], first["signed"], first["sent_files"]) == ("committed", None, 1, 7)
    assert first["health"]["deviation"] < 1e-5
    current = client_home / "edgeprune/gadget/current"
    assert first["path"] == str(current)
    assert (current / "labels.txt").read_text() == "labels 1\n"

    bundle = str(kit.bundle("1.1.0", 2))
    (second,) = call(capsys, "push", bundle, "--target", "local", *signers, "--after", "cp labels.txt $HOME/seen")["devices"]
    assert (second["state"], second["previous"], second["sent_files"]) == ("committed", "1.0.0", 5)  # not the files of 1.0.0 again
    assert (client_home / "seen").read_text() == "labels 2\n"
    (again,) = call(capsys, "push", bundle, "--target", "local", *signers)["devices"]
    assert (again["state"], again["sent_files"], again["sent_bytes"]) == ("unchanged", 0, 0)

    (found,) = call(capsys, "status", "--target", "local", "--check")["devices"][0]["products"]
    assert (found["current"], found["committed"], found["previous"], found["pending"]) == ("1.1.0", "1.1.0", "1.0.0", None)
    assert [(release["version"], release["damaged"]) for release in found["releases"]] == [("1.0.0", []), ("1.1.0", [])]

    (back,) = call(capsys, "rollback", "--target", "local")["devices"]
    assert (back["left"], back["version"]) == ("1.1.0", "1.0.0")
    assert (current / "labels.txt").read_text() == "labels 1\n"
    assert main(["release", "rollback", "--target", "local"]) == 1
    assert "no earlier release to go back to" in capsys.readouterr().err

    (forward,) = call(capsys, "rollback", "--target", "local", "--to", "1.1.0")["devices"]
    assert forward["version"] == "1.1.0"
    (pruned,) = call(capsys, "prune", "--target", "local", "--keep", "1")["devices"][0]["products"]
    assert (pruned["removed"], pruned["kept"]) == ([], ["1.0.0", "1.1.0"])  # the one before stays
    for path in current.iterdir():
        if path.name == "labels.txt":
            path.write_text("rotten")
    assert main(["release", "status", "--target", "local", "--check"]) == 3
    assert "damaged: labels.txt" in capsys.readouterr().out
    assert main(["release", "push", bundle, "--target", "local", *signers]) == 0
    assert "  local: mended; variant any, sent 9 B in 1 file" in capsys.readouterr().out


def test_a_bundle_that_is_not_to_be_trusted_comes_to_no_device(
    client_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = Kit(tmp_path)
    bundle = kit.bundle("1.0.0", 1)
    content = bundle.read_bytes()
    for place in range(200, len(content) - 1024, len(content) // 20):
        bundle.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert main(["release", "push", str(bundle), "--target", "local", "--allowed-signers", str(kit.allowed)]) == 1, place
    bundle = kit.bundle("1.0.0", 1, signed=False)
    assert main(["release", "push", str(bundle), "--target", "local", "--allowed-signers", str(kit.allowed)]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert not (client_home / "edgeprune").exists()


# which variant is whose

DEVICE = DeviceInfo(
    address="ssh://pi@box",
    cpu="Cortex-A72",
    arch="aarch64",
    cores=4,
    max_mhz=1500.0,
    features=(),
    board="Raspberry Pi 4 Model B Rev 1.4",
    memory_bytes=2 << 30,
    os="Debian",
    kernel="6.1",
    libc="glibc 2.36",
    python="3.11.2",
    python_path="/usr/bin/python3",
    hostname="box",
    machine="abc",
    runtimes={"tflite": ("ai-edge-litert", "2.3.0")},
    broken={},
    meters=(),
)
LITERT = Runtime("tflite", "ai-edge-litert", ">=2.1,<3")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Compatibility(), None),
        (Compatibility(("aarch64",), 1 << 30, (LITERT,), ("Raspberry Pi 4",), ("raspberry-pi-4",)), None),
        (Compatibility(("arm64",)), None),
        (Compatibility(("armv7l", "x86_64")), "it is aarch64, not armv7l or x86_64"),
        (Compatibility(min_memory_bytes=4 << 30), "of memory, not"),
        (Compatibility(boards=("Raspberry Pi 5", "NVIDIA")), "it is a Raspberry Pi 4 Model B Rev 1.4, not a Raspberry Pi 5 or NVIDIA"),
        (Compatibility(profiles=("jetson-nano",)), "its profile is raspberry-pi-4, not jetson-nano"),
        (Compatibility(runtimes=(replace(LITERT, versions=">=3"),)), "it has ai-edge-litert 2.3.0, not ai-edge-litert >=3"),
        (Compatibility(runtimes=(Runtime("tflite", "tflite-runtime"), LITERT)), None),
        (Compatibility(runtimes=(Runtime("tflite", "tflite-runtime"),)), "it has ai-edge-litert 2.3.0, not tflite-runtime"),
        (Compatibility(runtimes=(Runtime("torchscript", "torch", ">=2"),)), None),  # it has none: found out when it is asked for one
    ],
)
def test_what_keeps_a_device_from_a_variant(wanted: Compatibility, told: str | None) -> None:
    found = obstacles(wanted, DEVICE)
    assert (found == []) if told is None else (told in ", ".join(found))


def manifest(tmp_path: Path, **variants: Compatibility) -> Manifest:
    path = Kit(tmp_path).bundle("1.0.0", 1, {name: {"compatibility": wanted} for name, wanted in variants.items()}, signed=False)
    with Bundle.open(path) as bundle:
        return bundle.manifest


def test_the_variant_that_fits_and_asks_for_most_is_taken(tmp_path: Path) -> None:
    made = manifest(
        tmp_path,
        any=Compatibility(),
        arm=Compatibility(("aarch64",)),
        pi4=Compatibility(("aarch64",), boards=("Raspberry Pi 4",)),
        pi5=Compatibility(("aarch64",), boards=("Raspberry Pi 5",)),
        big=Compatibility(("aarch64",), min_memory_bytes=1 << 40),
    )
    assert choose(made, DEVICE) == "pi4"
    assert choose(made, replace(DEVICE, board="Another")) == "arm"
    assert choose(made, replace(DEVICE, board="Another", arch="riscv64")) == "any"
    assert choose(made, DEVICE, "arm") == "arm"
    with pytest.raises(IncompatibleError, match="pi5: it is a Raspberry Pi 4"):
        choose(made, DEVICE, "pi5")
    with pytest.raises(BundleError, match="no variant 'pi6'"):
        choose(made, DEVICE, "pi6")


def test_a_device_that_no_variant_or_two_are_for_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"pi5: it is a Raspberry Pi 4.*; x86: it is aarch64"):
        choose(manifest(tmp_path, x86=Compatibility(("x86_64",)), pi5=Compatibility(boards=("Raspberry Pi 5",))), DEVICE)
    with pytest.raises(IncompatibleError, match=r"could take (a or b|b or a)"):
        choose(manifest(tmp_path, a=Compatibility(("aarch64",)), b=Compatibility(("aarch64",))), DEVICE)


# waves


def rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[int], count: int, waves: Waves
) -> tuple[list[list[int]], fleet.Rollout]:
    """Push to devices of which some fail; the numbers of those that were pushed to, wave by wave."""
    tried: list[list[int]] = []
    real = fleet.side_by_side

    def noted(targets: Any, *rest: Any) -> Any:
        tried.append([int(target.name) for target in targets])
        return real(targets, *rest)

    def one(bundle: Bundle, target: Target, *_: Any) -> Any:
        if int(target.name) in failing:
            raise HealthError("ill")
        return target.name

    monkeypatch.setattr(fleet, "push", one)
    monkeypatch.setattr(fleet, "side_by_side", noted)
    with Bundle.open(Kit(tmp_path).bundle("1.0.0", 1, signed=False)) as bundle:
        return tried, push_all(bundle, [Target(str(number), "local:") for number in range(count)], waves=waves)


@pytest.mark.parametrize(
    ("failing", "waves", "tried"),
    [
        (set(), Waves(1, 3), [[0], [1, 2, 3], [4, 5, 6], [7]]),
        (set(), Waves(0, 5), [[0, 1, 2, 3, 4], [5, 6, 7]]),
        ({0}, Waves(1, 3, 1.0), [[0]]),  # no canary may fail
        ({2}, Waves(1, 3), [[0], [1, 2, 3]]),
        ({2}, Waves(1, 3, 0.25), [[0], [1, 2, 3], [4, 5, 6], [7]]),
        ({2, 3}, Waves(1, 3, 0.25), [[0], [1, 2, 3]]),
        ({2, 4, 5}, Waves(2, 2, 0.4), [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_a_rollout_goes_in_waves_and_stops_when_too_many_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[int], waves: Waves, tried: list[list[int]]
) -> None:
    found, done = rollout(tmp_path, monkeypatch, failing, 8, waves)
    assert found == tried
    everyone = [number for wave in tried for number in wave]
    assert [int(outcome.target.name) for outcome in done.outcomes] == everyone
    assert done.failed == len(failing & set(everyone))
    assert [int(target.name) for target in done.spared] == list(range(len(done.outcomes), 8))


def test_waves_that_make_no_sense_are_refused() -> None:
    for wrong in ({"canary": -1}, {"wave": 0}, {"max_failures": 1.5}):
        with pytest.raises(InputError, match="waves need"):
            Waves(**wrong)  # type: ignore[arg-type]


def test_a_bundle_that_changes_after_it_was_verified_is_not_pushed(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    path = kit.bundle("1.0.0", 1)
    with Bundle.open(path) as bundle:
        kit.bundle("1.0.1", 2).replace(path)
        with_errors = push_all(bundle, [Target("a", "local:"), Target("b", "local:")], waves=Waves(2))
    assert all("was replaced after it was verified" in str(outcome.error) for outcome in with_errors.outcomes)
    assert not any(isinstance(outcome.error, DeviceError) for outcome in with_errors.outcomes)


def test_the_command_reports_which_devices_failed_and_which_were_spared(
    client_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(bundle: Bundle, target: Target, *_: Any) -> Pushed:
        if target.address.endswith("b"):
            raise HealthError("it is ill", remedy="Heal it.")
        return Pushed(target.name, "gadget", "1.0.0", "any", "committed", "/x/current", sent_files=2, sent_bytes=1500)

    monkeypatch.setattr(fleet, "push", one)
    kit = Kit(tmp_path)
    push = ["release", "push", str(kit.bundle("1.0.0", 1)), "--allowed-signers", str(kit.allowed), "--target"]
    assert main([*push, "ssh://a,ssh://b,ssh://c,ssh://d", "--wave", "2"]) == 11
    printed = capsys.readouterr()
    assert "ssh://a: switched (the first release); variant any, sent 1.5 kB in 2 files" in printed.out
    assert "ssh://b: it is ill" in printed.err
    assert "Heal it." in printed.err
    assert "stopped: 1 of 3 devices failed" in printed.err
    assert "Not touched: ssh://d" in printed.err
    assert main([*push, "ssh://a,ssh://b,ssh://c,ssh://d", "--wave", "2", "--max-failures", "50%", "--json"]) == 11
    document = json.loads(capsys.readouterr().out)
    assert (document["failed"], document["spared"], document["version"]) == (1, [], "1.0.0")
    assert [device["target"] for device in document["devices"]] == ["ssh://a", "ssh://b", "ssh://c", "ssh://d"]
    assert document["devices"][1]["error"] == {"kind": "HealthError", "message": "it is ill", "remedy": "Heal it."}
    assert main([*push, "ssh://b"]) == 1
    assert main([*push, "ssh://a", "--max-failures", "half"]) == 2


def test_a_device_without_releases_is_named(client_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "prune"):
        assert main(["release", command, "--target", "local"]) == 0
        assert capsys.readouterr().out == "local: no releases\n"
    assert main(["release", "rollback", "--target", "local"]) == 1
    assert "local has no releases\nNothing was released to" in capsys.readouterr().err
