"""Values from outside (a device's answers, stored results), checked against a type before they are believed."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")

JsonObject = dict[str, object]
"""An object in JSON's types: to be written, or come in and not decoded yet.  Who reads its values decodes them first."""


def convert(value: Any, kind: type[T], *, finite: bool = True) -> T:
    """Plain JSON values as ``kind``: a dataclass, a dictionary, a list with typed parts.

    Nothing is guessed: text is not a number.  Unknown fields are left out, missing ones fail, and so do numbers that are not ``finite``
    unless they may be there.  Raises :class:`ValueError` that says what was expected and where.
    """
    import msgspec

    if finite and (place := _not_finite(value)) is not None:
        raise ValueError(f"a number that is not finite at `{place}`")
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise ValueError(str(error).replace(" - at `$.", " at `").replace(" - at `$", " at `") or "it is nested too deep") from error


def unknown_field(value: Any, kind: type[Any]) -> str | None:
    """The first field of an object that the data class ``kind`` does not have; for documents that people write, where it is a slip."""
    known = {item.name for item in fields(kind)}
    return next((str(name) for name in value if name not in known), None)


def _not_finite(value: Any) -> str | None:
    """Where the first number is that is infinite or not a number; None where there is none."""
    left = [("", value)]
    while left:
        place, one = left.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return place.lstrip(".")
        if isinstance(one, dict):
            left += [(f"{place}.{name}", inner) for name, inner in one.items()]
        elif isinstance(one, (list, tuple)):
            left += [(f"{place}[{index}]", inner) for index, inner in enumerate(one) if not isinstance(inner, int)]
    return None
