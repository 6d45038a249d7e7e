"""What coverage leaves out: it tells nothing of the project's lines, and takes as long as they do.

A tracer slows all Python code that runs, PyTorch's exporter's too.  Every Python process that starts takes a seventh of a second more to
load coverage, which the packed runner and activator, and what a shell starts, are no lines of.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_PROCESS = "COVERAGE_PROCESS_CONFIG"
"""By which coverage's start-up file knows that it is wanted."""


def trace_less() -> None:
    """From here on leave it out.  Does nothing where no coverage is recorded."""
    if sys.gettrace() is None or _PROCESS not in os.environ:
        return
    import torch

    torch.export.export = untraced(torch.export.export)
    torch.export.ExportedProgram.module = untraced(torch.export.ExportedProgram.module)  # type: ignore[method-assign]
    begin = subprocess.Popen.__init__

    @functools.wraps(begin)
    def begin_less(process: subprocess.Popen[Any], args: Any, *more: Any, **options: Any) -> None:
        if not tells(args):
            given = options.get("env")
            options["env"] = {name: value for name, value in (os.environ if given is None else given).items() if name != _PROCESS}
        begin(process, args, *more, **options)

    subprocess.Popen.__init__ = begin_less  # type: ignore[method-assign]


def tells(args: Any) -> bool:
    """Whether a process of this command line runs the project's own files in this Python."""
    return isinstance(args, (list, tuple)) and str(args[0]) == sys.executable and not any(str(arg).endswith(".pyz") for arg in args)


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, without the tracer while it runs."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(tracer)
            _noticed()

    return call


def _noticed() -> None:
    """A tracer that has been set aside is back with the next call of a function."""
