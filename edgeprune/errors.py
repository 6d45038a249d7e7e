"""Every exception edgeprune raises on purpose, in one tree.

``EdgepruneError``
    ``InputError``: what the user brought cannot be used as it is
        ``RecipeError``, ``BudgetError``, ``ProfileError``, ``TargetError``, ``CheckpointError``, ``RunError``, ``ModelFileError``
    ``GraphError``: the model cannot be analysed or cut
        ``CaptureError``, ``UnsupportedOpError``, ``NothingToPruneError``, ``PlanError``, ``VerificationError``
    ``InfeasibleBudgetError``: no plan reaches the budget; says which limit binds and the least value reachable
    ``TrainingError``: a NaN loss, a metric that is not a number
        ``TrainingStoppedError``: the task's own code raised, a process was ended, or memory was short
    ``ExportError``: a format that cannot be written
        ``ParityError``: it was written, and computes something else
        ``ConverterError``: the converter's process was ended, or took too long
    ``DeviceError``: the device or what runs on it
        ``HostKeyError``, ``AuthenticationError``, ``LoginShellError``, ``DeviceFullError``, ``NoRuntimeError``, ``SetupError``,
        ``RunnerError``, ``ModelCrashedError``
        ``TransientError``: may pass by itself; only these are retried
            ``UnreachableError``, ``ConnectionLostError``, ``DeviceBusyError``, ``DeviceTimeoutError``
    ``IncomparableError``: two results that must not be compared
    ``HistoryError``: the database of results cannot be opened, read or written
    ``ReleaseError``: a release cannot be built, or must not be trusted
        ``BundleError``, ``SignatureError``, ``ExpiredError``, ``EvidenceError``, ``GateError``, ``IncompatibleError``,
        ``OlderReleaseError``, ``HealthError``

Every one carries a message that names the thing, and may carry a ``remedy``: what the user can do next.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar

from edgeprune.verdict import Verdict

_MOST_SUGGESTIONS = 3
_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


class EdgepruneError(Exception):
    """Base of all errors; ``remedy`` says what to do next, ``usual_remedy`` what helps with most errors of a kind."""

    usual_remedy: ClassVar[str | None] = None

    resumable: ClassVar[bool] = True
    """Whether a run that it ended may succeed when the same job is continued."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        message = printable(message)
        super().__init__(message)
        self.message = message
        self.remedy = printable(remedy) if remedy is not None else self.usual_remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InputError(EdgepruneError):
    """The user's input cannot be used as it is."""


class RecipeError(InputError):
    """A recipe file is missing, raises, or does not return a task."""

    usual_remedy = "Correct the task in the recipe, then run the command again."


class BudgetError(InputError):
    """A quantity has no unit, the wrong unit, or no sensible value."""


class ProfileError(InputError):
    """A device profile is unknown or malformed."""

    usual_remedy = "edgeprune profiles show raspberry-pi-4 shows what a profile holds."


class TargetError(InputError):
    """A target's name is unknown or its address malformed."""


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another model."""

    usual_remedy = "Give the model.safetensors of a run, as edgeprune wrote it."


class RunError(InputError):
    """A run directory is missing, damaged, in use, or belongs to another job."""

    usual_remedy = "Give the directory that the run named, or start a new run."


class ModelFileError(InputError):
    """A model file (ONNX) is damaged, holds what is not read, or computes something else than its own runtime."""

    usual_remedy = "Give a float ONNX file that ONNX Runtime runs."


class GraphError(EdgepruneError):
    """The model cannot be analysed or cut."""

    resumable = False


class CaptureError(GraphError):
    """``torch.export`` cannot capture the model, or the example inputs do not fit it."""


class UnsupportedOpError(GraphError):
    """An operation has no channel rule."""


class NothingToPruneError(GraphError):
    """No group of channels may be removed; the message says why."""


class PlanError(GraphError):
    """A plan does not fit the model it is applied to."""


class VerificationError(GraphError):
    """The compacted model does not compute what the masked original computes."""


class InfeasibleBudgetError(EdgepruneError):
    """No plan reaches the budget; the message names the binding limit and the least value reachable.  ``share``: how many times the limit
    that is, where known."""

    resumable = False

    def __init__(self, message: str, *, remedy: str | None = None, share: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.share = share


class TrainingError(EdgepruneError):
    """Training or scoring produced something that is not a number."""

    resumable = False


class TrainingStoppedError(TrainingError):
    """The task's own code raised, a process of the training was ended, or the memory was short."""

    resumable = True


class WorkerError(EdgepruneError):
    """Workers cannot be had: no cluster answers, another version is there, a package is missing."""


class WorkerLostError(WorkerError):
    """A worker died while it did a piece of work, and so did those that tried again."""


class ExportError(EdgepruneError):
    """A format could not be written."""

    resumable = False


class ParityError(ExportError):
    """An exported file does not compute what the PyTorch model computes."""


class ConverterError(ExportError):
    """The converter's process was ended, or took too long."""

    resumable = True


