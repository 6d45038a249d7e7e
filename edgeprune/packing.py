"""What other Python processes of ours are sent: pickled, what recipes define by value, since no file that they can load holds it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeprune.errors import RecipeError
from edgeprune.recipes import MODULE_PREFIX

_LOCK = threading.Lock()
_INSTALLED = {"site-packages", "dist-packages"}


def packed(value: Any, otherwise: str, folders: Sequence[str] | None = None) -> bytes:
    """``value`` pickled for another process, which imports modules from ``folders`` (those of this process unless given), from where
    packages are installed, and edgeprune.

    Raises :class:`RecipeError` for what cannot be pickled, and names the part; ``otherwise``: what can be done instead.
    """
    import cloudpickle

    with _by_value(cloudpickle, tuple(import_folders() if folders is None else folders)):
        try:
            return bytes(cloudpickle.dumps(value))
        except Exception as error:
            raise RecipeError(
                f"{_culprit(cloudpickle, value)} cannot be sent to other processes: {type(error).__name__}: {error}",
                remedy=f"Make it of what pickle takes, or {otherwise}.",
            ) from error


def import_folders() -> list[str]:
    """Where modules are imported from: ``sys.path``, and the folders of what was imported beside a recipe."""
    known = [str(Path(entry or os.curdir).resolve()) for entry in sys.path]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file and not name.startswith(MODULE_PREFIX) and name != "__main__":
            folder = Path(file).resolve().parents[1 if Path(file).name == "__init__.py" else 0]
            known.append(str(folder))
    return list(dict.fromkeys(known))


def _culprit(cloudpickle: Any, value: Any, name: str = "") -> str:
    """The part of ``value`` that cannot be pickled, as ``task.train``."""
    if isinstance(value, tuple):
        inside = [(type(item).__name__.lower(), item) for item in value]
    elif type(value).__module__.startswith("edgeprune."):
        inside = [(f"{type(value).__name__.lower()}.{part}", item) for part, item in vars(value).items()]
    else:
        inside = []
    for part, item in inside:
        if not _can_be_packed(cloudpickle, item):
            return _culprit(cloudpickle, item, part)
    return name or f"a {type(value).__name__}"


def _can_be_packed(cloudpickle: Any, value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


@contextmanager
def _by_value(cloudpickle: Any, folders: tuple[str, ...]) -> Iterator[None]:
    """Send what recipes and the like define, not where it is: another process cannot import their modules by name."""
    with _LOCK:
        modules = [module for name, module in list(sys.modules.items()) if name != "__main__" and not _importable(name, module, folders)]
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _importable(name: str, module: ModuleType, folders: tuple[str, ...]) -> bool:
    """Whether a new process finds that module; installed ones count without a look."""
    file = getattr(module, "__file__", None)
    if file is None or name.split(".")[0] == "edgeprune":
        return True
    return _installed(file) or _is_found(name, file, folders)


@cache
def _installed(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(sys.prefix) or path.is_relative_to(sys.base_prefix) or not _INSTALLED.isdisjoint(path.parts)


@lru_cache(maxsize=4096)
def _is_found(name: str, file: str, folders: tuple[str, ...]) -> bool:
    top, *rest = name.split(".")
    found, path = PathFinder.find_spec(top, list(folders)), Path(file).resolve()
    if found is None:
        return False
    if not rest:
        return found.origin is not None and Path(found.origin).resolve() == path
    places = [Path(place).resolve().joinpath(*rest) for place in found.submodule_search_locations or ()]
    return any(path in (place.with_suffix(".py"), place / "__init__.py") for place in places)
