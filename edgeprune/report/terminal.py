"""A console that shows texts as they are read, not as a terminal would obey them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from edgeprune.errors import printable


class PlainConsole(Console):
    """Results hold texts of devices, files and databases: in them what controls a terminal is spelt out, and ``:name:`` means nothing.

    ``markup``: whether ``[bold]`` and the like mean something; texts of others must then be escaped.
    """

    def __init__(self, *, stderr: bool = False, markup: bool = False) -> None:
        super().__init__(stderr=stderr, markup=markup, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """As in rich, where a plain text is laid out: printed by itself, or as a cell of a table."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As in rich: all that is printed becomes segments, whose styles are apart from their texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
