"""A piece of work where it is done, and what is sent of it: messages, then its result or its error."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from edgeprune.devices.connect import refuse_devices
from edgeprune.errors import RecipeError, WorkerError


@dataclass(frozen=True)
class Message:
    """Something that the work sent while it ran."""

    value: Any


@dataclass(frozen=True)
class Done:
    """What the work returned."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """The error that it raised, in parts: many exceptions cannot be pickled, or come back as something else.  ``trace``: of the worker."""

    kind: Callable[..., BaseException]
    arguments: tuple[Any, ...]
    state: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """``error`` without what cannot be pickled."""
        kind, arguments, *_ = cast(tuple[Any, ...], error.__reduce__())
        state = {name: value for name, value in vars(error).items() if _dumped(value) is not None}
        sent = tuple(value if _dumped(value) is not None else repr(value) for value in arguments)
        found = cls(kind, sent, state, traceback.format_exc())
        if _dumped(found) is not None:
            return found
        return cls(RuntimeError, (f"{type(error).__name__}: {error}",), state, found.trace)

    def error(self) -> BaseException:
        """The exception, caused by its traceback in the worker."""
        kind: Any = self.kind
        plain = kind.__module__ != "builtins" and getattr(kind, "__reduce__", None) is BaseException.__reduce__
        error: BaseException = kind.__new__(kind, *self.arguments) if plain else kind(*self.arguments)
        vars(error).update(self.state)
        error.__cause__ = InWorker(f"\n{self.trace}")
        return error


class InWorker(Exception):
    """The traceback of a worker, as text."""


Frame = Message | Done | Failed


def do(work: bytes, tell: Callable[[bytes], None], note: str = "") -> None:
    """Do what was pickled to ``work``, a function and its arguments, and ``tell`` pickled frames; the last is :class:`Done` or
    :class:`Failed`.  ``note``: added to an error."""
    import cloudpickle

    refuse_devices()
    try:
        function, arguments = pickle.loads(work)
        result = function(*arguments, lambda message: tell(cloudpickle.dumps(Message(message))))
        try:
            last = cloudpickle.dumps(Done(result))
        except Exception as error:
            raise RecipeError(f"a result of type {type(result).__name__} cannot be sent back from a worker: {error}") from error
    except BaseException as error:
        if note:
            error.add_note(note)
        last = cloudpickle.dumps(Failed.of(error))
    tell(last)


def read(frame: bytes) -> Frame:
    """A frame that :func:`do` told.  Raises :class:`WorkerError` for one whose classes are not known here."""
    try:
        found: Frame = pickle.loads(frame)
    except Exception as error:
        raise WorkerError(f"what a worker sent cannot be read: {type(error).__name__}: {error}") from error
    return found


def _dumped(value: Any) -> bytes | None:
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value))
    except Exception:
        return None
