"""What every energy meter of the runner must do.  Inherit from :class:`MeterContract` and give the fixtures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_WINDOW_S = 0.15


class MeterContract:
    """Fixtures to give.

    ``find``: opens the meter, None where there is none; ``remove``: takes it away from the device; ``damage``: makes its readings
    something that is not a reading; ``draw``: sets what the device draws, in watts, for as long as the test lasts; ``error``:
    the class of error that a reading raises.  ``tolerance``: how far from the truth a reading may be, as a share.
    """

    @pytest.fixture
    def tolerance(self) -> float:
        return 0.3

    @pytest.fixture
    def meter(self, find: Callable[[], Any], draw: Callable[[float], None]) -> Iterator[Any]:
        draw(2.0)
        opened = find()
        assert opened is not None
        opened.prepare()
        yield opened
        opened.close()

    def _check_window(self, meter: Any, watts: float, tolerance: float, seconds: float = _WINDOW_S) -> None:
        """Of a window only its least and its most are known: starting and stopping take a while, and longer where much else runs.  What
        plays the device may be delayed as well, so one of four windows has to be right."""
        found: list[tuple[float, float, float]] = []
        for _ in range(4):
            before = time.monotonic()
            meter.start()
            begin = time.monotonic()
            time.sleep(seconds)
            end = time.monotonic()
            joules = meter.stop()
            found.append((watts * (end - begin), joules, watts * (time.monotonic() - before)))
            if (1 - tolerance) * found[-1][0] <= joules <= (1 + tolerance) * found[-1][2]:
                return
        raise AssertionError(f"none of these windows (least, measured and most joules) is right: {found}")

    def test_says_what_it_is_and_how_often_it_is_updated(self, meter: Any) -> None:
        assert meter.name
        assert meter.covers
        assert 0 < meter.period_s < 60

    def test_measures_what_is_drawn(self, meter: Any, draw: Callable[[float], None], tolerance: float) -> None:
        for watts in (2.0, 6.0):
            draw(watts)
            self._check_window(meter, watts, tolerance)

    def test_a_window_does_not_hold_the_one_before(self, meter: Any, tolerance: float) -> None:
        self._check_window(meter, 2.0, tolerance, 3 * _WINDOW_S)
        self._check_window(meter, 2.0, tolerance)

    def test_a_device_without_it_has_none(self, find: Callable[[], Any], remove: Callable[[], None]) -> None:
        remove()
        assert find() is None

    def test_a_damaged_reading_raises_and_is_never_a_number(self, meter: Any, damage: Callable[[], None], error: Any) -> None:
        meter.start()
        damage()
        with pytest.raises(error) as caught:
            meter.stop()
        assert str(caught.value)

    def test_closing_twice_is_nothing(self, meter: Any) -> None:
        meter.start()
        meter.close()
        meter.close()
