"""Running a recipe: the Python file that makes a user's task."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.errors import RecipeError
from edgeprune.resources import resource

MODULE_PREFIX = "edgeprune_recipe_"
"""How the names begin under which recipes are modules."""


def expected(function: str) -> str:
    """The remedy for a path that is not a recipe's."""
    return f"Give the path of a Python file with a function {function}() -> edgeprune.Task."


def run_recipe(path: str | Path, function: str, *arguments: Any, call: Callable[..., Any] | None = None) -> Any:
    """Run the file ``path`` and return what its ``function`` returns for ``arguments``, or what ``call`` makes of it. It may import files
    beside it, as when it is run by itself.

    Raises :class:`RecipeError` when the file is missing or is not Python, has no such function, or raises.
    """
    path = Path(path)
    remedy = expected(function)
    if not path.is_file():
        remedy += f" edgeprune recipes copy {path.stem} brings the ready one of this name." if _is_ready(path.stem) else ""
        raise RecipeError(f"recipe {path} {'is a folder' if path.is_dir() else 'does not exist'}", remedy=remedy)
    spec = importlib.util.spec_from_file_location(f"{MODULE_PREFIX}{path.stem}", path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise RecipeError(f"recipe {path} is not a Python file: its name does not end in .py", remedy=remedy)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
            made = getattr(module, function, None)
            if not callable(made):
                has = "no function" if made is None else f"a {type(made).__name__}, not a function,"
                raise RecipeError(f"recipe {path} has {has} {function}()", remedy=f"Define `def {function}() -> edgeprune.Task`.")
            return made(*arguments) if call is None else call(made)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"recipe {path} raised {type(error).__name__}{_where(error, path)}: {str(error) or 'without a message'}",
            remedy="Run it by itself, or use --debug for its traceback.",
        ) from error


def _is_ready(name: str) -> bool:
    """Whether a recipe of this name comes with the package."""
    beside = importlib.util.find_spec("edgeprune.recipe_files") is not None
    return beside and name.isidentifier() and not name.startswith("_") and resource("recipe_files", f"{name}.py").is_file()


def _where(error: BaseException, path: Path) -> str:
    """The line of the recipe that the error came from."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" in line {error.lineno} of {Path(error.filename or path).name}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())]
    return f" in line {lines[-1]}" if lines else ""


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let modules be imported from ``folder`` inside."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
