"""Values that no reader expects, for hypothesis: of any type, too large, too deep, of the right name and the wrong kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from edgeprune.errors import EdgepruneError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**4000, -(10**400), "NaN", "../x", "\x1b[2J"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
BROKEN = [b"[" * 3000 + b"]" * 3000, b"9" * 5000, b"{", b"\xef\xbb\xbf{}", b'"\\ud800', b"\xff\xfe", b"", b"null", b"[]", b"NaN"]
"""Files that are no JSON object."""


T = TypeVar("T")


def tried(call: Callable[[], T]) -> tuple[T | None, str]:
    """What a call returns, or the message of the error that it ends in; anything but one of the project's own errors is raised."""
    try:
        return call(), ""
    except EdgepruneError as error:
        return None, error.message


def failure(call: Callable[[], object]) -> str | None:
    """The message of the error that a call ends in, or None."""
    found, said = tried(lambda: (call(),))
    return said if found is None else None
