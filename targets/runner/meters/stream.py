"""External meters that write lines: a command, ``command:read-meter --csv``, or a serial port, ``serial:/dev/ttyUSB0@115200,power_mw``.

A line is a number of watts; or the first line names the columns, and the others hold their values, separated by commas, semicolons or white
space.  Known columns: ``power_w``, ``power_mw``, ``voltage_v`` and ``current_a`` or ``current_ma``, and ``energy_j`` or ``energy_mwh``,
counted from whenever.  Other columns are ignored.  A line's time is when it arrives.  A serial port is heard in the middle of a line,
and may have printed its columns long ago: the first line is dropped, and what follows the speed names the columns.
"""

from __future__ import annotations

import math
import os
import re
import select
import shlex
import subprocess
import threading
import time
from typing import Dict, List, Optional, Tuple

from . import METERS, Meter, MeterError, joules

_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_FIRST_LINE_S = 10.0
_PREPARE_LINES = 5
_POWER = {"power_w": 1.0, "power_mw": 1e-3}
_CURRENT = {"current_a": 1.0, "current_ma": 1e-3}
_ENERGY = {"energy_j": 1.0, "energy_mwh": 3.6}


class Lines:
    """Makes readings of lines: (joules counted or None, watts or None)."""

    def __init__(self, columns: Optional[List[str]] = None) -> None:
        self._columns = columns
        if columns:
            self._check()

    def parse(self, line: str) -> Optional[Tuple[Optional[float], Optional[float]]]:
        """One line's reading; None for the one that names the columns.  Raises :class:`MeterError` when it is damaged."""
        words = _SEPARATOR.split(line.strip())
        if self._columns is None and re.match("[A-Za-z_]", words[0]):
            self._columns = [word.lower() for word in words]
            self._check()
            return None
        columns = self._columns or ["power_w"]
        if len(words) != len(columns):
            raise MeterError(f"the line {line[:80]!r} has {len(words)} values where {len(columns)} were expected")
        values = {column: self._number(word, line) for column, word in zip(columns, words) if column in self._known()}
        return self._sum(values, _ENERGY), self._watts(values)

    @staticmethod
    def _known() -> Dict[str, float]:
        return {**_POWER, **_CURRENT, **_ENERGY, "voltage_v": 1.0}

    def _check(self) -> None:
        names = dict.fromkeys(self._columns or [], 1.0)
        if self._watts(names) is None and self._sum(names, _ENERGY) is None:
            raise MeterError(f"the columns {', '.join(names)} hold none of {', '.join(self._known())}")

    @staticmethod
    def _number(word: str, line: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MeterError(f"the line {line[:80]!r} holds {word!r}, which is not a number")
        return value

    @staticmethod
    def _sum(values: Dict[str, float], units: Dict[str, float]) -> Optional[float]:
        return next((values[name] * unit for name, unit in units.items() if name in values), None)

    def _watts(self, values: Dict[str, float]) -> Optional[float]:
        current = self._sum(values, _CURRENT)
        if current is not None and "voltage_v" in values:
            return current * values["voltage_v"]
        return self._sum(values, _POWER)


class StreamMeter(Meter):
    """Reads lines from a descriptor in a thread.  The period is what the lines' distance is."""

    order = 9

    def __init__(self, descriptor: int, source: str, lines: Lines, skip: int = 0) -> None:
        self.covers = source
        self._lines, self._skip = lines, skip
        self.period_s = 1.0
        self._descriptor = descriptor
        self._readings: List[Tuple[float, Optional[float], Optional[float]]] = []
        self._failure: Optional[MeterError] = None
        self._arrived = threading.Condition()
        self._closed = False
        self._begin = 0.0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @classmethod
    def find(cls, root: str = "/") -> Optional[Meter]:
        """Never by itself: the user names it."""
        return None

    def _follow(self) -> None:
        pending, skip = b"", self._skip
        try:
            while not self._closed:
                if not select.select([self._descriptor], [], [], 0.1)[0]:
                    continue
                data = os.read(self._descriptor, 4096)
                if not data:
                    raise MeterError("the stream of readings ended")
                *complete, pending = (pending + data).split(b"\n")
                for line in filter(bytes.strip, complete[skip:]):
                    self._add(self._lines.parse(line.decode("utf-8", "replace")))
                skip = max(0, skip - len(complete))
        except (MeterError, OSError) as error:
            with self._arrived:
                self._failure = MeterError(str(error))
                self._arrived.notify_all()

    def _add(self, reading: Optional[Tuple[Optional[float], Optional[float]]]) -> None:
        if reading is not None:
            with self._arrived:
                self._readings.append((time.monotonic(), *reading))
                self._arrived.notify_all()

    def _wait(self, count: int) -> None:
        """Until ``count`` readings are there."""
        with self._arrived:
            done = self._arrived.wait_for(lambda: self._failure or len(self._readings) >= count, _FIRST_LINE_S)
            if self._failure:
                raise self._failure
            if not done:
                raise MeterError(f"no reading for {_FIRST_LINE_S:.0f} s")

    def prepare(self) -> None:
        """Wait for a few lines: how far they are apart is the period."""
        self._wait(_PREPARE_LINES)
        times = [reading[0] for reading in self._readings[:_PREPARE_LINES]]
        self.period_s = max(1e-3, (times[-1] - times[0]) / (len(times) - 1))

    def start(self) -> None:
        with self._arrived:
            if self._failure:
                raise self._failure
            self._readings = []
            self._begin = time.monotonic()

    def stop(self) -> float:
        """Energy from the start to now, of the readings that arrived in between: counted energy by its slope, power by trapezoids.

        One more reading proves that lines still arrive; it is of what came afterwards, and does not count.
        """
        end = time.monotonic()
        self._wait(len(self._readings) + 1)
        inside = [reading for reading in self._readings if reading[0] <= end]
        seconds = inside[-1][0] - inside[0][0] if inside else 0.0
        if seconds <= 0:
            raise MeterError("its readings arrive in bunches, or too seldom: the command must write each line at once")
        first, last = inside[0][1], inside[-1][1]
        if first is not None and last is not None:
            return (last - first) / seconds * (end - self._begin)
        return joules([(moment, watts or 0.0) for moment, _, watts in inside], self._begin, end)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._thread.join()
            os.close(self._descriptor)


@METERS.register("command")
class CommandMeter(StreamMeter):
    """What a command writes to its standard output; it is ended when the meter is closed."""

    name = "command"

    def __init__(self, command: List[str]) -> None:
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except (OSError, ValueError) as error:
            raise MeterError(f"the command {command[0]!r} cannot be started: {error}") from error
        assert self._process.stdout is not None
        super().__init__(os.dup(self._process.stdout.fileno()), " ".join(command), Lines())

    @classmethod
    def connect(cls, source: str) -> Optional[Meter]:
        command = shlex.split(source)
        if not command:
            raise MeterError("it needs the command that reads it: command:TOOL ARGUMENTS")
        return cls(command)

    def close(self) -> None:
        if not self._closed:
            super().close()
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


@METERS.register("serial")
class SerialMeter(StreamMeter):
    """What arrives at a serial port: 8 bits, no parity, 115200 baud unless ``@BAUD`` follows, watts unless ``,COLUMNS`` follow."""

    name = "serial"

    @classmethod
    def connect(cls, source: str) -> Optional[Meter]:
        import termios
        import tty

        place, *columns = source.split(",")
        port, _, baud = place.partition("@")
        speed = getattr(termios, f"B{baud or 115200}", None)
        if not port or speed is None:
            raise MeterError(f"it needs a port and a usual speed, such as serial:/dev/ttyUSB0@115200, not {source!r}")
        lines = Lines([column.lower() for column in columns])
        try:
            descriptor = os.open(port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise MeterError(f"{port}: {error}") from error
        try:
            tty.setraw(descriptor, termios.TCSANOW)
            settings = termios.tcgetattr(descriptor)
            settings[4] = settings[5] = speed
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            os.close(descriptor)
            raise MeterError(f"{port}: {error}") from error
        return cls(descriptor, f"serial port {port}", lines, skip=1)
