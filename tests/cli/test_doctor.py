"""``edgeprune doctor``: what it says of this machine and of a device, and its exit code."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import device_info

from edgeprune.cli import checks, main, target_checks
from edgeprune.devices import Target
from edgeprune.devices.provision import Setup
from edgeprune.errors import HostKeyError, NoRuntimeError


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr("edgeprune.cli.checks.time.sleep", lambda seconds: None)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert document["broken"] == sum(one["state"] == "broken" for one in document["checks"])
    return code, {f"{one['where']}: {one['name']}": one for one in document["checks"]}


def test_this_machine_is_looked_over(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "nowhere"))
    code, found = doctor(capsys)
    assert code == 0
    assert found["this machine: python"]["state"] == "ok"
    assert "cpu" in found["this machine: torch"]["found"].lower()
    assert found["this machine: lock"]["state"] == "ok"
    keys, data = found["this machine: ssh keys"], found["this machine: EDGEPRUNE_DATA"]
    assert (keys["state"], data["state"]) == ("missing", "warning")
    assert "ssh-keygen" in keys["remedy"]
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text("a key")
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    _, found = doctor(capsys)
    assert (found["this machine: ssh keys"]["state"], found["this machine: EDGEPRUNE_DATA"]["state"]) == ("ok", "ok")


def test_a_package_that_is_needed_and_missing_is_an_error_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "rich" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    code, found = doctor(capsys)
    packages = found["this machine: packages"]
    assert (code, packages["state"]) == (1, "broken")
    assert "scipy is not installed" in packages["found"]
    assert "rich 0.0.1 is not" in packages["found"]
    assert packages["remedy"].startswith("pip install ")
    assert '"scipy>=' in packages["remedy"]


def test_a_check_that_fails_is_a_line_and_not_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_memory", lambda: 1 / 0)
    code, found = doctor(capsys)
    assert code == 1
    assert "this machine: clock" in found
    assert "ZeroDivisionError" in next(one["found"] for one in found.values() if one["state"] == "broken")


def look(monkeypatch: pytest.MonkeyPatch, address: str = "local:", **changes: Any) -> dict[str, checks.Check]:
    info = replace(device_info(), address=address, **changes)
    monkeypatch.setattr("edgeprune.bench.probe", lambda target: info)
    return {one.name: one for one in target_checks.target_checks(Target("pi", address))}


def test_a_device_is_looked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"governor": "ondemand", "throttled": ["soft temperature limit"], "loadavg": 9.0, "temperatures_c": {}}
    found = look(monkeypatch, runtimes={}, broken={"tflite": "no libm"}, conditions=state, cores=4, meters=())
    assert (found["connection"].state, found["engines"].state) == ("ok", "broken")
    assert "no libm" in found["engine tflite"].found
    assert (found["clocks"].state, found["heat"].state, found["load"].state) == ("warning", "warning", "warning")
    assert "--tune" in str(found["clocks"].remedy)
    good = look(monkeypatch, runtimes={"tflite": ("ai-edge-litert", "2.3.0")}, broken={}, conditions={"governor": "performance"})
    assert {found.state for found in good.values() if found.name in ("engine tflite", "clocks", "heat", "load")} == {"ok"}
    assert "setup" not in good, "runtimes of local: come with pip"


def test_what_setup_would_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Setup("ssh://pi@pi", "/usr/bin/python3", "p", ("a.whl", "b.whl"), ("b.whl",), 1, 1, {})
    monkeypatch.setattr("edgeprune.devices.provision.set_up", lambda address, **given: planned)
    found = look(monkeypatch, "ssh://pi@pi")["setup"]
    assert (found.state, found.remedy) == ("missing", "edgeprune setup pi")
    assert "1 wheels with /usr/bin/python3" in found.found
    monkeypatch.setattr("edgeprune.devices.provision.set_up", lambda address, **given: replace(planned, missing=()))
    assert look(monkeypatch, "ssh://pi@pi")["setup"].state == "ok"

    def none_fits(address: str, **given: Any) -> Setup:
        raise NoRuntimeError("no wheel fits", remedy="Take another Python.")

    monkeypatch.setattr("edgeprune.devices.provision.set_up", none_fits)
    assert look(monkeypatch, "ssh://pi@pi")["setup"].remedy == "Take another Python."


def test_a_device_that_cannot_be_reached_is_broken_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(target: str) -> None:
        raise HostKeyError("the key of pi is not known", remedy="ssh pi once.")

    monkeypatch.setattr("edgeprune.bench.probe", refused)
    monkeypatch.setattr(checks, "host_checks", lambda: iter(()))
    assert main(["doctor", "--target", "ssh://pi@pi"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN" in said
    assert "ssh pi once." in said
    assert "1 broken" in said
