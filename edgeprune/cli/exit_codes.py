"""Exit codes of the command line: one number for each way in which a command can end."""

from __future__ import annotations

from enum import IntEnum

from edgeprune.errors import EdgepruneError, GateError, InfeasibleBudgetError
from edgeprune.verdict import Verdict


class Exit(IntEnum):
    """The numbers; :data:`MEANINGS` says what they mean."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    UNDECIDED = 3
    MISSED = 4
    INFEASIBLE = 5
    DEVICES = 10
    FAULT = 70
    INTERRUPTED = 130


MEANINGS = {
    "0": "done; every budget, condition and gate is met",
    "1": "an error: its message says what to do",
    "2": "wrong usage",
    "3": "undecided: a limit lies inside the interval of what was measured, or the measurement cannot be trusted",
    "4": "missed: a budget, a --fail-if or a gate was measured not to be met",
    "5": "infeasible: no plan reaches the budget",
    "10+n": "n of several devices failed (at most 69)",
    "70": "a fault of edgeprune",
    "130": "interrupted",
}

OF_VERDICT = {Verdict.MET: Exit.DONE, Verdict.MISSED: Exit.MISSED, Verdict.UNDECIDED: Exit.UNDECIDED}


def of_error(error: BaseException) -> Exit:
    """The exit code of an exception that ended a command."""
    match error:
        case InfeasibleBudgetError():
            return Exit.INFEASIBLE
        case GateError():
            return OF_VERDICT[error.verdict]
        case EdgepruneError():
            return Exit.ERROR
        case KeyboardInterrupt():
            return Exit.INTERRUPTED
        case _:
            return Exit.FAULT


def epilog() -> str:
    """The table as a help text ends with it."""
    width = max(map(len, MEANINGS))
    return "\b\nExit codes:\n" + "\n".join(f"  {code:<{width}}  {meaning}" for code, meaning in MEANINGS.items())
