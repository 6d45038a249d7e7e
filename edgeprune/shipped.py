"""The recipes that come with the package: what they are, where their data are from, and copies of them that run by themselves."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

from edgeprune.errors import RecipeError, suggest
from edgeprune.files import write_atomically
from edgeprune.resources import resource

_OWN = {"edgeprune", "torch", "numpy", "scipy", "platformdirs"}
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "pytorch_lightning": "pytorch-lightning"}
"""By which name to install what is imported by another."""


@dataclass(frozen=True)
class Data:
    """A data set: its folder's ``name``, its ``title``, and what to ``fetch``, from where."""

    name: str
    title: str
    fetch: str


@dataclass(frozen=True)
class Recipe:
    """A recipe of the package.  ``text``: its description; ``files``: it and the files beside it that it imports; ``needs``: packages to
    install beside edgeprune's own, ``missing`` those that are not here; ``data``: what it reads."""

    name: str
    title: str
    text: str
    files: list[str]
    needs: list[str]
    missing: list[str]
    data: list[Data]


def names() -> list[str]:
    """The recipes' names."""
    return sorted(name.removesuffix(".py") for name in _files() if not name.startswith("_"))


def recipe(name: str) -> Recipe:
    """What is known of the recipe ``name``.  Raises :class:`RecipeError` that lists the names when there is none."""
    file = f"{name.removesuffix('.py')}.py"
    if file.removesuffix(".py") not in names():
        raise RecipeError(f"there is no recipe {name}", remedy=suggest(name, names(), "recipes"))
    files, modules, read = [file], set[str](), set[str]()
    for each in files:
        tree = _parsed(each)
        read |= set(_read(tree)) if each != "_data.py" else set()
        for module in _imported(tree):
            beside = f"{module}.py"
            if beside not in _files():
                modules.add(module)
            elif beside not in files:
                files.append(beside)
    text = ast.get_docstring(_parsed(file)) or ""
    title = re.split(r"[:.](?:\s|$)", text, maxsplit=1)[0].replace("\n", " ")
    others = sorted(modules - set(sys.stdlib_module_names) - _OWN)
    missing = [_PACKAGES.get(module, module) for module in others if find_spec(module) is None]
    sources = _sources()
    data = [sources.get(each, Data(each, each, "")) for each in sorted(read)]
    return Recipe(file.removesuffix(".py"), title, text, files, [_PACKAGES.get(module, module) for module in others], missing, data)


def copy(name: str, folder: Path, force: bool = False) -> list[Path]:
    """Write the recipe ``name`` and the files that it imports into ``folder``, which is made unless it is there; the recipe comes first.

    Raises :class:`RecipeError`, and writes nothing, when other files of these names are there, unless with ``force``.
    """
    texts = {folder / file: _files()[file].read_text() for file in recipe(name).files}
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is not a folder", remedy="Name a folder to copy the recipe into.")
    there = [path for path, text in texts.items() if path.exists() and (not path.is_file() or path.read_bytes() != text.encode())]
    if there and not force:
        raise RecipeError(f"{', '.join(map(str, there))} is there, and differs", remedy="Name another folder, or overwrite it: --force.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomically(path, text)
    return list(texts)


@cache
def _files() -> dict[str, Traversable]:
    """The Python files, by their names."""
    if find_spec("edgeprune.recipe_files") is None:
        raise RecipeError("this installation of edgeprune is from before recipes came with it", remedy="Install edgeprune again.")
    return {file.name: file for file in resource("recipe_files").iterdir() if file.name.endswith(".py") and file.name != "__init__.py"}


@cache
def _parsed(file: str) -> ast.Module:
    return ast.parse(_files()[file].read_text())


def _imported(tree: ast.Module) -> Iterator[str]:
    """The packages and modules that are imported, in their order."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def _read(tree: ast.Module) -> Iterator[str]:
    """The data sets that are read: ``data_folder("name")``, ``data_set("name", ...)``, ``data_folder() / "name"``."""
    for node in ast.walk(tree):
        call = node.left if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else node
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in ("data_folder", "data_set"):
            continue
        said = call.args[0] if call.args else node.right if isinstance(node, ast.BinOp) else None
        if isinstance(said, ast.Constant) and isinstance(said.value, str):
            yield said.value


def _sources() -> dict[str, Data]:
    """The table ``SOURCES`` of ``_data.py``, which is read and not run: that would import PyTorch."""
    for node in _parsed("_data.py").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SOURCES" and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            read = ((ast.literal_eval(key), value) for key, value in pairs if key is not None and isinstance(value, ast.Call))
            return {name: Data(name, *(ast.literal_eval(argument) for argument in value.args)) for name, value in read}
    return {}
