"""Defaults of options from ``edgeprune.toml``, or from ``[tool.edgeprune]`` of ``pyproject.toml``, in the current folder.

Keys are options without their dashes: those at the top are for every command that has them, those of a table for the command of its name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from edgeprune.errors import close_names

OFF = "off"
NOT_KEPT = ("help", "version", "json", "debug", "resume", "config")
"""What belongs to a single call."""

Commands = Callable[[str], click.Command | None]


def read_defaults(config: str | None) -> tuple[str, dict[str, Any]]:
    """The file and what it holds: the one that ``config`` names, else the first that is in the current folder; nothing where there is none,
    or ``config`` is "off".  Raises :class:`click.UsageError` when it cannot be read."""
    if config == OFF:
        return "", {}
    candidates = [Path(config)] if config is not None else [Path("edgeprune.toml"), Path("pyproject.toml")]
    for path in candidates:
        if config is None and not path.is_file():
            continue
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise click.UsageError(f"{path} is not TOML: {error}.") from error
        if path.name == "pyproject.toml":
            document = document.get("tool", {}).get("edgeprune", {})
        if document:
            return str(path), document
    return "", {}


def default_map(config: str | None, invoked: str, names: Iterable[str], command_of: Commands) -> dict[str, Any]:
    """Click's map of defaults for the command ``invoked``.  Raises :class:`click.UsageError` for a key that is no option."""
    file, document = read_defaults(config)
    if not document or (command := command_of(invoked)) is None:
        return {}
    shared = {key: value for key, value in document.items() if not isinstance(value, dict)}
    names = list(names)
    for name in document.keys() - shared.keys():
        if name not in names:
            raise click.UsageError(f"{file}: there is no command {name!r}.{_near(name, names)}")
    for key in shared.keys() - options(command).keys():
        known = {option for name in names if (other := command_of(name)) for option in options(other)}
        if key not in known:
            raise _unknown(file, key, "any command", known)
    return {invoked: _of_command(command, invoked, shared, document.get(invoked, {}), file)}


def _of_command(command: click.Command, name: str, shared: dict[str, Any], own: dict[str, Any], file: str) -> dict[str, Any]:
    if isinstance(command, click.Group):
        if wrong := [key for key in own if key not in command.commands]:
            raise _unknown(file, wrong[0], name, command.commands)
        return {
            inner: _of_command(one, f"{name}.{inner}", shared, own.get(inner, {}), file) for inner, one in command.commands.items() if inner
        }
    known = options(command)
    for key in own:
        if key not in known:
            raise _unknown(file, key, name, known)
    given = {key: value for key, value in shared.items() if key in known} | own
    return {str(known[key].name): _value(known[key], value, f"{file}: {key}") for key, value in given.items()}


def options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that may have a default, by their long names without dashes; of a group those of its commands."""
    inner: Iterator[click.Command] = iter(command.commands.values()) if isinstance(command, click.Group) else iter(())
    found = {key: option for one in inner for key, option in options(one).items()}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            longest = max(parameter.opts, key=len).lstrip("-")
            if longest not in NOT_KEPT:
                found[longest] = parameter
    return found


def _value(option: click.Option, value: Any, where: str) -> Any:
    """A list stands for a text with commas, but for options that can be repeated."""
    if isinstance(value, list) and not option.multiple:
        return ",".join(map(str, value))
    if option.is_flag != isinstance(value, bool):
        wanted = "true or false" if option.is_flag else "a text or a number"
        raise click.UsageError(f"{where} is {value!r}, and {wanted} is wanted.")
    return [value] if option.multiple and not isinstance(value, list) else value


def _unknown(file: str, key: str, where: str, known: Iterable[str]) -> click.UsageError:
    return click.UsageError(f"{file}: {key!r} is no option of {where}.{_near(key, known)}")


def _near(name: str, known: Iterable[str]) -> str:
    found = close_names(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""
