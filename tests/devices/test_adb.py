"""Android devices: the real adb client against a device of the tests, and dumps as phones write them."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from board.adbd import Adbd

from edgeprune.bench import probe
from edgeprune.cli import main
from edgeprune.devices import Session, connect, parse_address
from edgeprune.devices.adb import AdbSession
from edgeprune.devices.android import parse_battery, parse_thermal
from edgeprune.devices.connect import with_retries
from edgeprune.devices.provision import set_up
from edgeprune.errors import ConnectionLostError, DeviceError, NoRuntimeError, TargetError, UnreachableError
from edgeprune.testing.sessions import SessionContract

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3216000
  status: 2
  health: 2
  present: true
  level: 84
  scale: 100
  voltage: 4331
  temperature: 283
  technology: Li-ion
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
ThermalStatusListeners:
\tcallbacks: 3
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=30.1, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=28.300001, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=41.5, mType=3, mName=VIRTUAL-SKIN, mStatus=2}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 6",
    "ro.soc.model": "GS101",
    "ro.build.version.release": "14",
    "ro.serialno": "1A2B",
}


@pytest.fixture
def phone(adb_server: None, tmp_path: Path) -> Iterator[Adbd]:
    """A device that plays a Pixel 6."""
    with Adbd(tmp_path / "phone") as device:
        cases = "\n".join(f"{name}) echo '{value}';;" for name, value in PROPERTIES.items())
        device.tool("getprop", f'case "$1" in\n{cases}\n*) echo;;\nesac')
        device.tool("dumpsys", f"case $1 in\nbattery) cat << 'END'\n{BATTERY}END\n;;\nthermalservice) cat << 'END'\n{THERMAL}END\n;;\nesac")
        yield device
        subprocess.run(["adb", "disconnect", device.serial], capture_output=True, check=False)


@pytest.mark.device
class TestAdb(SessionContract):
    @pytest.fixture
    def session(self, phone: Adbd) -> Iterator[Session]:
        with connect(f"adb:{phone.serial}") as session:
            yield session

    @pytest.fixture
    def folder(self, session: Session, phone: Adbd) -> str:
        made = f"{phone.folder}/{uuid.uuid4().hex}"
        session.mkdir(made)
        return made

    def test_a_signal_is_a_negative_code(self, session: Session) -> None:
        assert session.run(["sh", "-c", "kill -9 $$"]).code == -9

    def test_home_is_where_adbs_user_may_write(self, session: Session, phone: Adbd) -> None:
        assert session.run(["sh", "-c", "echo $HOME $TMPDIR"]).stdout.decode() == f"{phone.folder} {phone.folder}\n"

    def test_a_command_that_is_left_is_hung_up(self, session: Session, phone: Adbd) -> None:
        process = session.start(["sh", "-c", f"echo $$ > {phone.folder}/pid; exec sleep 600"])
        end = time.monotonic() + 120
        while not (phone.folder / "pid").exists() or not (pid := (phone.folder / "pid").read_text().strip()):
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.device
def test_a_cable_that_is_pulled_is_a_lost_connection_not_an_end(phone: Adbd) -> None:
    with connect(f"adb:{phone.serial}") as session:
        process = session.start(["sh", "-c", "echo begun; sleep 60"])
        with pytest.raises(ConnectionLostError, match="was lost"):
            process.follow(20, lambda line: phone.drop())
        data = os.urandom(1 << 22)
        with pytest.raises(ConnectionLostError):
            session.put(data, f"{phone.folder}/file", lambda sent, _: phone.drop() if sent >= 1 << 21 else None)
        assert not (phone.folder / "file").exists()
        assert with_retries(lambda: session.put(data, f"{phone.folder}/file"), 4)  # adb takes a while to come back
    assert (phone.folder / "file").read_bytes() == data


@pytest.mark.device
def test_a_phone_is_probed_by_its_own_tools(phone: Adbd) -> None:
    info = probe(f"adb:{phone.serial}")
    assert (info.board, info.os, info.cpu, info.libc) == ("Google Pixel 6", "Android 14", "GS101", "bionic")
    assert info.memory_bytes > 0
    assert info.cores >= 1
    assert info.conditions["thermal_status"] == "moderate"
    assert info.conditions["temperatures_c"] == {"battery": 28.3, "VIRTUAL-SKIN": 41.5}
    assert info.conditions["battery"]["level_percent"] == 84.0


@pytest.mark.device
def test_the_probe_command_shows_a_phone(phone: Adbd, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", f"adb:{phone.serial}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["conditions"]["battery"]["plugged"] is True
    assert main(["probe", f"adb:{phone.serial}"]) == 0
    assert "battery 84 %, 28.3 C, charging" in " ".join(capsys.readouterr().out.split())


@pytest.mark.device
def test_what_is_not_android_and_what_reports_no_heat(phone: Adbd) -> None:
    phone.tool("dumpsys", 'echo "Can\'t find service: thermalservice"')
    assert probe(f"adb:{phone.serial}").conditions["thermal_status"] is None
    phone.tool("getprop", "echo")
    with pytest.raises(DeviceError, match="does not answer as Android"):
        probe(f"adb:{phone.serial}")


@pytest.mark.device
def test_a_phone_gets_no_wheels(phone: Adbd) -> None:
    with pytest.raises(NoRuntimeError, match=r"Android|no Python") as caught:
        set_up(f"adb:{phone.serial}")
    assert "benchmark_model" in str(caught.value.remedy)


@pytest.mark.device
def test_devices_that_are_not_there(adb_server: None, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="adb knows no device 'nobody'") as caught:
        connect("adb:nobody")
    assert "Its devices: " in str(caught.value.remedy)
    with pytest.raises(UnreachableError, match="refused"):
        connect("adb:127.0.0.1:1", retries=0)
    with Adbd(tmp_path / "old", features="cmd") as old, pytest.raises(DeviceError, match="too old"):
        connect(f"adb:{old.serial}")


@pytest.mark.device
@pytest.mark.parametrize("serial", ["$(touch /tmp/never)", "a b;c", "-s", "'\"`"])
def test_odd_serial_numbers_reach_adb_as_they_are(adb_server: None, serial: str) -> None:
    with pytest.raises(TargetError) as caught:
        connect(f"adb:{quote(serial)}")
    assert repr(serial) in caught.value.message


def test_adb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="adb is not installed") as caught:
        connect("adb:1A2B")
    assert "apt-get install adb" in str(caught.value.remedy)


def test_adbs_own_words_are_in_the_error(tmp_path: Path) -> None:
    client = tmp_path / "adb"
    client.write_text("#!/bin/sh\necho 'error: device offline' >&2\n")
    client.chmod(0o755)
    with pytest.raises(ConnectionLostError, match="adb:1A2B was lost: device offline"):
        AdbSession("adb:1A2B", [str(client)]).run(["true"])


@pytest.mark.parametrize(
    ("text", "serial", "python"),
    [
        ("adb:1A2B", "1A2B", None),
        ("adb:10.0.0.7:5555", "10.0.0.7:5555", None),
        ("adb:adb-1A2B-x7._adb-tls-connect._tcp", "adb-1A2B-x7._adb-tls-connect._tcp", None),
        ("adb:a%20b?python=/data/py", "a b", "/data/py"),
    ],
)
def test_addresses(text: str, serial: str, python: str | None) -> None:
    address = parse_address(text)
    assert (address.scheme, address.host, address.python) == ("adb", serial, python)


@pytest.mark.parametrize("text", ["adb:", "adb://host", "adb:x?key=1"])
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(TargetError):
        parse_address(text)


def test_a_battery_as_dumped() -> None:
    expected = {"level_percent": 84.0, "voltage_v": 4.331, "temperature_c": 28.3, "status": "charging", "plugged": True}
    assert parse_battery(BATTERY) == expected
    unplugged = BATTERY.replace("USB powered: true", "USB powered: false").replace("status: 2", "status: 3")
    assert {**expected, "status": "discharging", "plugged": False} == parse_battery(unplugged)


@pytest.mark.parametrize("dump", ["", "Can't find service: battery", BATTERY.replace("level: 84", ""), BATTERY.replace("283", "warm")])
def test_a_damaged_battery_dump_raises(dump: str) -> None:
    with pytest.raises(ValueError, match=r"battery reports no|invalid literal"):
        parse_battery(dump)


def test_heat_as_dumped() -> None:
    assert parse_thermal(THERMAL) == {"status": "moderate", "temperatures_c": {"battery": 28.3, "VIRTUAL-SKIN": 41.5}}
    assert parse_thermal("Thermal Status: 0\n") == {"status": "none", "temperatures_c": {}}
    assert parse_thermal("Thermal Status: 9\n")["status"] == "level 9"
    with pytest.raises(ValueError, match="no Thermal Status"):
        parse_thermal("Can't find service: thermalservice")
