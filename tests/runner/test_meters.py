"""Every energy meter on the files that its device shows: the contract, the parsers on good and damaged recordings."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edgeprune.targets.runner import energy
from edgeprune.targets.runner.meters import METERS, Meter, MeterError, available, battery, pmic
from edgeprune.targets.runner.protocol import RunnerError

from edgeprune.testing.meters import MeterContract


def write(root: Path, files: dict[str, object]) -> None:
    """Files that appear whole: a reader never sees half of one."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(f"{content}\n")
        os.replace(part, path)


class Drawing:
    """A device that draws some watts; ``show`` writes what its meter then tells, every few milliseconds."""

    def __init__(self, show: Callable[[float, float], None]) -> None:
        self.watts, self._show, self._ended = 0.0, show, threading.Event()
        self._joules, self._last, self._lock = 0.0, time.monotonic(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(0.004):
            self._tell(None)

    def _tell(self, watts: float | None) -> None:
        with self._lock:
            now = time.monotonic()
            self._joules += self.watts * (now - self._last)
            self._last, self.watts = now, self.watts if watts is None else watts
            self._show(self.watts, self._joules)

    def __call__(self, watts: float) -> None:
        self._tell(watts)
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()


class _FileContract(MeterContract):
    """A meter that reads files below a root."""

    name: str
    folder: str
    broken: str

    def show(self, root: Path, watts: float, joules: float) -> None:
        raise NotImplementedError

    @pytest.fixture
    def error(self) -> type[Exception]:
        return MeterError

    @pytest.fixture
    def draw(self, tmp_path: Path) -> Iterator[Drawing]:
        drawing = Drawing(lambda watts, joules: self.show(tmp_path, watts, joules))
        yield drawing
        drawing.end()

    @pytest.fixture
    def find(self, tmp_path: Path) -> Callable[[], Meter | None]:
        return lambda: METERS.get(self.name).open(str(tmp_path))

    @pytest.fixture
    def remove(self, tmp_path: Path) -> Callable[[], None]:
        def away() -> None:
            if (tmp_path / self.folder).exists():
                os.rename(tmp_path / self.folder, tmp_path / "gone")

        return away

    @pytest.fixture
    def damage(self, tmp_path: Path, draw: Drawing) -> Callable[[], None]:
        def spoil() -> None:
            draw.end()
            write(tmp_path, {self.broken: "12,5 mA?"})

        return spoil

    def test_the_probe_lists_it(self, tmp_path: Path, draw: Drawing) -> None:
        draw(2.0)
        assert available(str(tmp_path)) == [self.name]


class TestRapl(_FileContract):
    name, folder = "rapl", "sys/class/powercap"
    broken = "sys/class/powercap/intel-rapl:0/energy_uj"

    def show(self, root: Path, watts: float, joules: float) -> None:
        for zone in ("0", "1"):
            base = f"sys/class/powercap/intel-rapl:{zone}"
            write(root, {f"{base}/energy_uj": int(5e5 * joules) % 1_000_001, f"{base}/max_energy_range_uj": 1_000_000})
        write(root, {"sys/class/powercap/intel-rapl:0:0/energy_uj": 5, "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 9})


class TestIna3221Hwmon(_FileContract):
    """JetPack 5 and later, as on a Jetson Orin Nano."""

    name, folder = "ina3221", "sys/bus"
    _base = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    broken = f"{_base}/curr1_input"

    def show(self, root: Path, watts: float, joules: float) -> None:
        files = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": int(200 * watts)}
        files |= {"in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 800}
        files |= {"in7_label": "sum of shunt voltages", "in7_input": 0, "update_interval": 36, "samples": 16}
        write(root, {f"{self._base}/{name}": content for name, content in files.items()})


class TestIna3221Iio(_FileContract):
    """JetPack 4 on a Jetson Nano, without its input rail: the rails are summed."""

    name, folder = "ina3221", "sys/bus"
    _base = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    broken = f"{_base}/in_power1_input"

    def show(self, root: Path, watts: float, joules: float) -> None:
        files = {"rail_name_0": "POM_5V_GPU", "in_power0_input": 500, "rail_name_1": "POM_5V_CPU", "rail_name_2": "NC"}
        files |= {"in_power1_input": int(1000 * watts) - 500, "in_power2_input": 99_999}
        write(root, {f"{self._base}/{name}": content for name, content in files.items()})


class TestIna238(_FileContract):
    name, folder, broken = "ina238", "sys/class/hwmon", "sys/class/hwmon/hwmon2/power1_input"

    def show(self, root: Path, watts: float, joules: float) -> None:
        write(root, {"sys/class/hwmon/hwmon0/name": "cpu_thermal", "sys/class/hwmon/hwmon2/name": "ina238"})
        write(root, {"sys/class/hwmon/hwmon2/power1_input": int(1e6 * watts)})


class TestBattery(_FileContract):
    """A gauge that tells microamperes, and a negative current while it discharges."""

    name, folder, broken = "battery", "sys/class/power_supply", "sys/class/power_supply/battery/current_now"
    _tick = 0

    def show(self, root: Path, watts: float, joules: float) -> None:
        self._tick += 1
        current = -int(1e6 * watts / 4.0) + (self._tick // 5) % 2 * 1000  # a new value every 20 ms or so
        files = {"type": "Battery", "status": "Discharging", "voltage_now": 4_000_000, "current_now": current}
        write(root, {f"sys/class/power_supply/battery/{name}": content for name, content in files.items()})
        write(root, {"sys/class/power_supply/usb/type": "USB"})


PMIC = """     3V7_WL_SW_A current(0)={wl:.8f}A
       3V3_SYS_A current(1)=0.04977216A
      VDD_CORE_A current(7)={core:.8f}A
     3V7_WL_SW_V volt(8)=3.70000000V
       3V3_SYS_V volt(9)=3.31000000V
      VDD_CORE_V volt(15)=0.75000000V
         EXT5V_V volt(24)=5.15124000V
          BATT_V volt(25)=0.00488400V
"""


class TestPmic(_FileContract):
    """A ``vcgencmd`` that prints a recorded reading."""

    name, folder, broken = "pmic", "bin", "reading"

    def show(self, root: Path, watts: float, joules: float) -> None:
        tool = root / "bin/vcgencmd"
        if not tool.exists():
            tool.parent.mkdir()
            tool.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && exec /bin/cat {root}/reading\n')
            tool.chmod(0o755)
        write(root, {"reading": PMIC.format(wl=0.1, core=(watts - 0.37 - 0.04977216 * 3.31) / 0.75)})

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin")


class TestCommand(_FileContract):
    """An external meter whose tool writes CSV."""

    name, folder, broken = "command", "nothing", "reading"
    program = """
import sys, time
print("time_s,voltage_v,current_ma")
while True:
    print(open(sys.argv[1]).read().strip(), flush=True)
    time.sleep(0.01)
"""

    def show(self, root: Path, watts: float, joules: float) -> None:
        write(root, {"reading": f"0.1, 5.0, {200 * watts}"})

    @pytest.fixture
    def find(self, tmp_path: Path) -> Callable[[], Meter | None]:
        (tmp_path / "tool.py").write_text(self.program)
        here = (tmp_path / "reading").exists
        return lambda: METERS.get("command").connect(f"{sys.executable} {tmp_path}/tool.py {tmp_path}/reading") if here() else None

    def test_the_probe_lists_it(self, tmp_path: Path, draw: Drawing) -> None:
        draw(2.0)
        assert available(str(tmp_path)) == []  # only the user can name it


class TestSerial(_FileContract):
    """A meter at a serial port that counts energy."""

    name, folder, broken = "serial", "nothing", "nothing"

    @pytest.fixture(autouse=True)
    def port(self) -> Iterator[None]:
        self.master, self.slave = os.openpty()
        os.write(self.master, b"4; the end of a line\n")
        yield
        os.close(self.master)
        os.close(self.slave)

    def show(self, root: Path, watts: float, joules: float) -> None:
        os.write(self.master, f"{joules / 3.6:.9f}; ok\n".encode())

    @pytest.fixture
    def find(self) -> Callable[[], Meter | None]:
        return lambda: METERS.get("serial").connect(f"{os.ttyname(self.slave)}@115200,energy_mwh,note") if self.folder else None

    @pytest.fixture
    def remove(self) -> Callable[[], None]:
        return lambda: setattr(self, "folder", "")

    @pytest.fixture
    def damage(self, draw: Drawing) -> Callable[[], None]:
        def spoil() -> None:
            draw.end()
            os.write(self.master, b"1.2.3; ok\n")

        return spoil

    def test_the_probe_lists_it(self, tmp_path: Path, draw: Drawing) -> None:
        assert available(str(tmp_path)) == []


# parsers and judgements


def test_rapl_counts_through_its_wrap(tmp_path: Path) -> None:
    base = "sys/class/powercap/intel-rapl:0"
    write(tmp_path, {f"{base}/energy_uj": 900_000, f"{base}/max_energy_range_uj": 1_000_000})
    meter = METERS.get("rapl").open(str(tmp_path))
    meter.start()
    write(tmp_path, {f"{base}/energy_uj": 99_999})
    assert meter.stop() == pytest.approx(0.2)
    write(tmp_path, {f"{base}/energy_uj": 1_000_001})
    with pytest.raises(MeterError, match="range"):
        meter.start()


def test_both_formats_of_the_pmic() -> None:
    rails = pmic.parse(PMIC.format(wl=0.09759, core=2.0))
    assert rails == pytest.approx({"3V7_WL_SW": 0.09759 * 3.7, "3V3_SYS": 0.04977216 * 3.31, "VDD_CORE": 1.5})
    assert pmic.parse("VDD_CORE_A=2.5A\nVDD_CORE_V=0.8V\nEXT5V_V=5.1V\n") == pytest.approx({"VDD_CORE": 2.0})


@pytest.mark.parametrize(
    "text",
    [
        "",
        'error=1 error_msg="Command not registered"',
        "VDD_CORE_A current(7)=1.2.3A\nVDD_CORE_V volt(15)=0.8V",
        "VDD_CORE_A current(7)=1.2A\n",
        "VDD_CORE_A current(7)=1.2V\nVDD_CORE_V volt(15)=0.8V",
        "VDD_CORE_V volt(15)=0.8V",
        PMIC.format(wl=1, core=1)[:-20],
    ],
)
def test_a_damaged_reading_of_the_pmic_raises(text: str) -> None:
    with pytest.raises(MeterError, match="pmic_read_adc"):
        pmic.parse(text)


def test_a_hwmon_with_an_input_rail_does_not_count_the_others(tmp_path: Path) -> None:
    TestIna3221Hwmon().show(tmp_path, 10.0, 0.0)
    meter = METERS.get("ina3221").open(str(tmp_path))
    assert meter.watts() == pytest.approx(10.0)
    assert meter.covers == "module input VDD_IN, averaged over 16 samples"
    TestIna3221Iio().show(tmp_path / "nano", 4.0, 0.0)
    summed = METERS.get("ina3221").open(str(tmp_path / "nano"))
    assert summed.watts() == pytest.approx(4.0)
    assert "POM_5V_GPU, POM_5V_CPU" in summed.covers


@pytest.mark.parametrize(("told", "expected"), [(3_850_000, 3.85), (4400, 4.4), (11_400_000, 11.4)])
def test_a_batterys_voltage_in_either_unit(told: int, expected: float) -> None:
    assert battery.volts(told) == pytest.approx(expected)


@pytest.mark.parametrize("told", [0, -1, 42, 900_000_000])
def test_a_voltage_that_no_battery_has_raises(told: int) -> None:
    with pytest.raises(MeterError, match=str(told)):
        battery.volts(told)


@pytest.mark.parametrize(("readings", "amperes"), [([-450_000, -460_000], 0.46), ([460, 450], 0.46), ([-1600], 1.6), ([1_600_000], 1.6)])
def test_a_batterys_current_in_either_unit_and_sign(readings: list[int], amperes: float) -> None:
    largest = max(abs(value) for value in readings)
    assert battery.ampere_scale(readings) * largest == pytest.approx(amperes)


def test_a_gauge_without_a_reading_raises() -> None:
    with pytest.raises(MeterError, match="current of 0"):
        battery.ampere_scale([0, 0])
    with pytest.raises(MeterError, match="too slow"):
        battery.update_period_s([1.0, 2.0])
    assert battery.update_period_s([0.0, 1.0, 2.1, 3.0, 9.0]) == pytest.approx(1.1)


def test_a_charging_battery_is_not_a_meter(tmp_path: Path) -> None:
    case = TestBattery()
    case.show(tmp_path, 2.0, 0.0)
    meter = METERS.get("battery").open(str(tmp_path))
    meter.prepare = lambda: None
    write(tmp_path, {"sys/class/power_supply/battery/status": "Charging"})
    with pytest.raises(MeterError, match="unplug the charger"):
        meter.start()
    assert METERS.get("battery").open(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wattmeter", "unknown meter 'wattmeter'; known: battery, command, ina238, ina3221, pmic, rapl, serial"),
        ("command:", "the meter command: it needs the command"),
        ("command:/no/such/tool --csv", "the meter command: the command '/no/such/tool' cannot be started"),
        ("serial:/dev/no-such-port@9600", "the meter serial: /dev/no-such-port"),
        ("serial:/dev/null@123", "usual speed"),
        ("ina238", "this device has no meter ina238"),
    ],
)
def test_a_meter_that_the_user_names_wrongly(name: str, message: str) -> None:
    with pytest.raises(RunnerError, match=message.replace("'", ".")):
        energy.find_meter(name)
