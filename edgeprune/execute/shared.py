"""Values that many pieces of work need: sent to a worker once, and kept there."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

KEPT = 8
"""How many values a worker keeps; one that it dropped is read again."""


class ByKey(Generic[T]):
    """A value that a worker finds by its key.  Where it was shared, it is the value itself."""

    def __init__(self, key: str, value: T) -> None:
        self.key, self._value = key, value

    def __reduce__(self) -> tuple[Any, ...]:
        return _There, (self.key,)

    def get(self) -> T:
        """The value."""
        return self._value


class _There(Generic[T]):
    def __init__(self, key: str) -> None:
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return _There, (self.key,)

    def get(self) -> T:
        return cast(T, HERE.get(self.key))


class Values:
    """The values of a worker.  ``read``: gets what was pickled under a key; a worker sets it when it starts."""

    read: Callable[[str], bytes]

    def __init__(self) -> None:
        self._known: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str) -> Any:
        """The value of that key."""
        if key not in self._known:
            self._known[key] = pickle.loads(self.read(key))
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]


HERE = Values()


def key_of(data: bytes) -> str:
    """The key of what was pickled to ``data``: the same for the same."""
    return sha256(data).hexdigest()[:20]
