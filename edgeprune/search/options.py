"""How a run is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import InputError

Schedule = Literal["auto", "one-shot", "iterative"]


@dataclass(frozen=True)
class Options:
    """``criterion``: None is Taylor with training data, L2 without. ``sensitivity``: weigh groups by measured calibration loss. ``reconstruction``:
    solve the weights
    that are left anew, from calibration data.
    ``schedule``: "auto" is iterative (two
    stages) below 40 % of the dense latency. ``epochs``: of fine-tuning in all; None is the task's, 0 none. ``engine``: what the
    device runs;
    None takes TFLite where it can. ``formats``: what is exported at the end. ``threads``: None is the device's cores, at most 4.
    ``step``: block of
    channels the widths are multiples of; None is the profile's. ``measurements``: most whole-model measurements of pruned models.
    """

    criterion: str | None = None
    sensitivity: bool = True
    reconstruction: bool = True
    schedule: Schedule = "auto"
    epochs: float | None = None
    engine: str | None = None
    formats: tuple[str, ...] = ("tflite", "torchscript", "pt2")
    threads: int | None = None
    step: int | None = None
    measurements: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in ("auto", "one-shot", "iterative"):
            raise InputError(f"unknown schedule {self.schedule!r}", remedy="Known schedules: auto, one-shot, iterative.")
        if self.measurements < 1:
            raise InputError(f"measurements {self.measurements} must be at least 1")
        for name in ("threads", "step"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} {value} must be at least 1")
        if self.epochs is not None and not self.epochs >= 0:
            raise InputError(f"epochs {self.epochs} must be zero or more")
