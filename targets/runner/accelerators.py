"""What runs a model: the processor (``cpu``), ``gpu``, ``npu``, a runtime's provider, or a delegate's library by its path.

Options follow a question mark: ``openvino?device_type=CPU``, ``/usr/lib/libedgetpu.so.1?device=usb,threads=2``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

CPU, GPU, NPU = "cpu", "gpu", "npu"


class AcceleratorMissing(Exception):
    """The runtime cannot use that accelerator here."""


def split(name: str) -> Tuple[str, Dict[str, str]]:
    """The name, and its options; ``AcceleratorMissing`` for an option without a value."""
    base, _, text = name.partition("?")
    options: Dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise AcceleratorMissing(f"the option {item!r} of {base} has no value: write key=value")
        options[key] = value
    return base, options


def is_library(base: str) -> bool:
    """Whether a name is a delegate's file."""
    return "/" in base or ".so" in base or base.endswith((".dylib", ".dll"))


def missing(name: str, runtime: str, found: Sequence[str]) -> AcceleratorMissing:
    """What to say of one that is not there: it lists those that are."""
    return AcceleratorMissing(f"{runtime} has no accelerator {name!r} here; there are: {', '.join([CPU, *found])}")


def digest(path: str) -> str:
    """Of a library's content: what tells two versions of it apart."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            found.update(part)
    return f"sha256-{found.hexdigest()[:12]}"


def delegation(taken: int, left: Sequence[str]) -> Dict[str, Any]:
    """How much the accelerator took: its share of the operators, and the kinds of those ``left`` to the processor."""
    total = taken + len(left)
    return {"share": taken / total if total else 1.0, "operators": total, "left": sorted(left)}


class Log:
    """What was written to the process's standard error."""

    text = ""


@contextmanager
def captured() -> Iterator[Log]:
    """The log of a runtime that says on standard error alone what it did; it is passed on."""
    log, kept = Log(), os.dup(2)
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            content = file.read()
            log.text = content.decode("utf-8", "replace")
            os.write(2, content)


def line_with(text: str, mark: str) -> Optional[str]:
    """What follows ``mark`` in the first line that has it."""
    return next((line.partition(mark)[2].strip() for line in text.splitlines() if mark in line), None)


def names(found: List[Dict[str, str]]) -> List[str]:
    """Of accelerators as :meth:`Engine.accelerators` lists them."""
    return [item["name"] for item in found]
