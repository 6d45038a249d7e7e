"""Packages that only some formats need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from edgeprune.errors import ExportError


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which ``edgeprune[extra]`` installs.  Raises :class:`ExportError` that says so."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ExportError(
            f"the format {extra} needs the package {module.split('.')[0]}, which cannot be imported: {error}",
            remedy=f'Install it: pip install "edgeprune[{extra}]".',
        ) from error
