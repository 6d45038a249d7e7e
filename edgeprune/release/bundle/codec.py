"""Data classes of plain fields, to canonical JSON and strictly back.

Only what is signed is read here; all else is decoded by :mod:`edgeprune.decode`.  This is stricter: nothing is converted (a 5 stays a 5
where a number may have a fraction); a field of a newer version is refused by name; and texts are printable before anything is verified.
"""

from __future__ import annotations

import json
import sys
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeprune.decode import JsonObject
from edgeprune.errors import BundleError

T = TypeVar("T")

LARGEST: Final = 2**63 - 1
"""No whole number is greater: every reader of JSON can hold it."""


def canonical(value: Any) -> bytes:
    """``value`` (a data class, or plain values) as the one JSON text it has: sorted keys, one space of indent, ASCII, a final newline."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return (json.dumps(plain, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def parse(content: bytes, what: str) -> JsonObject:
    """The object that canonical JSON ``content`` holds.  Raises :class:`BundleError` naming ``what`` when it is not canonical."""
    try:
        value = json.loads(content.decode("ascii"))
        same = isinstance(value, dict) and canonical(value) == content
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not JSON: {error}") from error
    if not same:
        raise BundleError(f"{what} is not in its canonical form: a changed space, order or repeated key")
    assert isinstance(value, dict)
    return value


def decode(kind: type[T], value: Any, where: str) -> T:
    """``value`` as the data class ``kind``.  Raises :class:`BundleError` naming the field that is missing, unknown or of another type."""
    found: T = _decode(kind, value, where)
    return found


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        return None if value is None else _decode(next(item for item in inner if item is not type(None)), value, where)
    if is_dataclass(kind):
        return _object(kind, value, where)
    if origin is tuple:
        return tuple(_decode(inner[0], item, f"{where}[{index}]") for index, item in enumerate(_expect(list, value, where, "a list")))
    if origin is dict:
        return {
            key: _decode(inner[1], item, f"{where}.{_short(key)[1:-1]}") for key, item in _expect(dict, value, where, "an object").items()
        }
    if kind is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    else:
        good = isinstance(value, kind) and not (kind is int and (isinstance(value, bool) or abs(value) > LARGEST))
    if not good:
        raise BundleError(f"{where} is {_short(value)}, not {_NAMES[kind]}")
    if kind is str and not value.isprintable():  # it will be shown to people, before anything is verified
        raise BundleError(f"{where} is {_short(value)}, which is not all printable")
    return value


def _object(kind: Any, value: Any, where: str) -> Any:
    _expect(dict, value, where, "an object")
    hints, known = get_type_hints(kind), {item.name: item for item in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise BundleError(f"{where} has the unknown field {unknown[0]!r}")
    for name, item in known.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise BundleError(f"{where}.{name} is missing")
    try:
        return kind(**{name: _decode(hints[name], inner, f"{where}.{name}") for name, inner in value.items()})
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _expect(kind: type, value: Any, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise BundleError(f"{where} is {_short(value)}, not {name}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
