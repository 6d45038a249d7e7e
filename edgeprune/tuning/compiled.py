"""Training through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from edgeprune.errors import InputError
from edgeprune.placement import resolve
from edgeprune.task import Task

_MADE_BY: Final = ("torch._dynamo", "torch._inductor", "torch._functorch")


@contextmanager
def compiling(task: Task) -> Iterator[None]:
    """What is compiled inside, where the task asks for it, is forgotten afterwards.

    PyTorch counts what it compiles, and runs every model after the eighth (``torch._dynamo.config.recompile_limit``) uncompiled.
    """
    try:
        yield
    finally:
        if task.compile:
            torch._dynamo.reset()


def check_compile(task: Task) -> None:
    """Raise :class:`InputError` where the task asks for ``torch.compile`` and it cannot be: without a C++ compiler on a CPU, in several
    processes, and with the features of layers, which are read out of the uncompiled model."""
    if not task.compile or task.fit is not None:
        return
    placement = resolve(task.device)
    if placement.ranks > 1:
        raise InputError(
            f"{task.name} cannot train through torch.compile in {placement.ranks} processes",
            remedy="Leave --compile out, or train on one device.",
        )
    if task.distil_features:
        raise InputError(f"{task.name} compares features (distil_features), and torch.compile hides them", remedy="Leave --compile out.")
    if placement.device.type == "cpu" and not _has_compiler():
        raise InputError(
            "torch.compile needs a C++ compiler on the CPU, and there is none",
            remedy="Install one (g++, or clang++ on macOS; CXX names another), or leave --compile out.",
        )


def failed_to_compile(error: BaseException) -> bool:
    """Whether ``torch.compile`` raised it, not the model."""
    return type(error).__module__.startswith(_MADE_BY)


def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return False
    return True