class DeviceError(EdgepruneError):
    """The device, or what runs on it, failed."""


class HostKeyError(DeviceError):
    """The SSH host key is unknown or has changed."""


class LoginShellError(DeviceError):
    """The device's login shell ends or hangs before it runs a command."""


class AuthenticationError(DeviceError):
    """The device refused every key."""


class DeviceFullError(DeviceError):
    """The device's disk is full or cannot be written."""


class NoRuntimeError(DeviceError):
    """The device has no runtime (or no Python) that can run this format."""


class AcceleratorError(NoRuntimeError):
    """No runtime of the device can use the accelerator that was asked for."""


class SetupError(DeviceError):
    """A runtime could not be installed on the device."""


class RunnerError(DeviceError):
    """The runner failed, or its answer breaks its protocol."""


class ModelCrashedError(DeviceError):
    """A model's process on the device died: signal, exit code or memory limit are in the message."""


class TransientError(DeviceError):
    """A failure that may pass by itself; only these are retried."""

    usual_remedy = "Check the device and its connection, then run the command again."


class UnreachableError(TransientError):
    """No connection to the device could be opened."""


class ConnectionLostError(TransientError):
    """The connection broke while it was in use."""


class DeviceBusyError(TransientError):
    """Another user holds the device's lock."""


class DeviceTimeoutError(TransientError):
    """A step on the device took longer than its limit."""


class IncomparableError(EdgepruneError):
    """Two results differ in device, runtime, threads or clock state."""


class HistoryError(EdgepruneError):
    """The database of results cannot be opened, read or written."""


class ReleaseError(EdgepruneError):
    """A release cannot be built, or must not be trusted."""


class BundleError(ReleaseError):
    """A bundle is damaged, or not as its manifest says."""

    usual_remedy = "Copy the bundle again from where it was made, or build it again: edgeprune release build."


class SignatureError(ReleaseError):
    """A signature is malformed or wrong, or too few signers that are allowed have signed."""

    usual_remedy = "Check the file of allowed signers, or sign the bundle again: edgeprune release sign."


class ExpiredError(ReleaseError):
    """A release is past its expiry."""


class EvidenceError(ReleaseError):
    """A measurement is missing, belongs to another file, is older than the file, or does not fit its samples."""


class GateError(ReleaseError):
    """The evidence does not meet a gate; ``verdict``: ``missed``, or ``undecided`` where it cannot be said."""

    def __init__(self, message: str, *, remedy: str | None = None, verdict: Verdict = Verdict.MISSED) -> None:
        super().__init__(message, remedy=remedy)
        self.verdict = verdict


class IncompatibleError(ReleaseError):
    """A release is not for this device."""


class OlderReleaseError(ReleaseError):
    """A device has had a newer release, or another release of the same sequence."""


class HealthError(ReleaseError):
    """A release does not work on the device; the device has gone back to the release before."""


def may_succeed(error: BaseException) -> bool:
    """Whether a run that ``error`` ended may succeed when the same job is continued: a fault of the program happens again, what the system
    refused or somebody interrupted may not."""
    if isinstance(error, EdgepruneError):
        return error.resumable
    return isinstance(error, (OSError, MemoryError)) or not isinstance(error, Exception)


def suggest(name: object, known: Iterable[str], kind: str) -> str:
    """The remedy for an unknown name: the known names that look like it, then all of them.

    ``suggest("talyor", ["l2", "taylor"], "criteria")`` is ``"Did you mean taylor? Known criteria: l2, taylor."``
    """
    names = list(known)
    listed = f"Known {kind}: {', '.join(names) or 'none'}."
    if near := close_names(name, names):
        return f"Did you mean {' or '.join(near)}? {listed}"
    return listed


def close_names(name: object, known: Iterable[str]) -> list[str]:
    """The names of ``known`` that look like ``name``, the nearest first, whatever their case and punctuation; at most three."""
    plain: dict[str, str] = {_plain(each): each for each in known}
    wanted = _plain(str(name))
    if wanted in plain:
        return [plain[wanted]]
    found = difflib.get_close_matches(wanted, plain, n=_MOST_SUGGESTIONS, cutoff=0.6)
    if not found and len(wanted) >= 3:
        found = [each for each in plain if wanted in each][:_MOST_SUGGESTIONS]
    return [plain[each] for each in found]


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum()) or name


def printable(text: str | bytes) -> str:
    """A text that is not this program's own, harmless to a terminal: what controls it, or the direction of writing, is spelt out.

    Bytes are UTF-8; carriage returns before line breaks are dropped.
    """
    known = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    if known.isascii() and known.isprintable():
        return known
    return "".join(_spelt(character) for character in known.replace("\r\n", "\n"))


def _spelt(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _CONTROLS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def printable_json(value: Any) -> Any:
    """A JSON value with :func:`printable` texts: what a device says can be shown anywhere."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_json(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): printable_json(item) for name, item in value.items()}
    return value
