"""External meters that write lines, from a command or a serial port: what is understood, and what is refused."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from edgeprune.targets.runner.meters import METERS, Meter, MeterError, stream


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["2.5"], (None, 2.5)),
        (["time_s,power_mw", "1,2500"], (None, 2.5)),
        (["Voltage_V Current_A", "5 0.5"], (None, 2.5)),
        (["t;energy_j;power_w", "1;7.5;2.5"], (7.5, 2.5)),
    ],
)
def test_lines_of_external_meters(lines: list[str], expected: tuple) -> None:
    parser = stream.Lines()
    assert [parser.parse(line) for line in lines][-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    "lines", [["2.5 W"], ["nan"], ["1,2"], [""], ["power_w", "x"], ["power_w,time", "2.5"], ["time_s,humidity"], ["voltage_v"], ["inf"]]
)
def test_damaged_lines_raise(lines: list[str]) -> None:
    parser = stream.Lines()
    with pytest.raises(MeterError):
        list(map(parser.parse, lines))
    with pytest.raises(MeterError, match="hold none of"):
        stream.Lines(["humidity"])


def test_a_stream_that_ends_is_not_energy(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import time\nfor _ in range(9):\n  print(2.5, flush=True); time.sleep(.01)\n")
    meter = METERS.get("command").connect(f"{sys.executable} {tmp_path}/tool.py")
    with pytest.raises(MeterError, match="ended"):
        _keep_reading(meter)
    meter.close()


def _keep_reading(meter: Meter) -> None:
    for _ in range(200):
        meter.start()
        time.sleep(0.02)


def test_a_port_that_cannot_be_set_up_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    for source in (f"{tmp_path}/file@115200", f"{tmp_path}/file@115200,colour"):
        with pytest.raises(MeterError):
            METERS.get("serial").connect(source)
    assert len(os.listdir("/proc/self/fd")) == before
