"""The design page names files that exist, and no walk passes a file twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_import_rules import LAYERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design.md").read_text()
BESIDE = ("targets/", "tests/", "deploy/", "recipes/", "benchmarks/", "profiles/")


def place(name: str) -> Path:
    return ROOT / name if name.startswith(BESIDE) else ROOT / "edgeprune" / name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+(?:/|\.py))`", PAGE))))
def test_every_file_that_the_page_names_exists(name: str) -> None:
    assert place(name).exists()


def test_no_walk_passes_a_file_twice() -> None:
    walks = PAGE.split("## Four walks through the code")[1].split("\n**")[1:]
    assert len(walks) == 4
    for walk in walks:
        files = re.findall(r"`([\w/]+\.py)`", walk)
        assert len(files) >= 5, walk
        assert len(set(files)) == len(files)


def test_the_page_lists_the_layers_of_the_import_rules() -> None:
    """All of those that there are, in their order: the rules also keep a place for rooms to come."""
    rows = re.findall(r"^\|\s+(\d+) \| (.+?)\s+\|", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(LAYERS) + 1))
    for (number, names), layer in zip(rows, LAYERS, strict=True):
        there = {room for room in layer if place(f"{room}.py").exists() or place(f"{room}/").is_dir()}
        assert sorted(re.findall(r"`(\w+)`", names)) == sorted(there), f"line {number} of the table of rooms"
