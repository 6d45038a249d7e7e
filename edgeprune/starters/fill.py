"""Filling in a recipe's text, and writing it where nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TypeVar

from edgeprune.errors import InputError
from edgeprune.files import write_atomically
from edgeprune.resources import resource

T = TypeVar("T")

NO_WEIGHTS = "--weights none trains the network once from random weights; --weights FILE reads your own (a state_dict)."
PASSES = 10
"""Epochs of the training of what is new."""


@dataclass(frozen=True)
class Starter:
    """The text of a recipe.  ``name``: of its file unless another is given; ``says``: what is worth knowing of it, a line each."""

    name: str
    text: str
    says: tuple[str, ...] = ()


def filled(template: str, **values: object) -> str:
    """The text of ``template`` with its places filled in, which have to be all of them."""
    texts = {name: str(value) for name, value in values.items()}
    return Template(resource("starters", f"{template}.txt").read_text()).substitute(texts)


def write(starter: Starter, path: Path, force: bool = False) -> None:
    """Write the recipe to ``path``.  Raises what :func:`check` does."""
    check(path, force)
    write_atomically(path, starter.text)


def check(path: Path, force: bool = False) -> None:
    """Raise :class:`InputError` when ``path`` is no name for a recipe, or is there already, unless with ``force``."""
    if path.suffix != ".py":
        raise InputError(f"{path} is not the name of a Python file", remedy="Let it end in .py.")
    if path.exists() and not force:
        raise InputError(f"{path} is there already", remedy="Give another name, --output FILE, or overwrite it, --force.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", remedy="Make it first.")


def placed(path: Path) -> str:
    """A path as it is written into a recipe: absolute, in a Python string."""
    return str(path.expanduser().resolve()).replace("\\", "/").replace('"', '\\"')


def indented(*lines: str) -> str:
    """The lines of a function's body; what is made and returned at once needs no name."""
    if len(lines) == 2 and lines[0].startswith("model = ") and lines[1] == "return model":
        lines = (lines[0].replace("model = ", "return ", 1),)
    return "\n".join(f"    {line}" for line in lines)


def finish(trains: bool) -> str:
    """The last lines of ``task``; with ``trains`` what is new in the network is trained first."""
    if not trains:
        return indented("return task")
    return indented(
        'kept = Path(__file__).with_suffix(".safetensors")  # remove it to train again',
        f"return train_once(task, kept, epochs={PASSES})",
    )


def imports(lines: Sequence[str], trains: bool) -> str:
    """The import statements of a recipe, sorted as usual: the standard library's, then others."""
    others = [*lines, *(["from edgeprune.tuning import train_once"] if trains else [])]
    ordered = sorted(others, key=lambda line: (not line.startswith("import "), line))
    return "\n".join([*(["from pathlib import Path", ""] if trains else []), *ordered])


def constants(weights: Path | None) -> str:
    """The line that names the user's own weights."""
    return f'WEIGHTS = "{placed(weights)}"\n' if weights else ""


LOADED = 'model.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))'
"""Reads the user's own weights."""


def downloaded(make: Callable[[], T], what: str) -> T:
    """What ``make`` returns, which may download weights.  Raises :class:`InputError` when these cannot be had."""
    try:
        return make()
    except (OSError, RuntimeError, ValueError) as error:  # of urllib, of Hugging Face's hub, of a damaged download
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"the weights of {what} cannot be downloaded: {reason[0]}", remedy=NO_WEIGHTS) from error
