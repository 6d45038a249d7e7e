"""How a run is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgeprune.bench.results import check_accelerator
from edgeprune.engines import DEFAULT_FORMATS, FORMATS, TFLITE
from edgeprune.errors import InputError, suggest
from edgeprune.execute import parse_workers
from edgeprune.search.plan.objective import MEASURED, OBJECTIVES
from edgeprune.search.precision import PRECISIONS, find_precision
from edgeprune.task import Task
from edgeprune.tuning.optimizer import OPTIMIZERS, SCHEDULES

_MOST = 1024
_LEAVE_OUT = "Correct it, or leave it out: the default does for most models."

Schedule = Literal["auto", "one-shot", "iterative", "online"]
Training = Literal["fine-tune", "scratch"]


OF_TRAINING = (
    *("distillation", "weight_decay", "optimizer", "learning_rate"),
    *("lr_schedule", "warmup", "clip_norm", "label_smoothing", "ema"),
)
"""What takes the place of the task's fields of the same names."""

WHERE = ("device", "workers", "gpus_per_candidate")
"""What says where a run computes, not what: it may be resumed elsewhere."""


@dataclass(frozen=True)
class Options:
    """How channels are scored, the model is pruned and trained, and candidates are measured.

    ``criterion``: how channels are scored; None means Taylor with training data, L2 without. ``objective``: what a plan shall keep most of
    (one of :data:`edgeprune.search.plan.objective.OBJECTIVES`); "auto" tries all and takes the one whose plan, reconstructed, is nearest to
    the dense model. ``race``: where several are about as near, train them a little first. ``sensitivity``: measure what every width costs
    on calibration data; without, groups are weighed by importance. ``reconstruction``: refit the remaining weights to calibration data.
    ``schedule``: "one-shot"; "iterative", in two stages; "online", step by step while the model trains; "auto" is "one-shot".
    ``training``: "fine-tune" the remaining weights, or train from "scratch". ``epochs``: training epochs in total; None means the task's, 0
    none. ``distillation``, ``optimizer``, ``learning_rate``, ``lr_schedule``, ``warmup``, ``weight_decay``, ``clip_norm``,
    ``label_smoothing``, ``ema``: see :class:`edgeprune.Task`; None means the task's. ``engine``: what the device runs; None means TFLite
    where it can. ``accelerator``: what of the device runs the models (see :class:`edgeprune.bench.BenchOptions`); None means the target's.
    ``precision``: the precisions to try (see :mod:`edgeprune.search.precision`); the best one is kept. ``formats``: those to
    export at the end. ``threads``: None means the device's cores, at most 4. ``step``: widths are multiples of this number; None means the
    profile's. ``measurements``: the largest number of pruned models to measure. ``reuse``: use what earlier runs measured of the same
    plans on this device. ``unfreeze``: train the parameters that pruning changed, even if they are frozen. ``seed``: random seed.
    ``device``: what this machine computes on, as ``Task.device``; None means the task's. ``compile``, ``mixed_precision``: as of the task,
    changed to True and to False. ``workers``: where models are tuned and compared (:func:`edgeprune.execute.parse_workers`); None means
    this process. ``gpus_per_candidate``: CUDA devices, or the part of one, that each of them is given. A run can be resumed on another
    device and by other workers.
    """

    criterion: str | None = None
    objective: str = "auto"
    race: bool = False
    sensitivity: bool = True
    reconstruction: bool = True
    schedule: Schedule = "auto"
    training: Training = "fine-tune"
    distillation: float | None = None
    weight_decay: float | None = None
    epochs: float | None = None
    engine: str | None = None
    accelerator: str | None = None
    precision: tuple[str, ...] = ("fp32",)
    formats: tuple[str, ...] = DEFAULT_FORMATS
    threads: int | None = None
    step: int | None = None
    measurements: int = 8
    reuse: bool = True
    unfreeze: bool = False
    seed: int = 0
    optimizer: str | None = None
    learning_rate: float | None = None
    lr_schedule: str | None = None
    warmup: float | None = None
    clip_norm: float | None = None
    label_smoothing: float | None = None
    ema: float | None = None
    device: str | None = None
    compile: bool = False
    mixed_precision: bool = True
    workers: str | int | None = None
    gpus_per_candidate: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("schedule", get_args(Schedule)), ("training", get_args(Training))):
            if getattr(self, name) not in known:
                raise InputError(f"unknown {name} {getattr(self, name)!r}", remedy=f"Known: {', '.join(known)}.")
        if self.objective not in ("auto", *OBJECTIVES):
            raise InputError(f"unknown objective {self.objective!r}", remedy=suggest(self.objective, ("auto", *OBJECTIVES), "objectives"))
        if self.objective in MEASURED and not self.sensitivity:
            raise InputError(f"objective {self.objective} is measured, and sensitivity is switched off", remedy="Choose one of them.")
        if self.schedule == "online" and (self.objective != "auto" or self.race):
            raise InputError("online pruning learns what to keep, and follows no objective", remedy="Leave out the objective and the race.")
        if self.training == "scratch" and self.schedule in ("iterative", "online"):
            raise InputError(f"training from scratch and the {self.schedule} schedule cannot be combined", remedy="Choose one of them.")
        for name, choices in (("optimizer", OPTIMIZERS), ("lr_schedule", tuple(SCHEDULES))):
            if (chosen := getattr(self, name)) is not None and chosen not in choices:
                raise InputError(f"unknown {name} {chosen!r}", remedy=f"Known: {', '.join(choices)}.")
        for name in ("distillation", "warmup", "label_smoothing", "ema"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise InputError(f"{name} {value} is not between 0 and 1", remedy=_LEAVE_OUT)
        for name in ("weight_decay", "learning_rate", "clip_norm", "epochs"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} {value} must be zero or more, and finite", remedy=_LEAVE_OUT)
        check_accelerator(self.accelerator)
        parse_workers(self.workers)
        if self.gpus_per_candidate is not None and not 0 < self.gpus_per_candidate < math.inf:
            raise InputError(f"gpus_per_candidate {self.gpus_per_candidate} must be more than zero, and finite", remedy=_LEAVE_OUT)
        for name in self.precision:
            find_precision(name)
        if not self.precision or len(set(self.precision)) < len(self.precision):
            given = ", ".join(self.precision) or "none"
            raise InputError(
                f"precision {given}: give at least one, and each only once", remedy=f"Known precisions: {', '.join(PRECISIONS)}."
            )
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed} is not between 0 and {2**32 - 1}", remedy=_LEAVE_OUT)
        for name in ("measurements", "threads", "step"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= _MOST:
                raise InputError(f"{name} {value} must be at least 1, and at most {_MOST}", remedy=_LEAVE_OUT)

    @property
    def converts(self) -> bool:
        """Whether a run needs the converter to TFLite."""
        return self.engine in (None, TFLITE) or any(FORMATS[name].engine == TFLITE for name in self.formats if name in FORMATS)

    def epochs_of(self, task: Task) -> float:
        """Training epochs in total."""
        return task.epochs_of(self.epochs)

    def applied(self, task: Task) -> Task:
        """The task, trained as these options say."""
        changed: dict[str, Any] = {name: value for name in OF_TRAINING if (value := getattr(self, name)) is not None}
        if self.device is not None:
            changed["device"] = self.device
        changed |= {"unfreeze": True} if self.unfreeze else {}
        changed |= {"compile": True} if self.compile else {}
        changed |= {} if self.mixed_precision else {"mixed_precision": False}
        return replace(task, **changed) if changed else task
