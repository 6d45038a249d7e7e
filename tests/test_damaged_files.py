"""Damaged and forged files, of every kind that edgeprune reads: an error that says so, or what is still true; never a fault of edgeprune.

Each of the ``READERS`` gets a good document, changed in one place or cut.  ``BROKEN`` and ``DAMAGES`` are tried on all of them; hypothesis
draws more.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anything import BROKEN, VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import READERS

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "of the last byte": lambda content: content[:-1],
    "no text": lambda content: b"\xff\xfe\x00" + content,
    "zeros": lambda content: b"\0" * len(content),
    "twice": lambda content: content + content,
    "a number": lambda content: b"5",
    "an empty object": lambda content: b"{}",
    "not a number": lambda content: re.sub(rb"\b[0-9]+(\.[0-9]+)?\b", b"NaN", content),
    "negative": lambda content: re.sub(rb"(?<=[ :\[])[0-9]", b"-1", content),
    "numbers as text": lambda content: re.sub(rb"(?<=[ :\[])[0-9]+(\.[0-9]+)?\b", b'"x"', content),
    "texts as numbers": lambda content: re.sub(rb': "[^"]*"', b": 7", content),
    "escapes": lambda content: content.replace(b"a", rb"\u001b[31m"),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any, remove: bool) -> Any:
    """A copy with what stands at ``path`` replaced, or removed."""
    if not path:
        return new
    made = copy.deepcopy(value)
    place = made
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return made


TOML = ("-1", "nan", "1e999", '"text"', "[]", "{}", "true", "1979-05-27", "\n[cpu]\n", "\nvalue = 1\n")
WITHOUT_JSON = ("a profile", "a bundle", "allowed signers", "a checkpoint of a fine-tuning")


@pytest.fixture
def folder(tmp_path: Path, client_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRUNE_HISTORY", "off")
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_what_is_good_is_read(name: str, folder: Path) -> None:
    made = READERS[name](folder)
    assert not made.refuses(made.content)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_errors_that_say_so(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = READERS[name](folder)
    for damaged in (*BROKEN, *(damage(made.content) for damage in DAMAGES.values())):
        made.refuses(damaged)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize("name", [name for name in READERS if name not in WITHOUT_JSON])
def test_no_change_of_a_document_ends_in_anything_but_a_clear_error(name: str, folder: Path) -> None:
    made = READERS[name](folder)
    lines = [json.loads(line) for line in made.content.splitlines()] if ".jsonl" in name else [json.loads(made.content)]

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def change(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(lines) - 1))
        path = data.draw(st.sampled_from(list(places(lines[number]))))
        document = changed(lines[number], path, data.draw(VALUES), data.draw(st.booleans()))
        written = [made.write(document if place == number else line) for place, line in enumerate(lines)]
        made.refuses("\n".join([*written, ""] if ".jsonl" in name else written).encode())

    change()


@pytest.mark.parametrize("name", WITHOUT_JSON)
def test_no_change_of_bytes_ends_in_anything_but_a_clear_error(name: str, folder: Path) -> None:
    made = READERS[name](folder)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, len(made.content)), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from(TOML).map(str.encode))
    def change(place: int, taken: int, put: bytes) -> None:
        made.refuses(made.content[:place] + put + made.content[place + taken :])

    change()
